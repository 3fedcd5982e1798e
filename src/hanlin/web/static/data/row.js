// One row: fix, drop or annotate it.

import { notify, request, t } from "../frame/page.js";

const { name, part, number, id } = JSON.parse(document.getElementById("row-data").textContent);
const path = `/ui/data/view/${encodeURIComponent(name)}`;

async function send(route, body) {
  try {
    await request("POST", `${path}/${route}`, body);
    location.reload();
  } catch (error) {
    notify(error.message, true);
  }
}

document.getElementById("correct-form")?.addEventListener("submit", (event) => {
  event.preventDefault();
  const form = event.currentTarget;
  const action = event.submitter?.dataset.action || "note";
  const body = { part, number, id, action, note: form.elements.note.value };
  if (action === "fix") {
    // sent as it was typed: a number of 18 digits that a script has read is another one
    body.content = form.elements.content.value;
    let content;
    try {
      content = JSON.parse(body.content);
    } catch (error) {
      form.querySelector("details").open = true;
      form.elements.content.focus();
      return notify(t("The new content is not JSON: {problem}", { problem: error.message }), true);
    }
    if (typeof content !== "object" || content === null || Array.isArray(content)) return notify(t("The new content is not a JSON object."), true);
  }
  send("correct", body);
});

document.getElementById("undo")?.addEventListener("click", (event) => send("undo", { sha256: event.currentTarget.dataset.hash }));
