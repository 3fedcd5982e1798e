// One turn as elements: what was said, what was thought, calls of tools, and what can be done with it.
import { element, icon, t } from "../frame/page.js";
import { describeStats } from "./answer.js";
import { copyText, showMarkdown } from "./markdown.js";
import { alternativesTo, pairOf } from "./tree.js";

const STATES = {
  writing: t("unfinished"),
  cut: t("cut at the limit of tokens"),
  stopped: t("stopped"),
  failed: t("failed"),
};

/** The element of a message. `actions` has a function for each thing that a reader can do with it. */
export function makeTurn(message, messages, actions, isInPair = false) {
  if (message.role === "user") return makeQuestion(message, messages, actions);
  if (message.role === "tool") return makeToolResult(message);
  return makeAnswer(message, messages, actions, isInPair);
}

function makeSwitch(message, messages, actions) {
  const others = alternativesTo(messages, message);
  const pair = message.request?.pair;
  const index = others.findIndex((other) => other.id === message.id || (pair && other.request?.pair === pair));
  if (others.length < 2) return null;
  const go = (step) => actions.show(others[index + step].id);
  return element(
    "span",
    { class: "switch" },
    element("button", { type: "button", class: "plain", disabled: index === 0, "aria-label": t("Branch before"), onclick: () => go(-1) }, "‹"),
    element("span", {}, `${index + 1}/${others.length}`),
    element("button", { type: "button", class: "plain", disabled: index === others.length - 1, "aria-label": t("Next branch"), onclick: () => go(1) }, "›"),
  );
}

function makeCopy(text) {
  const button = element("button", { type: "button", class: "plain", onclick: () => copyText(text(), button) }, t("Copy"));
  return button;
}

function makeQuestion(message, messages, actions) {
  const turn = element("article", { class: "turn question", "data-id": message.id, "aria-label": t("Question") });
  const show = () =>
    turn.replaceChildren(
      element("p", { class: "who" }, element("strong", {}, t("You"))),
      element("p", { class: "text" }, message.content),
      element(
        "div",
        { class: "actions" },
        makeSwitch(message, messages, actions),
        makeCopy(() => message.content),
        element("button", { type: "button", class: "plain", onclick: edit }, t("Edit")),
      ),
    );
  const edit = () => {
    const input = element("textarea", { rows: 4, "aria-label": t("Your message"), value: message.content });
    turn.replaceChildren(
      element(
        "form",
        { class: "edit", onsubmit: (event) => { event.preventDefault(); if (input.value.trim()) actions.ask(message, input.value); } },
        input,
        element(
          "div",
          { class: "row" },
          element("button", { class: "primary" }, t("Ask in a new branch")),
          element("button", { type: "button", onclick: show }, t("Cancel")),
        ),
      ),
    );
    input.focus();
  };
  show();
  return turn;
}

function makeToolResult(message) {
  return element(
    "article",
    { class: "turn tool", "aria-label": t("Result of a tool") },
    element("p", { class: "who" }, t("Result of"), element("code", {}, message.name || message.tool_call_id)),
    element("p", { class: "text" }, message.content),
  );
}

function makeThought(text, isWriting) {
  return element("details", { class: "thought", open: isWriting }, element("summary", {}, t("Thoughts")), element("div", { class: "text" }, text));
}

function makeCall(call) {
  let shown = call.function.arguments;
  try {
    shown = JSON.stringify(JSON.parse(shown || "{}"), null, 2);
  } catch {
    // arguments that are no JSON are shown as they are
  }
  return element("div", { class: "call" }, element("p", { class: "who" }, t("calls"), element("code", {}, call.function.name)), element("pre", { tabindex: 0 }, element("code", {}, shown)));
}

/** Fill the part of an answer that grows while it is written. */
export function fillBody(turn, answer, isWriting) {
  const body = turn.querySelector(".body");
  const thought = turn.querySelector(".thought");
  if (answer.reasoning && thought) thought.querySelector(".text").textContent = answer.reasoning;
  else if (answer.reasoning) body.before(makeThought(answer.reasoning, isWriting));
  if (thought && !isWriting) thought.open = false;
  else if (thought && answer.content) thought.open = false;
  turn.classList.toggle("writing", isWriting);
  const waiting = turn.querySelector(".waiting");
  waiting.hidden = !isWriting || !answer.waiting;
  if (!waiting.hidden) waiting.textContent = t("The model answers others first: place {place} in the queue", { place: answer.waiting });
  showMarkdown(body, answer.content, !isWriting);
  turn.querySelector(".calls").replaceChildren(...answer.tool_calls.filter(Boolean).map(makeCall));
}

function makeAnswer(message, messages, actions, isInPair) {
  const isRunning = actions.isRunning(message.id);
  const state = message.state === "done" || isRunning ? null : STATES[message.state];
  const turn = element(
    "article",
    { class: "turn answer", "data-id": message.id, "aria-label": t("Answer") },
    element("p", { class: "who" }, element("strong", {}, message.model || t("Answer")), state && element("span", { class: "problem" }, state)),
    element("p", { class: "waiting soft", role: "status", hidden: true }),
    element("div", { class: "body" }),
    element("div", { class: "calls" }),
  );
  fillBody(turn, message, isRunning);
  if (message.stats.problem) turn.append(element("p", { class: "problem", role: "alert" }, message.stats.problem));
  if (message.better !== null) turn.append(makeBetter(message));
  if (!isRunning) turn.append(makeActions(message, messages, actions, isInPair, turn));
  return turn;
}

function makeBetter(message) {
  const body = element("div", { class: "body" });
  showMarkdown(body, message.better);
  return element("div", { class: "better" }, element("p", { class: "who" }, t("Your better answer")), body);
}

function makeActions(message, messages, actions, isInPair, turn) {
  const rate = (rating, label, sign) =>
    element(
      "button",
      { type: "button", class: "plain", "aria-label": label, title: label, "aria-pressed": String(message.rating === rating), onclick: () => actions.rate(message, message.rating === rating ? 0 : rating) },
      sign,
    );
  return element(
    "div",
    { class: "actions" },
    isInPair ? null : makeSwitch(message, messages, actions),
    isInPair && element("button", { type: "button", class: "plain", "aria-pressed": String(actions.isShown(message.id)), onclick: () => actions.show(message.id) }, t("Go on with this one")),
    makeCopy(() => message.better ?? message.content),
    !isInPair && element("button", { type: "button", class: "plain", onclick: () => actions.regenerate(message) }, t("Again")),
    rate(1, t("Good answer"), icon("up")),
    rate(-1, t("Bad answer"), icon("down")),
    element("button", { type: "button", class: "plain", onclick: () => editBetter(message, actions, turn) }, t("Write a better one")),
    element("span", { class: "figures" }, describeStats(message.stats)),
  );
}

function editBetter(message, actions, turn) {
  turn.querySelector(".better")?.remove();
  turn.querySelector("form.edit")?.remove();
  const input = element("textarea", { rows: 8, "aria-label": t("Your better answer"), value: message.better ?? message.content });
  const form = element(
    "form",
    { class: "edit", onsubmit: (event) => { event.preventDefault(); actions.improve(message, input.value); } },
    element("p", { class: "soft" }, t("It becomes a preference pair: your text before the model's.")),
    input,
    element(
      "div",
      { class: "row" },
      element("button", { class: "primary" }, t("Keep it")),
      message.better !== null && element("button", { type: "button", onclick: () => actions.improve(message, "") }, t("Remove it")),
      element("button", { type: "button", onclick: () => actions.refresh() }, t("Cancel")),
    ),
  );
  turn.append(form);
  input.focus();
}

/** A question's answers side by side. */
export function makePair(message, messages, actions) {
  const pair = pairOf(messages, message);
  const switcher = makeSwitch(message, messages, actions);
  const turns = pair.map((other) => {
    const turn = makeTurn(other, messages, actions, true);
    turn.classList.toggle("chosen", other.id === message.id);
    return turn;
  });
  return [element("div", { class: "pair" }, turns), switcher && element("div", { class: "turn actions" }, switcher)];
}

/** The editor of mock tools: for each open call a field for what the tool answers. */
export function makeResultForm(calls, onResults) {
  const inputs = calls.map(() => element("textarea", { rows: 3, class: "mono", spellcheck: "false" }));
  return element(
    "form",
    { class: "turn call", onsubmit: (event) => { event.preventDefault(); onResults(calls.map((call, index) => ({ call, content: inputs[index].value }))); } },
    calls.map((call, index) => element("label", { class: "block" }, t("What {name} answers", { name: call.function.name }), inputs[index])),
    element("div", { class: "row end" }, element("button", { class: "primary" }, t("Send the results"))),
  );
}
