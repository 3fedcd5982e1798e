// Changes of what is stored, one after the other: a later form of a thing is never overtaken by an earlier one.
import { request } from "../frame/page.js";

/** The last change of each path that is on its way. */
const sent = new Map();

/** Whether a change of a path is on its way. */
export function isStoring(path) {
  return sent.has(path);
}

/** Send a change after those of the same path that were sent before it; returns what the server answers. */
export function store(path, body) {
  const before = sent.get(path) ?? Promise.resolve();
  const change = before.catch(() => {}).then(() => request("PATCH", path, body));
  sent.set(path, change);
  const forget = () => sent.get(path) === change && sent.delete(path);
  change.then(forget, forget);
  return change;
}
