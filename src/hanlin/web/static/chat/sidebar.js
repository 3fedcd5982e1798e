// The list of conversations, and the panels that open over the chat on a narrow screen.
import { confirmChange, cutText, element, icon, makeHeaders, notify, readError, request, t, url } from "../frame/page.js";

const byId = (id) => document.getElementById(id);

/** The list; `onOpen(id)` opens a conversation, `onDeleted(id)` and `onRenamed(id, title)` are called after a change. */
export class Sidebar {
  constructor(onOpen, onDeleted, onRenamed) {
    Object.assign(this, { onOpen, onDeleted, onRenamed, current: null, loads: 0 });
    let timer = 0;
    byId("search").addEventListener("input", () => {
      clearTimeout(timer);
      timer = setTimeout(() => this.attempt(() => this.load()), 200);
    });
    for (const button of document.querySelectorAll("[data-opens]")) {
      button.addEventListener("click", () => this.toggle(button.dataset.opens));
    }
    for (const button of document.querySelectorAll("[data-closes]")) {
      button.addEventListener("click", () => this.toggle(button.dataset.closes, false));
    }
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && !document.querySelector("dialog[open]")) this.toggle("conversations", false);
    });
    byId("write-training-data").addEventListener("click", () => this.writeTrainingData());
    byId("save-jsonl").addEventListener("click", () => this.save(`/ui/chat/conversations.jsonl?conversation=${this.current}`, "jsonl"));
    byId("save-markdown").addEventListener("click", () => this.save(`/ui/chat/conversations/${this.current}.md`, "md"));
  }

  toggle(id, open = undefined) {
    const panel = byId(id);
    const isOpen = id === "settings" ? !panel.hidden : panel.classList.contains("open");
    const opens = open ?? !isOpen;
    if (opens === isOpen) return;
    if (id === "settings") panel.hidden = !opens;
    else panel.classList.toggle("open", opens);
    const opener = document.querySelector(`[data-opens="${id}"]`);
    opener.setAttribute("aria-expanded", String(opens));
    if (opens) panel.querySelector("button, input, textarea, select").focus();
    else opener.focus();
  }

  async load(current = this.current) {
    this.current = current;
    for (const id of ["save-jsonl", "save-markdown"]) byId(id).disabled = !current;
    const turn = ++this.loads;
    const text = byId("search").value.trim();
    const { conversations, limit } = await request("GET", `/ui/chat/conversations?text=${encodeURIComponent(text)}`);
    if (turn !== this.loads) return; // of a search that was gone on with since
    byId("conversation-list").replaceChildren(
      ...conversations.map((row) => this.makeRow(row)),
      ...(conversations.length < limit ? [] : [element("li", { class: "soft" }, t("These are the latest {limit}. A search finds the others.", { limit }))]),
      ...(conversations.length ? [] : [element("li", { class: "soft" }, text ? t("Nothing holds this text.") : t("None yet."))]),
    );
  }

  makeRow({ id, title }) {
    const isCurrent = id === this.current;
    const shown = title || t("Untitled");
    return element(
      "li",
      { class: isCurrent ? "current" : "" },
      element("button", { type: "button", class: "open", title: shown, "aria-current": isCurrent && "true", onclick: () => this.onOpen(id) }, shown),
      element("button", { type: "button", class: "plain", "aria-label": t("Rename {title}", { title: shown }), onclick: () => this.rename(id, title) }, icon("pencil")),
      element("button", { type: "button", class: "plain", "aria-label": t("Delete {title}", { title: shown }), onclick: () => this.remove(id, shown) }, icon("bin")),
    );
  }

  async rename(id, title) {
    const changed = cutText(prompt(t("Title of the conversation"), title)?.trim() ?? "", 200);
    if (!changed) return;
    await this.attempt(async () => {
      await request("PATCH", `/ui/chat/conversations/${id}`, { title: changed });
      this.onRenamed(id, changed);
      await this.load();
    });
  }

  async attempt(work) {
    try {
      await work();
    } catch (error) {
      notify(error.message, true);
    }
  }

  async remove(id, title) {
    if (!(await confirmChange(t("Delete “{title}” with all its branches?", { title }), t("Delete")))) return;
    await this.attempt(async () => {
      await request("DELETE", `/ui/chat/conversations/${id}`);
      this.onDeleted(id);
      await this.load();
    });
  }

  /** Save the conversation that is shown as a file, or say why there is nothing to save. */
  async save(path, ending) {
    await this.attempt(async () => {
      const title = document.querySelector("#conversation-list .current .open")?.textContent ?? "";
      const name = cutText(title.replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, ""), 60) || "conversation";
      const response = await fetch(url(path), { headers: makeHeaders({ Accept: "application/json" }) });
      if (!response.ok) throw await readError(response);
      const address = URL.createObjectURL(await response.blob());
      element("a", { href: address, download: `${name}.${ending}` }).click();
      setTimeout(() => URL.revokeObjectURL(address), 10_000);
    });
  }

  async writeTrainingData() {
    await this.attempt(async () => {
      const written = await request("POST", "/ui/chat/training_data");
      byId("training-data").replaceChildren(...Object.entries(written).map(([name, export_]) => describeExport(name, export_)));
    });
  }
}

/** What was written into a file of training data. */
function describeExport(name, { file, rows, left_out: leftOut }) {
  return element(
    "div",
    {},
    element("p", {}, element("code", {}, file), " ", t("{rows} rows", { rows }), " ", element("a", { href: url(`/ui/chat/${name}.jsonl`), download: `${name}.jsonl` }, t("Save a copy"))),
    leftOut.map((line) => element("p", { class: "soft" }, line)),
  );
}
