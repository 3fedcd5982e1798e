// The settings of a conversation: models, system text, thinking, sampling with presets, tools.
import { element, notify, request, t } from "../frame/page.js";

const FIELDS = [
  { name: "temperature", label: t("temperature"), min: 0, max: 2, step: "any" },
  { name: "top_p", label: "top_p", min: 0, max: 1, step: "any" },
  { name: "top_k", label: "top_k", min: 0, max: 100000, step: 1 },
  { name: "min_p", label: "min_p", min: 0, max: 1, step: "any" },
  { name: "repetition_penalty", label: t("repetition penalty"), min: 0.01, max: 100, step: "any" },
  { name: "max_tokens", label: t("most tokens"), min: 1, max: 1000000, step: 1 },
  { name: "seed", label: t("seed"), min: 0, max: 4294967295, step: 1 },
];

const BUILT_IN = {
  "": { label: t("the model's own"), sampling: {} },
  ":exact": { label: t("exact (temperature 0)"), sampling: { temperature: 0 } },
  ":balanced": { label: t("balanced (0.7)"), sampling: { temperature: 0.7, top_p: 0.9 } },
  ":free": { label: t("free (1.0)"), sampling: { temperature: 1, top_p: 0.95 } },
};

const EXAMPLE_TOOLS = [
  {
    type: "function",
    function: {
      name: "get_weather",
      description: "The weather of a city",
      parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
    },
  },
];

const byId = (id) => document.getElementById(id);

/** The panel of settings; `onChange` is called after each change that is valid. */
export class Settings {
  constructor(onChange) {
    this.onChange = onChange;
    this.models = [];
    this.presets = {};
    this.sideBySide = false;
    this.inputs = Object.fromEntries(
      FIELDS.map(({ name, label, ...limits }) => {
        const input = element("input", { type: "number", id: `sampling-${name}`, ...limits, inputmode: "decimal" });
        byId("sampling").append(element("label", {}, label, input));
        input.addEventListener("change", () => this.changeSampling());
        return [name, input];
      }),
    );
    for (const id of ["model", "second-model", "system", "thinking", "tools"]) {
      byId(id).addEventListener("change", () => this.change());
    }
    byId("preset").addEventListener("change", () => this.choosePreset(byId("preset").value));
    byId("side-by-side").addEventListener("click", () => {
      this.sideBySide = !this.sideBySide;
      // a model beside itself is seldom meant; who wants it chooses it after this
      const other = this.models.find(({ name }) => name !== byId("model").value)?.name;
      if (this.sideBySide && other && byId("second-model").value === byId("model").value) byId("second-model").value = other;
      this.change();
    });
    byId("save-preset").addEventListener("click", () => this.savePreset());
    byId("delete-preset").addEventListener("click", () => this.deletePreset());
    byId("example-tools").addEventListener("click", () => {
      byId("tools").value = JSON.stringify(EXAMPLE_TOOLS, null, 2);
      this.change();
    });
  }

  async loadPresets() {
    this.presets = await request("GET", "/ui/chat/presets");
    this.showPresets(byId("preset").value);
  }

  showPresets(chosen) {
    const options = [
      ...Object.entries(BUILT_IN).map(([value, { label }]) => element("option", { value }, label)),
      ...Object.keys(this.presets).map((name) => element("option", { value: `=${name}` }, name)),
      element("option", { value: ":own" }, t("own values")),
    ];
    byId("preset").replaceChildren(...options);
    byId("preset").value = options.some((option) => option.value === chosen) ? chosen : ":own";
    byId("delete-preset").hidden = !byId("preset").value.startsWith("=");
  }

  choosePreset(value) {
    const sampling = value.startsWith("=") ? this.presets[value.slice(1)] : BUILT_IN[value]?.sampling;
    if (sampling) this.fillSampling(sampling);
    this.showPresets(value);
    this.change();
  }

  fillSampling(sampling) {
    for (const [name, input] of Object.entries(this.inputs)) input.value = sampling[name] ?? "";
  }

  changeSampling() {
    this.showPresets(":own");
    this.change();
  }

  async savePreset() {
    const name = prompt(t("Name of the preset"))?.trim();
    if (!name) return;
    try {
      await request("PUT", "/ui/chat/presets", { name, sampling: this.readSampling() });
      this.presets = await request("GET", "/ui/chat/presets");
      this.showPresets(`=${name}`);
      this.change();
    } catch (error) {
      notify(error.message, true);
    }
  }

  async deletePreset() {
    const name = byId("preset").value.slice(1);
    try {
      await request("DELETE", `/ui/chat/presets/${encodeURIComponent(name)}`);
    } catch (error) {
      return notify(error.message, true);
    }
    delete this.presets[name];
    this.showPresets(":own");
    this.change();
  }

  /** The models that the server has: names for both choices, and whether thinking can be switched. */
  setModels(models) {
    const chosen = [byId("model").value, byId("second-model").value];
    this.models = models;
    for (const [index, id] of ["model", "second-model"].entries()) {
      const names = models.map((model) => model.name);
      byId(id).replaceChildren(...names.map((name) => element("option", { value: name }, name)));
      byId(id).value = names.includes(chosen[index]) ? chosen[index] : (names[index] ?? names[0] ?? "");
    }
    this.showModels();
  }

  showModels() {
    byId("side-by-side").setAttribute("aria-pressed", String(this.sideBySide));
    byId("side-by-side").disabled = this.models.length < 2 && !this.sideBySide;
    byId("second-model-label").hidden = !this.sideBySide;
    byId("model").disabled = this.models.length === 0;
    const canSwitch = this.chosenModels().some((name) => this.canSwitchThinking(name));
    byId("thinking").disabled = !canSwitch;
    byId("thinking-label").title = canSwitch ? "" : t("This model's chat template has no switch for thinking.");
  }

  canSwitchThinking(name) {
    return this.models.find((model) => model.name === name)?.can_switch_thinking ?? false;
  }

  /** The models that a question is asked of: one, or two side by side. */
  chosenModels() {
    const names = this.sideBySide ? [byId("model").value, byId("second-model").value] : [byId("model").value];
    return names.filter(Boolean);
  }

  change() {
    this.showModels();
    const settings = this.read();
    if (settings) this.onChange(settings);
  }

  readSampling() {
    const sampling = {};
    for (const [name, input] of Object.entries(this.inputs)) if (input.value !== "") sampling[name] = Number(input.value);
    return sampling;
  }

  /** The settings as they are stored; null, and said in the panel, if a value is none. */
  read() {
    const wrong = FIELDS.find(({ name }) => !this.inputs[name].checkValidity());
    byId("sampling-problem").textContent = wrong ? t("{name}: from {min} to {max}", { name: wrong.label, min: wrong.min, max: wrong.max }) : "";
    const tools = this.readTools();
    if (wrong || tools === null) return null;
    return {
      model: byId("model").value,
      second_model: byId("second-model").value,
      side_by_side: this.sideBySide,
      system: byId("system").value,
      thinking: byId("thinking").value,
      preset: byId("preset").value,
      sampling: this.readSampling(),
      tools,
    };
  }

  /** The tools in OpenAI's form; null, and said in the panel, if they are no list of functions. */
  readTools() {
    const problem = byId("tools-problem");
    problem.textContent = "";
    const text = byId("tools").value.trim();
    if (!text) return [];
    let tools;
    try {
      tools = JSON.parse(text);
    } catch (error) {
      problem.textContent = t("This is not JSON: {problem}", { problem: error.message });
      return null;
    }
    const list = (Array.isArray(tools) ? tools : [tools]).map((tool) => (tool?.function ? tool : { type: "function", function: tool }));
    const bad = list.findIndex((tool) => typeof tool.function?.name !== "string" || !tool.function.name);
    if (bad >= 0) {
      problem.textContent = t("Tool {number} has no name.", { number: bad + 1 });
      return null;
    }
    return list;
  }

  /** Choose the models of a conversation, as far as they are there; whatever else was typed stays. */
  choose(settings) {
    const names = this.models.map((model) => model.name);
    if (names.includes(settings.model)) byId("model").value = settings.model;
    if (names.includes(settings.second_model)) byId("second-model").value = settings.second_model;
    this.showModels();
  }

  /** Show the settings of a conversation. */
  show(settings) {
    this.choose(settings);
    this.sideBySide = Boolean(settings.side_by_side);
    byId("system").value = settings.system ?? "";
    byId("thinking").value = settings.thinking ?? "";
    byId("tools").value = settings.tools?.length ? JSON.stringify(settings.tools, null, 2) : "";
    this.fillSampling(settings.sampling ?? {});
    this.showPresets(settings.preset ?? "");
    this.showModels();
    this.read();
  }
}
