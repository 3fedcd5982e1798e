// Runs beside each other: the curves of a stage on one axis.

import { element, request } from "../frame/page.js";
import { drawPictures, forgetPictures } from "./curves.js";

const { runs, names } = JSON.parse(document.getElementById("compare-data").textContent);
const sections = [...document.querySelectorAll("section.curves")];

async function load(section) {
  const holder = section.querySelector(".pictures");
  const query = new URLSearchParams([["stage", section.dataset.stage], ...runs.map((run) => ["run", run])]);
  try {
    const { pictures } = await request("GET", `/ui/runs/compare/curves?${query}`);
    drawPictures(holder, pictures, names, () => {});
  } catch (error) {
    holder.replaceChildren(element("p", { class: "problem" }, error.message));
  }
}

for (const section of sections) load(section);
document.addEventListener("themechange", () => {
  for (const section of sections) {
    forgetPictures(section.querySelector(".pictures"));
    load(section);
  }
});
