// The chat: opens conversations, asks models, keeps what they answer.
import { cutText, element, notify, request, t, url } from "../frame/page.js";
import { ask } from "./answer.js";
import { Settings } from "./settings.js";
import { Sidebar } from "./sidebar.js";
import { isStoring, store } from "./storing.js";
import { latestLeaf, openCalls, pathTo, toRequestMessages } from "./tree.js";
import { fillBody, makePair, makeResultForm, makeTurn } from "./turn.js";

const SAVE_MILLISECONDS = 2000;
const SHOW_MILLISECONDS = 60;
const POLL_MILLISECONDS = 1500;
const LAST_SETTINGS = "hanlin-chat-settings";
const STORED_FIELDS = ["id", "parent", "role", "content", "tool_call_id", "name", "model", "state", "request"];

const turns = document.getElementById("turns");
const composer = document.getElementById("composer");
const question = document.getElementById("question");
const sendButton = document.getElementById("send");
const stopButton = document.getElementById("stop");

/** The conversation that is shown: {id, title, settings, leaf, messages}; without id it is not stored yet. */
let conversation = newConversation();
/** What is being written: message id to {controller, answer}. */
const running = new Map();
let models = { ready: [], loading: [], found: [] };
/** The model that the address names; it may still be loading. */
const wantedModel = new URLSearchParams(location.search).get("model");

const settings = new Settings((changed) => {
  conversation.settings = changed;
  localStorage.setItem(LAST_SETTINGS, JSON.stringify(changed));
  if (conversation.id) save(`/ui/chat/conversations/${conversation.id}`, { settings: changed });
});

const sidebar = new Sidebar(
  (id) => {
    sidebar.toggle("conversations", false);
    open(id);
  },
  (id) => id === conversation.id && begin(),
  (id, title) => id === conversation.id && (conversation.title = title),
);

const actions = {
  isRunning: (id) => running.has(id),
  isShown: (id) => pathTo(conversation.messages, conversation.leaf).some((message) => message.id === id),
  show: (id) => setLeaf(latestLeaf(conversation.messages, id)),
  refresh: () => show(),
  ask: (message, text) => attempt(() => askQuestion(message.parent, text)),
  regenerate: (message) => attempt(() => answerTo(message.parent, settings.chosenModels())),
  rate: (message, rating) => attempt(() => changeMessage(message, { rating })),
  improve: (message, text) => attempt(() => changeMessage(message, { better: text === message.content ? "" : text })),
};

function newConversation() {
  return { id: null, title: "", settings: {}, leaf: null, messages: [] };
}

async function attempt(work) {
  try {
    await work();
  } catch (error) {
    notify(error.message, true);
    show();
  }
}

function save(path, body) {
  return attempt(() => store(path, body));
}

// --- conversations ----------------------------------------------------------------------------------------------------

/** Counts what the reader opened: what comes late, of a conversation that was left since, is not shown. */
let opened = 0;

function begin() {
  opened += 1;
  conversation = newConversation();
  conversation.settings = settings.read() ?? {};
  history.replaceState(null, "", url("/ui/chat"));
  sidebar.load(null);
  show();
  question.focus();
}

async function open(id) {
  const turn = ++opened;
  await attempt(async () => {
    const found = await request("GET", `/ui/chat/conversations/${id}`);
    if (turn !== opened) return;
    conversation = found;
    for (const [messageId, { answer }] of running) {
      const message = conversation.messages.find((other) => other.id === messageId);
      if (message) Object.assign(message, answer, { stats: message.stats });
    }
    history.replaceState(null, "", url(`/ui/chat?conversation=${id}`));
    settings.show(conversation.settings);
    await sidebar.load(id);
    show();
    turns.scrollTop = turns.scrollHeight;
  });
}

async function setLeaf(leaf) {
  conversation.leaf = leaf;
  show(true);
  await save(`/ui/chat/conversations/${conversation.id}`, { leaf });
}

// --- asking -----------------------------------------------------------------------------------------------------------

async function askQuestion(parent, text) {
  if (!conversation.id) {
    const title = cutText(text.trim().split("\n")[0], 60);
    conversation = { ...newConversation(), title, settings: settings.read() ?? {} };
  }
  const message = makeMessage({ parent, role: "user", content: text });
  await answerTo(message.id, settings.chosenModels(), [message]);
}

/** An id as the store has them; `randomUUID` is there on secure pages only. */
function drawId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** A message as the store will have it. */
function makeMessage(fields) {
  const empty = { content: "", reasoning: "", tool_calls: [], tool_call_id: "", name: "", model: "", state: "done" };
  return { ...empty, request: {}, stats: {}, rating: 0, better: null, ...fields, id: drawId() };
}

/** Put messages into a conversation, and into the store meanwhile; if that refuses them, they are taken out again. */
async function addMessages(target, messages, leaf) {
  const isNew = !target.id;
  const before = target.leaf;
  target.id ??= drawId();
  target.messages.push(...messages);
  target.leaf = leaf;
  if (isNew) history.replaceState(null, "", url(`/ui/chat?conversation=${target.id}`));
  const begun = messages.map((message) => Object.fromEntries(STORED_FIELDS.map((name) => [name, message[name]])));
  const body = { new: isNew ? { title: target.title, settings: target.settings } : null, messages: begun, leaf };
  try {
    await request("POST", `/ui/chat/conversations/${target.id}/messages`, body);
  } catch (error) {
    target.messages = target.messages.filter((message) => !messages.includes(message));
    target.leaf = before;
    if (isNew) target.id = null;
    if (isNew && target === conversation) history.replaceState(null, "", url("/ui/chat"));
    throw error;
  }
  if (target.id === conversation.id) sidebar.load(target.id).catch(() => {});
}

/** What a request asks of a model, in the form in which it is kept with the answer. */
function makeAnswerRequest(model, chosen, pair) {
  return {
    system: chosen.system,
    tools: chosen.tools,
    sampling: chosen.sampling,
    thinking: settings.canSwitchThinking(model) ? chosen.thinking : "",
    ...(pair && { pair }),
  };
}

/** Ask models for an answer below `parent`; `before` are messages that are not stored yet, the parent among them. */
async function answerTo(parent, names, before = []) {
  if (!names.length) throw new Error(t("There is no model to ask yet."));
  const chosen = settings.read();
  if (chosen === null) throw new Error(t("Put the settings right first."));
  const target = conversation;
  const pair = names.length > 1 ? drawId() : "";
  const begun = names.map((model) => makeMessage({ parent, role: "assistant", model, state: "writing", request: makeAnswerRequest(model, chosen, pair) }));
  // the models begin while the messages are stored: nobody waits for the disk
  const stored = addMessages(target, [...before, ...begun], begun[0].id);
  const path = pathTo(target.messages, parent);
  const writing = begun.map((message) => write(message, path, target, stored));
  show(true);
  await Promise.all(writing);
  if (target.id === conversation.id) show();
}

async function write(message, path, target, stored) {
  const controller = new AbortController();
  const place = `/ui/chat/messages/${message.id}`;
  let isStored = false;
  stored.then(() => (isStored = true), () => controller.abort());
  const { system, tools, sampling, thinking } = message.request;
  const body = { model: message.model, messages: toRequestMessages(path, system), ...sampling };
  if (tools.length) body.tools = tools;
  if (thinking) body.chat_template_kwargs = { enable_thinking: thinking === "on" };
  const state = { controller, answer: { content: "", reasoning: "", tool_calls: [] } };
  running.set(message.id, state);
  showRunning();
  let shown = 0;
  let timer = 0;
  let saved = performance.now();
  const draw = () => {
    shown = performance.now();
    timer = 0;
    const turn = turns.querySelector(`[data-id="${message.id}"]`);
    if (turn) keepAtEnd(() => fillBody(turn, state.answer, true));
  };
  const answer = await ask(body, controller.signal, (partial) => {
    state.answer = partial;
    const now = performance.now();
    if (!timer) timer = setTimeout(draw, Math.max(0, SHOW_MILLISECONDS - (now - shown)));
    if (now - saved > SAVE_MILLISECONDS && isStored && !isStoring(place)) {
      saved = now;
      store(place, { content: partial.content, reasoning: partial.reasoning }).catch(() => {});
    }
  });
  clearTimeout(timer);
  state.answer = answer;
  draw();
  try {
    await stored;
  } finally {
    running.delete(message.id);
    showRunning();
  }
  const { content, reasoning, tool_calls, stats } = answer;
  const final = { content, reasoning, tool_calls, stats, state: answer.state };
  Object.assign(message, final);
  const known = conversation.messages.find((other) => other.id === message.id);
  if (known) Object.assign(known, final);
  if (answer.state === "done") document.getElementById("chat-status").textContent = t("The answer is complete.");
  await store(place, final);
  if (target.id === conversation.id) show();
}

async function changeMessage(message, change) {
  const { message: changed, preferences } = await store(`/ui/chat/messages/${message.id}`, change);
  Object.assign(message, changed);
  show();
  if (preferences) notify(t("{file}: {rows} preference pairs", { file: preferences.file, rows: preferences.rows }));
}

async function sendResults(results) {
  await attempt(async () => {
    const messages = [];
    for (const { call, content } of results) {
      const parent = messages.at(-1)?.id ?? conversation.leaf;
      messages.push(makeMessage({ parent, role: "tool", content, tool_call_id: call.id, name: call.function.name }));
    }
    await answerTo(messages.at(-1).id, settings.chosenModels(), messages);
  });
}

// --- what is shown ----------------------------------------------------------------------------------------------------

function keepAtEnd(change) {
  const isAtEnd = turns.scrollHeight - turns.scrollTop - turns.clientHeight < 80;
  change();
  if (isAtEnd) turns.scrollTop = turns.scrollHeight;
}

function show(toEnd = false) {
  const path = pathTo(conversation.messages, conversation.leaf);
  const shown = path.flatMap((message) =>
    message.role === "assistant" && message.request?.pair
      ? makePair(message, conversation.messages, actions)
      : [makeTurn(message, conversation.messages, actions)],
  );
  const calls = running.size ? [] : openCalls(path);
  if (calls.length) shown.push(makeResultForm(calls, sendResults));
  const change = () => turns.replaceChildren(...(path.length ? shown.filter(Boolean) : [makeEmpty()]));
  if (toEnd) {
    change();
    turns.scrollTop = turns.scrollHeight;
  } else {
    const top = turns.scrollTop;
    keepAtEnd(() => {
      change();
      turns.scrollTop = top;
    });
  }
}

function showRunning() {
  stopButton.hidden = running.size === 0;
  sendButton.hidden = running.size > 0;
}

function makeEmpty() {
  const parts = [element("h2", {}, t("Begin a conversation"))];
  if (!models.ready.length) {
    parts.push(
      element("p", {}, t("There is no model yet. Name one when you start the page, or load one that lies in its folder.")),
      element("pre", {}, element("code", {}, "hanlin ui --model PATH")),
    );
  } else {
    parts.push(element("p", { class: "soft" }, t("Ask something below. Every turn can be edited, every answer asked for again; branches are kept.")));
  }
  for (const { names, state, problem } of models.loading) {
    const texts = { waiting: t("{name} waits to be loaded", { name: names[0] }), loading: t("{name} is being loaded", { name: names[0] }), failed: `${names[0]}: ${problem}` };
    parts.push(element("p", { class: state === "failed" ? "problem" : "soft", role: "status" }, texts[state]));
  }
  if (models.found.length) {
    parts.push(
      element("h3", {}, t("Models in this folder")),
      element(
        "ul",
        {},
        models.found.map(({ path, title }) =>
          element(
            "li",
            {},
            element("span", { class: "grow" }, title && [title, element("br")], element("code", {}, path)),
            element("button", { type: "button", "aria-label": t("Load {name}", { name: title || path }), onclick: () => loadModel(path) }, t("Load")),
          ),
        ),
      ),
    );
  }
  return element("section", { class: "empty card" }, parts);
}

// --- models -----------------------------------------------------------------------------------------------------------

async function loadModel(path) {
  await attempt(async () => setModels(await request("POST", "/ui/chat/models", { path })));
}

function setModels(changed) {
  const isOther = JSON.stringify(changed) !== JSON.stringify(models);
  const hadModels = models.ready.length;
  const isReady = ({ ready }) => ready.some(({ name }) => name === wantedModel);
  const wantedCame = isReady(changed) && !isReady(models) && !conversation.id;
  models = changed;
  if (isOther) {
    settings.setModels(models.ready);
    if (wantedCame) conversation.settings = { ...conversation.settings, model: wantedModel };
    if (wantedCame || !hadModels) settings.choose(conversation.settings);
    if (!conversation.messages.length) show();
  }
  clearTimeout(pollTimer);
  if (models.loading.some(({ state }) => state !== "failed")) pollTimer = setTimeout(pollModels, POLL_MILLISECONDS);
}

let pollTimer = 0;

async function pollModels() {
  try {
    setModels(await request("GET", "/ui/chat/models"));
  } catch {
    pollTimer = setTimeout(pollModels, 4 * POLL_MILLISECONDS); // a server that does not answer may do so later
  }
}

// --- the composer -----------------------------------------------------------------------------------------------------

composer.addEventListener("submit", (event) => {
  event.preventDefault();
  const text = question.value;
  if (!text.trim() || running.size) return;
  question.value = "";
  attempt(async () => {
    try {
      await askQuestion(conversation.leaf, text);
    } catch (error) {
      question.value ||= text;
      throw error;
    }
  });
});

question.addEventListener("keydown", (event) => {
  // while a Chinese word is being put together, Enter chooses it; Safari ends the word before it tells of the key, 229
  const isChoosing = event.isComposing || event.keyCode === 229;
  if (event.key === "Enter" && !event.shiftKey && !isChoosing) {
    event.preventDefault();
    composer.requestSubmit();
  }
});

stopButton.addEventListener("click", () => {
  for (const { controller } of running.values()) controller.abort();
  question.focus();
});

document.getElementById("new-conversation").addEventListener("click", () => {
  sidebar.toggle("conversations", false);
  begin();
});

async function start() {
  document.body.append(element("p", { id: "chat-status", class: "visually-hidden", role: "status" }));
  await settings.loadPresets();
  const found = await request("GET", "/ui/chat/models");
  settings.setModels(found.ready);
  const wanted = new URLSearchParams(location.search).get("conversation");
  let last = {};
  try {
    last = JSON.parse(localStorage.getItem(LAST_SETTINGS)) ?? {};
  } catch {
    // what is kept there is only a convenience
  }
  conversation.settings = last;
  settings.show(last);
  setModels(found);
  show();
  if (wanted && /^[0-9a-f]{32}$/.test(wanted)) await open(wanted);
  if (!conversation.id) await sidebar.load(null);
}

attempt(start);
