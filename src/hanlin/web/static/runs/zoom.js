// The part of the curves that is shown: chosen by dragging, by buttons or by keys, and the whole again.

import { t } from "../frame/page.js";

const STEP = 0.25;
const KEYS = { "+": "in", "=": "in", "-": "out", ArrowLeft: "back", ArrowRight: "on", 0: "whole", Escape: "whole" };

/** The part that a section of curves shows; `onChange` is called after each choice. */
export class Zoom {
  /** @param {Element} section It holds the buttons (`data-zoom`), a text for the part (`.part`) and the pictures. */
  constructor(section, onChange) {
    Object.assign(this, { first: null, last: null, step: 0, onChange });
    this.text = section.querySelector(".part");
    for (const button of section.querySelectorAll("[data-zoom]")) {
      button.addEventListener("click", () => this.act(button.dataset.zoom));
    }
    section.querySelector(".pictures").addEventListener("keydown", (event) => {
      const action = KEYS[event.key];
      if (!action || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      this.act(action);
    });
  }

  get isWhole() {
    return this.first === null && this.last === null;
  }

  act(action) {
    const first = this.first ?? 0;
    const last = this.last ?? this.step;
    const width = last - first;
    if (action === "whole") return this.set(null, null);
    if (action === "recent") return this.set(Math.floor(this.step * 0.9), null);
    if (action === "in") return this.set(first + Math.floor(width * STEP), last - Math.floor(width * STEP));
    if (action === "out") return this.set(first - Math.ceil(width / 2), last + Math.ceil(width / 2));
    const shift = Math.max(1, Math.round(width * STEP)) * (action === "back" ? -1 : 1);
    const moved = Math.min(Math.max(first + shift, 0), Math.max(0, this.step - width));
    return this.set(moved, moved + width);
  }

  /** Show a part; what reaches beyond both ends is the whole. */
  set(first, last) {
    const isWhole = (first === null || first <= 0) && (last === null || last >= this.step);
    this.first = isWhole || first === null ? null : Math.max(0, first);
    this.last = isWhole || last === null ? null : Math.max(last, (this.first ?? 0) + 1);
    this.onChange();
  }

  /** The part as parameters of a request. */
  query(more = []) {
    const query = new URLSearchParams(more);
    if (this.first !== null) query.set("first", this.first);
    if (this.last !== null) query.set("last", this.last);
    return query;
  }

  /** Say which part is shown, of so many steps. */
  show(step) {
    this.step = step;
    const say = (value) => value.toLocaleString("en");
    this.text.textContent = this.isWhole ? "" : t("steps {first} to {last}", { first: say(this.first ?? 0), last: say(Math.min(this.last ?? step, step)) });
  }
}
