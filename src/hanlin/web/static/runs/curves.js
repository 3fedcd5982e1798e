// Curves: each picture is an uPlot chart whose points the server has reduced.

import { element, t } from "../frame/page.js";

const COLORS = {
  light: ["#8f2d2d", "#1f6fb2", "#13795b", "#8a5a00", "#6b3fa0", "#00707a", "#a03a72", "#4d5a66"],
  dark: ["#e8a49c", "#7db8ec", "#5fd0a3", "#e0b25a", "#b99aed", "#5cc9d4", "#ef9cc8", "#b3bfca"],
};
const HEIGHT = 210;

function isDark() {
  const theme = document.documentElement.dataset.theme;
  return theme ? theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

function color(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

/** The colors of axes; a color of the frame is a pair, of which the browser resolves one. */
function axisColors() {
  const probe = element("span", { class: "soft" });
  document.body.append(probe);
  const ink = getComputedStyle(probe).color;
  probe.remove();
  return { ink, grid: isDark() ? "rgba(160,175,190,.16)" : "rgba(60,75,90,.13)" };
}

function format(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (size >= 1e6 || (size > 0 && size < 1e-3)) return value.toExponential(1);
  return size >= 1000 ? Math.round(value).toLocaleString("en") : String(Number(value.toPrecision(4)));
}

/**
 * Draw the pictures of a stage into an element, or bring them up to date.
 *
 * @param {Element} holder What they are in.
 * @param {Array} pictures As the server gives them: name, and curves with steps and values.
 * @param {Object} names What pictures and curves are called.
 * @param {Function} onZoom Called with the first and last step of a part that the reader chose, or with nulls.
 */
export function drawPictures(holder, pictures, names, onZoom) {
  const charts = (holder.charts ??= new Map());
  const shown = pictures.filter((picture) => picture.curves.some((curve) => curve.steps.length > 0));
  for (const [name, chart] of charts) {
    if (!shown.some((picture) => picture.name === name && chart.curves === picture.curves.map((curve) => curve.name).join())) {
      chart.plot.destroy();
      chart.box.remove();
      charts.delete(name);
    }
  }
  if (charts.size === 0) holder.replaceChildren();
  const broken = describeBroken(pictures, names);
  if (shown.length === 0 && broken.length === 0) holder.replaceChildren(element("p", { class: "soft" }, t("No step has been written yet.")));
  holder.querySelector(":scope > .broken")?.remove();
  if (broken.length) holder.prepend(element("div", { class: "broken problem" }, broken.map((line) => element("p", {}, line))));
  for (const picture of shown) {
    const data = uPlot.join(picture.curves.map((curve) => [curve.steps, curve.values]));
    const known = charts.get(picture.name);
    if (known) {
      known.plot.setData(data);
    } else {
      charts.set(picture.name, makeChart(holder, picture, data, names, onZoom));
    }
  }
}

/** A line for each curve that was not a finite number somewhere: a picture cannot show that, and looks as if all were well. */
function describeBroken(pictures, names) {
  return pictures.flatMap((picture) => {
    const title = titleOf(picture.name, names);
    return picture.curves
      .filter((curve) => curve.broken.length > 0)
      .map((curve) => {
        const name = picture.curves.length > 1 ? `${title}, ${names[curve.name] || curve.name.replaceAll("_", " ")}` : title;
        return t("{name}: not a finite number at step {steps}", { name, steps: curve.broken.join(", ") });
      });
  });
}

/** What a picture is called; of a single probe, as a comparison has it, the name of all probes and its topic. */
function titleOf(name, names) {
  const probe = /^probe_(.+)_(loss|accuracy)$/.exec(name);
  const kind = probe && names[`probe_${probe[2]}`];
  return names[name] || (kind ? `${kind} (${probe[1].replaceAll("_", " ")})` : name.replaceAll("_", " "));
}

function makeChart(holder, picture, data, names, onZoom) {
  const title = titleOf(picture.name, names);
  const plotBox = element("div");
  const box = element("div", { class: "picture" }, element("h3", {}, title), plotBox);
  holder.append(box);
  const { ink, grid } = axisColors();
  const colors = COLORS[isDark() ? "dark" : "light"];
  const axis = { stroke: ink, grid: { stroke: grid, width: 1 }, ticks: { stroke: grid, width: 1 }, font: "12px system-ui, sans-serif" };
  const width = () => Math.max(220, holder.clientWidth ? Math.min(box.clientWidth, holder.clientWidth) : 400);
  const options = {
    width: width(),
    height: HEIGHT,
    legend: { show: true, live: true },
    cursor: { drag: { x: true, y: false, setScale: false } },
    scales: { x: { time: false } },
    axes: [
      { ...axis, values: (_, ticks) => ticks.map((tick) => format(tick)) },
      { ...axis, size: 70, values: (_, ticks) => ticks.map((tick) => format(tick)) },
    ],
    series: [
      { label: t("step"), value: (_, value) => (value === null ? "–" : value.toLocaleString("en")) },
      ...picture.curves.map((curve, index) => ({
        label: names[curve.name] || curve.name.replace(/^probe_/, "").replaceAll("_", " "),
        stroke: colors[index % colors.length],
        width: 1.5,
        spanGaps: true,
        dash: index >= colors.length ? [6, 4] : undefined,
        points: { show: curve.steps.length < 30 },
        value: (_, value) => format(value),
      })),
    ],
    hooks: {
      setSelect: [
        (plot) => {
          if (plot.select.width < 6) return;
          const first = Math.floor(plot.posToVal(plot.select.left, "x"));
          const last = Math.ceil(plot.posToVal(plot.select.left + plot.select.width, "x"));
          plot.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
          onZoom(first, last);
        },
      ],
    },
  };
  const plot = new uPlot(options, data, plotBox);
  const summary = picture.curves.map((curve) => `${names[curve.name] || curve.name}: ${format(curve.last)}`).join("; ");
  plotBox.setAttribute("role", "img");
  plotBox.setAttribute("aria-label", `${title}. ${summary}`);
  plot.over.addEventListener("dblclick", () => onZoom(null, null));
  new ResizeObserver(() => plot.setSize({ width: width(), height: HEIGHT })).observe(box);
  return { plot, box, curves: picture.curves.map((curve) => curve.name).join() };
}

/** Draw all pictures anew, as after a change of the theme, whose colors are in them. */
export function forgetPictures(holder) {
  for (const chart of (holder.charts ?? new Map()).values()) {
    chart.plot.destroy();
    chart.box.remove();
  }
  holder.charts = new Map();
}
