// A run: its curves while it goes on, stop and resume.

import { confirmChange, element, notify, request, t } from "../frame/page.js";
import { drawPictures, forgetPictures } from "./curves.js";
import { Zoom } from "./zoom.js";

const SECONDS = 3;
const { run, names } = JSON.parse(document.getElementById("run-data").textContent);
const path = `/ui/runs/view/${encodeURIComponent(run)}`;

class StageCurves {
  constructor(section) {
    this.section = section;
    this.stage = section.dataset.stage;
    this.holder = section.querySelector(".pictures");
    this.live = section.dataset.live === "yes";
    this.zoom = new Zoom(section, () => this.load());
  }

  async load() {
    const turn = (this.turn = (this.turn ?? 0) + 1);
    try {
      const drawn = await request("GET", `${path}/curves/${encodeURIComponent(this.stage)}?${this.zoom.query()}`);
      if (turn !== this.turn) return; // another part was asked for since
      this.zoom.show(drawn.step);
      this.live = drawn.state === "running";
      drawPictures(this.holder, drawn.pictures, names, (first, last) => this.zoom.set(first, last));
      this.showFigures(drawn.figures);
      this.showForgetting(drawn.forgetting);
    } catch (error) {
      if (turn !== this.turn) return;
      this.holder.replaceChildren(element("p", { class: "problem" }, error.message));
      this.holder.charts = new Map();
    }
  }

  showFigures(figures) {
    const rows = figures.map(({ name, value }) => element("div", {}, element("dt", {}, name), element("dd", {}, value)));
    this.section.querySelector(".figures").replaceChildren(...rows);
  }

  showForgetting(probes) {
    const box = this.section.querySelector(".forgetting");
    if (probes.length === 0) return box.replaceChildren();
    const rows = probes.map((probe) =>
      element(
        "tr",
        {},
        element("th", { scope: "row" }, probe.topic.replaceAll("_", " ")),
        element("td", {}, names[probe.measure] || probe.measure),
        element("td", {}, probe.before),
        element("td", { class: probe.worse ? "problem" : "good" }, `${probe.now} ${probe.worse ? "▼" : "▲"}`),
      ),
    );
    const head = [t("probe"), t("measured"), t("at the start"), t("now")].map((text) => element("th", { scope: "col" }, text));
    box.replaceChildren(
      element("h3", {}, t("What the model could do before")),
      element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": t("What the model could do before") }, element("table", {}, element("thead", {}, element("tr", {}, head)), element("tbody", {}, rows))),
    );
  }
}

const stages = [...document.querySelectorAll("section.curves")].map((section) => new StageCurves(section));
for (const stage of stages) stage.load();
setInterval(() => {
  if (document.hidden) return;
  for (const stage of stages) if (stage.live) stage.load();
}, SECONDS * 1000);

document.addEventListener("themechange", () => {
  for (const stage of stages) {
    forgetPictures(stage.holder);
    stage.load();
  }
});

document.getElementById("run-state").addEventListener("click", async (event) => {
  const button = event.target.closest("[data-action]");
  if (!button) return;
  const action = button.dataset.action;
  if (action === "stop" && !(await confirmChange(t("Stop this run? Training saves a checkpoint first, and goes on from there."), t("Stop")))) return;
  button.disabled = true;
  try {
    await request("POST", `${path}/${action}`);
    notify(action === "stop" ? t("The run is told to stop.") : t("The run goes on."));
  } catch (error) {
    notify(error.message, true);
    button.disabled = false;
  }
});

/** The states of the training stages, as the part of the page that htmx brings up to date has them. */
function readStates() {
  return JSON.parse(document.querySelector("[data-training]")?.dataset.training || "{}");
}

// A stage that begins or ends while the page is open is read once more; a new one has curves on a new page.
let before = readStates();
document.addEventListener("htmx:after:swap", () => {
  const now = readStates();
  for (const [name, state] of Object.entries(now)) {
    const stage = stages.find((known) => known.stage === name);
    if (!stage) return location.reload();
    if (before[name] !== state) stage.load();
  }
  before = now;
});
