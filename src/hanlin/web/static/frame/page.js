// What every view uses: messages, requests with their tokens, notices, the switches of language and theme.

const data = JSON.parse(document.getElementById("page-data").textContent);
const START_TOKEN = "hanlin-start-token";

/** The reader's language: "en" or "zh". */
export const language = data.language;

/** A message in the reader's language, with `{name}` replaced by values. */
export function t(message, values = {}) {
  const text = Object.hasOwn(data.messages, message) ? data.messages[message] || message : message;
  return text.replace(/\{(\w+)\}/g, (whole, name) => (Object.hasOwn(values, name) ? String(values[name]) : whole));
}

/** The first characters of a text; a rare character or an emoji, which JavaScript counts as two, is never halved. */
export function cutText(text, count) {
  return Array.from(text.slice(0, 2 * count)).slice(0, count).join("");
}

/** The address of a path such as "/ui/chat", behind the base path. */
export function url(path) {
  return data.base + path;
}

/** An element with attributes and children; a function is a listener, text is always text. */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (typeof value === "function") made.addEventListener(name.replace(/^on/, ""), value);
    else if (name === "class") made.className = value;
    else if (name === "value") made.value = value;
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat().filter((child) => child !== undefined && child !== null && child !== false));
  return made;
}

const ICONS = {
  pencil: "M4 20l1-4L16 5l3 3L8 19zM14 7l3 3",
  bin: "M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13M10.5 11v5M13.500 11v5",
  up: "M7 21H4V10h3M7 10l4-7c2 0 2.500 1.500 2 3l-1 4h6c1.200 0 2 1 1.700 2.200l-1.700 7c-.2 1-1 1.800-2 1.800H7z",
  down: "M7 3H4v11h3M7 14l4 7c2 0 2.500-1.500 2-3l-1-4h6c1.200 0 2-1 1.700-2.200l-1.700-7c-.2-1-1-1.800-2-1.800H7z",
};

/** A drawing for a button, whose label says what it does. */
export function icon(name) {
  const namespace = "http://www.w3.org/2000/svg";
  const drawing = document.createElementNS(namespace, "svg");
  for (const [key, value] of Object.entries({ viewBox: "0 0 24 24", width: 16, height: 16, "aria-hidden": "true" })) drawing.setAttribute(key, value);
  const path = document.createElementNS(namespace, "path");
  for (const [key, value] of Object.entries({ d: ICONS[name], fill: "none", stroke: "currentColor", "stroke-width": 1.7, "stroke-linejoin": "round", "stroke-linecap": "round" })) path.setAttribute(key, value);
  drawing.append(path);
  return drawing;
}

/** Say something for some seconds; a screen reader reads it out. */
export function notify(text, isProblem = false) {
  const notice = element("p", { class: isProblem ? "notice problem" : "notice" }, text);
  document.getElementById("notices").append(notice);
  setTimeout(() => notice.remove(), 3000 + 80 * text.length);
}

/** The headers of a request: the page's token, and the start token if it is known. A key is in the session's cookie. */
export function makeHeaders(more = {}) {
  const headers = { "X-Hanlin-Page": data.token, ...more };
  const startToken = sessionStorage.getItem(START_TOKEN);
  if (startToken) headers["X-Hanlin-Start"] = startToken;
  return headers;
}

/** What a server refused: its message, status and code. */
export class RequestError extends Error {
  constructor(message, status, code) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

/** The error that a response holds, in the form of the page's routes or of OpenAI's API. A wrong key leads to the login. */
export async function readError(response, isLogin = false) {
  let error = null;
  try {
    error = (await response.json()).error;
  } catch {
    // not JSON: an answer of a proxy
  }
  if (response.status === 401 && !isLogin) location.assign(url("/ui/login"));
  const message = typeof error === "string" ? error : error?.message;
  return new RequestError(message || t("the server answered {status}", { status: response.status }), response.status, error?.code);
}

/** Read the page's token anew: a server that was started again has another one. False if it is still the same. */
async function renewPageToken() {
  const text = await (await fetch(location.href, { headers: { Accept: "text/html" } })).text();
  const fresh = new DOMParser().parseFromString(text, "text/html").getElementById("page-data");
  const { token } = fresh ? JSON.parse(fresh.textContent) : data;
  const isNew = token !== data.token;
  data.token = token;
  return isNew;
}

/**
 * Send a request, with a body as JSON, and return the JSON that comes back (null if there is none).
 * If the server asks for the token of the terminal, the reader is asked for it, and the request is sent again; so it is
 * if the server was started again since the page was loaded.
 */
export async function request(method, path, body = undefined, headers = {}) {
  const type = body === undefined ? {} : { "Content-Type": "application/json" };
  const send = async () => {
    try {
      return await fetch(url(path), {
        method,
        headers: makeHeaders({ Accept: "application/json", ...type, ...headers }),
        body: body === undefined ? undefined : JSON.stringify(body),
        redirect: "error",
      });
    } catch {
      throw new RequestError(t("the server does not answer"), 0, "unreachable");
    }
  };
  let response = await send();
  while (!response.ok) {
    const error = await readError(response, path === "/ui/login");
    const isMended = error.code === "start_token" ? await askForStartToken() : error.code === "page_token" && (await renewPageToken());
    if (!isMended) throw error;
    response = await send();
  }
  return response.status === 204 ? null : response.json();
}

/** Ask for the token that the terminal printed; false if the reader does not give one. */
export function askForStartToken() {
  const input = element("input", { name: "token", autocomplete: "off", required: true, spellcheck: "false" });
  const dialog = element(
    "dialog",
    { "aria-label": t("Token of the terminal") },
    element(
      "form",
      { method: "dialog" },
      element("h2", {}, t("Token of the terminal")),
      element("p", {}, t("This starts work on the server's machine. Enter the token that the terminal printed when the page was started.")),
      element("label", {}, t("Token"), " ", input),
      element(
        "div",
        { class: "row end" },
        element("button", { type: "button", onclick: () => dialog.close("") }, t("Cancel")),
        element("button", { class: "primary", value: "ok" }, t("Continue")),
      ),
    ),
  );
  document.body.append(dialog);
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      const given = dialog.returnValue === "ok" ? input.value.trim() : "";
      if (given) sessionStorage.setItem(START_TOKEN, given);
      dialog.remove();
      resolve(Boolean(given));
    });
  });
}

/** Ask a question; true if the reader agrees. */
export function confirmChange(question, action) {
  const dialog = element(
    "dialog",
    { "aria-label": question },
    element(
      "form",
      { method: "dialog" },
      element("p", {}, question),
      element(
        "div",
        { class: "row end" },
        element("button", { type: "button", onclick: () => dialog.close("") }, t("Cancel")),
        element("button", { class: "danger", value: "ok" }, action),
      ),
    ),
  );
  document.body.append(dialog);
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue === "ok");
    });
  });
}

function setCookie(name, value) {
  document.cookie = `${name}=${value}; path=/; max-age=31536000; SameSite=Strict`;
}

/** The theme that is shown: "light" or "dark". */
export function shownTheme() {
  const chosen = document.documentElement.dataset.theme;
  return chosen || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
}

document.getElementById("language-switch").addEventListener("click", () => {
  setCookie(data.languageCookie, language === "zh" ? "en" : "zh");
  location.reload();
});

document.getElementById("theme-switch").addEventListener("click", () => {
  const theme = shownTheme() === "dark" ? "light" : "dark";
  document.documentElement.dataset.theme = theme;
  setCookie(data.themeCookie, theme);
  document.dispatchEvent(new CustomEvent("themechange", { detail: theme }));
});

// Logging out ends the session, which all tabs of the browser share; they go where the key is asked for.
const sessions = new BroadcastChannel("hanlin-session");
const forget = () => {
  sessionStorage.removeItem(START_TOKEN);
  location.assign(url("/ui/login"));
};
sessions.addEventListener("message", forget);
document.getElementById("log-out")?.addEventListener("click", async () => {
  try {
    await request("POST", "/ui/logout");
    sessions.postMessage("ended");
    forget();
  } catch (error) {
    notify(error.message, true);
  }
});

// The address that the terminal printed carries the token behind `#`, which browsers send to no server.
const printed = new URLSearchParams(location.hash.slice(1)).get("token");
if (printed) {
  sessionStorage.setItem(START_TOKEN, printed);
  history.replaceState(null, "", location.pathname + location.search);
}

// Parts that are brought up to date by themselves stay as they were if the server refuses or does not answer; it is said.
const stale = document.getElementById("stale");
document.addEventListener("htmx:error", () => {
  stale.textContent = t("The server does not answer. What is shown may be old; the page tries again.");
  stale.hidden = false;
});
document.addEventListener("htmx:response:error", (event) => {
  if (event.detail.ctx.response.status === 401) location.assign(url("/ui/login"));
  stale.textContent = t("This part of the page cannot be brought up to date. Reload the page to see why.");
  stale.hidden = false;
});
document.addEventListener("htmx:after:request", (event) => {
  stale.hidden = event.detail.ctx.response.status < 400 || stale.hidden;
});

document.addEventListener("htmx:config:request", (event) => {
  Object.assign(event.detail.ctx.request.headers, makeHeaders());
});
