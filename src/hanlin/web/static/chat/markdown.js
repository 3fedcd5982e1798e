// What a model wrote, as safe elements: Markdown without HTML, sanitized once more, formulas as MathML.
import MarkdownIt from "../vendor/markdown-it.esm.min.mjs";
import { element, t, url } from "../frame/page.js";

const markdown = new MarkdownIt({ html: false, linkify: true, breaks: true, maxNesting: 40 });
// An image would be loaded from wherever the model says; it becomes a link.
markdown.disable("image");
markdown.validateLink = (link) => /^(https?:|mailto:)/i.test(link.trim());

const MATH = [
  { open: "$$", close: "$$", display: true },
  { open: "\\[", close: "\\]", display: true },
  { open: "\\(", close: "\\)", display: false },
  { open: "$", close: "$", display: false },
];
const MAX_FORMULA = 4000;

/** The formula at a position of a text, or null. A dollar before a space or after one, as in prices, begins none. */
function readFormula(text, start) {
  for (const { open, close, display } of MATH) {
    if (!text.startsWith(open, start)) continue;
    const from = start + open.length;
    let end = text.indexOf(close, from);
    while (end > 0 && open[0] === "$" && text[end - 1] === "\\") end = text.indexOf(close, end + 1);
    if (end <= from || end - from > MAX_FORMULA) continue;
    const source = text.slice(from, end);
    if (open === "$" && (/^\s|\s$|\n/.test(source) || /[\d\w]/.test(text[end + 1] ?? ""))) continue;
    if (/\n\s*\n/.test(source)) continue;
    return { source: source.trim(), display, end: end + close.length };
  }
  return null;
}

markdown.inline.ruler.before("escape", "formula", (state, silent) => {
  const character = state.src[state.pos];
  if (character !== "$" && character !== "\\") return false;
  const formula = readFormula(state.src, state.pos);
  if (formula === null || formula.end > state.posMax) return false;
  if (!silent) {
    const token = state.push("formula", "span", 0);
    token.content = formula.source;
    token.meta = formula;
  }
  state.pos = formula.end;
  return true;
});
markdown.renderer.rules.formula = (tokens, index) => {
  const { source, display } = tokens[index].meta;
  return `<span class="formula" data-display="${display}">${markdown.utils.escapeHtml(source)}</span>`;
};

const ALLOWED = {
  ALLOWED_TAGS: ["p", "br", "hr", "h1", "h2", "h3", "h4", "h5", "h6", "strong", "em", "s", "del", "code", "pre", "blockquote", "ul", "ol", "li", "table", "thead", "tbody", "tr", "th", "td", "a", "span"],
  ALLOWED_ATTR: ["href", "title", "class", "start", "data-display"],
  ALLOWED_URI_REGEXP: /^(?:https?:|mailto:)/i,
  ALLOW_DATA_ATTR: false,
  ALLOW_ARIA_ATTR: false,
  RETURN_DOM_FRAGMENT: true,
};

let formulas = null;

/** The library of formulas, loaded when the first one is shown. */
function loadFormulas() {
  formulas ??= new Promise((resolve) => {
    const script = element("script", { src: url("/ui/static/vendor/temml.min.js") });
    script.addEventListener("load", () => resolve(globalThis.temml));
    script.addEventListener("error", () => resolve(null));
    document.head.append(script);
  });
  return formulas;
}

async function showFormulas(found) {
  const temml = await loadFormulas();
  for (const span of found) {
    const source = span.textContent;
    const display = span.dataset.display === "true";
    try {
      const shown = document.createElement("span");
      temml.render(source, shown, { displayMode: display, throwOnError: true, trust: false, maxExpand: 200, maxSize: [20, 20] });
      span.replaceChildren(...shown.childNodes);
    } catch {
      span.textContent = display ? `$$${source}$$` : `$${source}$`; // not a formula, or one that is not known
    }
  }
}

/**
 * Show Markdown in an element, in place of what it holds.
 * No HTML of the text is taken over, links lead to web pages and addresses of mail alone, and nothing is loaded.
 */
export function showMarkdown(target, text, isComplete = true) {
  const fragment = globalThis.DOMPurify.sanitize(markdown.render(text), ALLOWED);
  for (const link of fragment.querySelectorAll("a")) {
    link.target = "_blank";
    link.rel = "noopener noreferrer nofollow";
  }
  for (const block of fragment.querySelectorAll("pre")) {
    const code = block.textContent;
    block.tabIndex = 0;
    const copy = element("button", { type: "button", class: "copy", onclick: () => copyText(code, copy) }, t("Copy"));
    const holder = element("div", { class: "code" });
    block.replaceWith(holder);
    holder.append(block, copy);
  }
  const found = [...fragment.querySelectorAll("span.formula")];
  for (const span of found) if (!isComplete) span.textContent = `$${span.textContent}$`;
  target.replaceChildren(fragment);
  if (isComplete && found.length) return showFormulas(found);
  return Promise.resolve();
}

/** Put a text on the clipboard and say so in the button. */
export async function copyText(text, button) {
  const label = button.textContent;
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = t("Copied");
  } catch {
    button.textContent = t("Copying is not allowed here");
  }
  setTimeout(() => (button.textContent = label), 1500);
}
