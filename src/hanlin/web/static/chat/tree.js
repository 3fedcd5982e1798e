// A conversation as a tree of messages: branches, siblings, and the turns that a request sends.

/** The messages of a branch from its beginning to its leaf. */
export function pathTo(messages, leaf) {
  const byId = new Map(messages.map((message) => [message.id, message]));
  const path = [];
  for (let message = byId.get(leaf); message; message = byId.get(message.parent)) path.unshift(message);
  return path;
}

/** The messages below another one, in their order; of null the beginnings. */
export function childrenOf(messages, parent) {
  return messages.filter((message) => message.parent === parent);
}

/** The end of the latest branch that goes through a message. */
export function latestLeaf(messages, start) {
  let leaf = start;
  for (let below = childrenOf(messages, leaf); below.length; below = childrenOf(messages, leaf)) leaf = below.at(-1).id;
  return leaf;
}

/** The answers that were asked for side by side with a message, itself among them, in the order of their models. */
export function pairOf(messages, message) {
  const pair = message.request?.pair;
  if (!pair) return [message];
  return childrenOf(messages, message.parent).filter((other) => other.request?.pair === pair);
}

/** The alternatives to a message: other questions or answers at its position; a pair counts once. */
export function alternativesTo(messages, message) {
  const seen = new Set();
  return childrenOf(messages, message.parent).filter((other) => {
    if (other.role !== message.role) return false;
    const key = other.request?.pair || other.id;
    if (seen.has(key)) return false;
    seen.add(key);
    return true;
  });
}

/** Whether a call is whole. One that was stopped or cut has half of its arguments, which no server and no tool can read. */
function isWhole(call) {
  try {
    const value = JSON.parse(call.function.arguments.trim() || "{}");
    return typeof value === "object" && !Array.isArray(value);
  } catch {
    return false;
  }
}

/**
 * Turns of a branch as `/v1/chat/completions` takes them. An answer with a better form is sent in that form, one with a
 * call that is not whole without the call.
 */
export function toRequestMessages(path, system) {
  const turns = system.trim() ? [{ role: "system", content: system }] : [];
  const broken = new Set(path.flatMap((message) => message.tool_calls.filter((call) => !isWhole(call)).map((call) => call.id)));
  for (const message of path) {
    if (message.role === "user") turns.push({ role: "user", content: message.content });
    else if (message.role === "tool") {
      if (broken.has(message.tool_call_id)) continue;
      turns.push({ role: "tool", content: message.content, tool_call_id: message.tool_call_id, name: message.name });
    } else if (message.better !== null) turns.push({ role: "assistant", content: message.better });
    else if (message.content || message.tool_calls.some(isWhole)) {
      const calls = message.tool_calls.filter(isWhole);
      const turn = { role: "assistant", content: message.content };
      if (message.reasoning) turn.reasoning_content = message.reasoning;
      if (calls.length) turn.tool_calls = calls;
      turns.push(turn);
    }
  }
  return turns;
}

/** The calls at the end of a branch that are whole and have no result yet. */
export function openCalls(path) {
  const answered = new Set();
  for (let index = path.length - 1; index >= 0; index -= 1) {
    const message = path[index];
    if (message.role === "tool") answered.add(message.tool_call_id);
    else if (message.role !== "assistant" || message.better !== null || message.state === "writing") return [];
    else return message.tool_calls.filter((call) => isWhole(call) && !answered.has(call.id));
  }
  return [];
}
