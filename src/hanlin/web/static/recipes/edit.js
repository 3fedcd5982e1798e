// A recipe by form: every change goes to the server, which writes it into the YAML and says what the recipe comes to.

import { confirmChange, element, notify, request, t, url } from "../frame/page.js";

const PAUSE_MS = 350;
const given = JSON.parse(document.getElementById("recipe-data").textContent);
const $ = (id) => document.getElementById(id);
const yaml = $("yaml");
const opened = new Set();
let asked = 0;
let timer = null;
/** The checks so far: each is sent when the one before it was answered, since it changes the text which that gave. */
let checks = Promise.resolve();
/** Why the last check refused the recipe; null if it did not. */
let refusal = null;
let isStarting = false;

yaml.value = given.text;

/** Ask the server what the recipe comes to, after a change of the form if there is one, and after all earlier ones. */
function check(change = null, fromForm = false) {
  const number = ++asked;
  yaml.readOnly ||= change !== null; // what is typed while the server changes the text would be lost
  checks = checks.catch(() => {}).then(() => ask(number, change, fromForm)).finally(() => (yaml.readOnly &&= number < asked));
  return checks;
}

/** Wait until every change of the form is in the text. Throws if the recipe, or a change of it, is refused. */
async function settle() {
  if (timer !== null) check();
  await checks;
  if (!refusal) return;
  const error = new Error(say(refusal));
  if (refusal.isUnanswered) await check(); // a change may be lost: the form shows then what the text has
  throw error;
}

async function ask(number, change, fromForm) {
  if (change === null && number < asked) return; // the next one sees the same text
  clearTimeout(timer);
  timer = null;
  const body = { text: yaml.value, name: given.name, memory: $("memory").value, device: $("device").value, ...(change ? { change } : {}) };
  let answer;
  try {
    answer = await request("POST", "/ui/recipes/check", body);
  } catch (error) {
    refusal = { what: error.message, isUnanswered: true };
    return showProblem(refusal);
  }
  if (change) yaml.value = answer.text;
  refusal = answer.problem ?? null;
  if (!fromForm || !answer.problem) drawForm(answer.form);
  if (answer.problem) showProblem(answer.problem);
  else showPlan(answer.plan, answer.plan_problem);
  $("start").disabled = isStarting || Boolean(answer.problem);
  $("save").disabled = Boolean(answer.problem);
}

function say(problem) {
  const where = problem.where ? `${problem.where}: ` : "";
  const hint = problem.hint ? ` (${problem.hint})` : "";
  return `${where}${problem.what}${hint}`;
}

function showProblem(problem) {
  $("verdict").className = "grow problem";
  $("verdict").textContent = say(problem);
  $("estimates").replaceChildren();
  $("plan").replaceChildren();
}

function showPlan(plan, problem) {
  const verdict = $("verdict");
  if (problem) {
    verdict.className = "grow";
    verdict.replaceChildren(t("The recipe is valid."), " ", element("span", { class: "problem" }, t("It cannot be planned yet: {problem}", { problem: say(problem) })));
    $("estimates").replaceChildren();
    $("plan").replaceChildren();
    return;
  }
  verdict.className = `grow ${plan.fits === false ? "problem" : plan.fits ? "good" : ""}`;
  if (plan.trains === 0) verdict.textContent = t("The recipe is valid; no training is left to be estimated.");
  else if (plan.fits === null) verdict.textContent = t("The recipe is valid; whether its training fits is not known for every stage.");
  else verdict.textContent = plan.fits ? t("✓ The recipe is valid, and its training fits.") : t("✗ The recipe is valid, but its training does not fit.");
  if (plan.time) verdict.append(" ", t("Training takes about {time} here.", { time: plan.time }));
  $("estimates").replaceChildren(...plan.estimates.map(drawEstimate), ...(plan.can_measure ? [makeMeasure()] : []));
  const rows = plan.steps.map((step) =>
    element("tr", {}, element("td", {}, element("b", {}, step.stage), " ", element("span", { class: "soft small" }, step.kind)), element("td", {}, element("span", { class: `state ${step.class}` }, `${step.sign} ${step.state}`)), element("td", { class: "small soft" }, step.why)),
  );
  const head = [t("stage"), t("state"), t("why")].map((text) => element("th", { scope: "col" }, text));
  $("plan").replaceChildren(element("table", { class: "wide" }, element("thead", {}, element("tr", {}, head)), element("tbody", {}, rows)));
}

function drawEstimate(estimate) {
  if (estimate.unknown) return element("div", { class: "estimate soft" }, `${estimate.stage}: ${estimate.unknown}`);
  const limit = estimate.limit === null ? "" : ` / ${estimate.limit}`;
  const head = element("span", { class: estimate.fits ? "" : "problem" }, element("b", {}, estimate.stage), ` ${estimate.peak}${limit} GB${estimate.time ? ` · ${estimate.time}` : ""}`);
  const list = estimate.shown.map(([name, value]) => element("div", {}, `${name}: ${value}`));
  const parts = Object.entries(estimate.memory).map(([name, bytes]) => element("div", { class: "soft" }, `${name}: ${(bytes / 1e9).toPrecision(3)} GB`));
  const advice = estimate.fits ? [] : [element("p", {}, t("To make it fit, one after the other:")), ...estimate.suggestions.map((change) => element("div", {}, element("code", {}, change.setting), ` → ${change.peak} GB${change.another ? ` ${t("(another result)")}` : ""}`))];
  return element("div", { class: "estimate" }, element("details", {}, element("summary", {}, head), list, parts, advice));
}

/** A button that measures how fast this machine trains, so that the plan tells hours. */
function makeMeasure() {
  const button = element("button", { type: "button", class: "plain", onclick: measure }, t("Measure this machine's speed"));
  return element("div", { class: "estimate" }, button);
  async function measure() {
    button.disabled = true;
    button.textContent = t("measuring, some seconds for each stage …");
    try {
      await settle();
      await request("POST", "/ui/recipes/measure", { text: yaml.value, name: given.name });
    } catch (error) {
      notify(error.message, true);
    }
    check(null, true);
  }
}

function drawForm(stages) {
  const editing = document.activeElement?.closest("#form input[data-path]");
  if (editing && editing.value !== (editing.dataset.shown ?? "")) return; // what is being typed is not sent yet; it is drawn then
  const focused = document.activeElement?.closest("#form [data-path]")?.dataset.path;
  const boxes = stages.map((stage) => {
    const fields = stage.fields.map((field) => [field, drawField(stage.name, field)]);
    const first = fields.filter(([field]) => field.often || field.value !== null).map(([, box]) => box);
    const rest = fields.filter(([field]) => !field.often && field.value === null).map(([, box]) => box);
    const more = `${stage.name}/more`;
    const box = element(
      "details",
      { class: "card stage", open: opened.has(stage.name), ontoggle: (event) => remember(stage.name, event.target, box) },
      element("summary", {}, stage.name, " ", element("span", { class: "soft small" }, `${stage.kind} · ${stage.summary}`)),
      element("div", { class: "fields" }, first),
      rest.length ? element("details", { open: opened.has(more), ontoggle: (event) => remember(more, event.target) }, element("summary", { class: "small" }, t("{count} more settings", { count: rest.length })), element("div", { class: "fields" }, rest)) : null,
      element("p", { class: "row end" }, element("button", { type: "button", class: "plain", onclick: () => removeStage(stage.name) }, t("Remove this stage"))),
    );
    return box;
  });
  $("form").replaceChildren(...boxes);
  if (focused) document.querySelector(`#form [data-path="${CSS.escape(focused)}"]`)?.focus();
}

function remember(name, box) {
  if (box.open) opened.add(name);
  else opened.delete(name);
}

function drawField(stage, field) {
  const path = ["stages", stage, ...field.name.split(".")];
  const id = `field-${path.join("-")}`;
  const change = (value) => check({ path, value: value === "" && field.type !== "text" ? null : value }, true);
  const common = { id, "data-path": path.join("."), "data-shown": field.value, "aria-describedby": `${id}-about`, required: field.needed };
  let input;
  if (field.type === "choice") {
    const options = [element("option", { value: "" }, field.needed ? "" : t("default: {value}", { value: field.default || "–" }))];
    const values = field.value !== null && !field.choices.includes(field.value) ? [...field.choices, field.value] : field.choices;
    options.push(...values.map((value) => element("option", { value, selected: value === field.value }, value)));
    input = element("select", { ...common, onchange: (event) => change(event.target.value) }, options);
  } else {
    const list = field.reads.length ? `${id}-list` : null;
    input = element("input", { ...common, value: field.value ?? "", placeholder: field.default, list, spellcheck: "false", autocomplete: "off", inputmode: field.type === "number" ? "decimal" : null, onchange: (event) => change(event.target.value) });
    if (list) input = element("div", {}, input, element("datalist", { id: list }, field.reads.map((name) => element("option", { value: name }))));
  }
  const limits = [field.least, field.most].filter(Boolean).join(", ");
  const reset = field.value !== null && !field.needed ? element("button", { type: "button", class: "plain", title: t("Back to the default"), "aria-label": t("{name}: back to the default", { name: field.name }), onclick: () => check({ path, value: null }, true) }, "↺") : null;
  return element(
    "div",
    { class: `field${field.value !== null ? " set" : ""}` },
    element("label", { for: id }, field.name),
    element("div", { class: "with-button" }, input, reset),
    element("div", { class: "about", id: `${id}-about` }, field.description, limits ? ` · ${limits}` : ""),
  );
}

async function removeStage(name) {
  if (await confirmChange(t("Remove the stage {name} from the recipe?", { name }), t("Remove"))) check({ path: ["stages", name], value: null });
}

$("stage-add").addEventListener("click", () => {
  const name = $("stage-name").value.trim();
  if (!name) return $("stage-name").focus();
  opened.add(name);
  check({ path: ["stages", name], value: `{ kind: ${$("stage-kind").value} }` });
  $("stage-name").value = "";
});

yaml.addEventListener("input", () => {
  clearTimeout(timer);
  timer = setTimeout(() => check(), PAUSE_MS);
});
for (const id of ["memory", "device"]) $(id).addEventListener("change", () => check(null, true));

async function save() {
  await settle();
  const name = $("save-name").value.trim();
  const body = { name, text: yaml.value, replace: given.source === "own" && name === given.name };
  try {
    return await request("POST", "/ui/recipes/save", body);
  } catch (error) {
    if (error.code !== "exists" || !(await confirmChange(error.message, t("Replace it")))) throw error;
    return request("POST", "/ui/recipes/save", { ...body, replace: true });
  }
}

$("save").addEventListener("click", async () => {
  try {
    const { path } = await save();
    notify(t("Saved: {path}", { path }));
  } catch (error) {
    notify(error.message, true);
  }
});

$("start").addEventListener("click", async () => {
  isStarting = true;
  $("start").disabled = true;
  try {
    const { name } = await save();
    const { run } = await request("POST", "/ui/recipes/start", { name });
    location.assign(url(`/ui/runs/view/${encodeURIComponent(run)}`));
  } catch (error) {
    notify(error.message, true);
    isStarting = false;
    $("start").disabled = refusal !== null;
  }
});

check();
