// Runs beside each other: the curves of a stage on one axis.

import { element, request } from "../frame/page.js";
import { drawPictures, forgetPictures } from "./curves.js";
import { Zoom } from "./zoom.js";

const { runs, names } = JSON.parse(document.getElementById("compare-data").textContent);

class ComparedCurves {
  constructor(section) {
    this.stage = section.dataset.stage;
    this.holder = section.querySelector(".pictures");
    this.zoom = new Zoom(section, () => this.load());
  }

  async load() {
    const turn = (this.turn = (this.turn ?? 0) + 1);
    const query = this.zoom.query([["stage", this.stage], ...runs.map((run) => ["run", run])]);
    try {
      const { step, pictures } = await request("GET", `/ui/runs/compare/curves?${query}`);
      if (turn !== this.turn) return; // another part was asked for since
      this.zoom.show(step);
      drawPictures(this.holder, pictures, names, (first, last) => this.zoom.set(first, last));
    } catch (error) {
      if (turn !== this.turn) return;
      this.holder.replaceChildren(element("p", { class: "problem" }, error.message));
      this.holder.charts = new Map();
    }
  }
}

const stages = [...document.querySelectorAll("section.curves")].map((section) => new ComparedCurves(section));
for (const stage of stages) stage.load();
document.addEventListener("themechange", () => {
  for (const stage of stages) {
    forgetPictures(stage.holder);
    stage.load();
  }
});
