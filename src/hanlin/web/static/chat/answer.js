// Asking the server: one streamed answer, with its thoughts, tool calls, tokens and times.
import { makeHeaders, readError, t, url } from "../frame/page.js";

/** The answer that a stream has brought so far. */
export function newAnswer() {
  return { content: "", reasoning: "", tool_calls: [], finish: "", waiting: 0, stats: {} };
}

/** Add what a chunk of the stream holds to an answer; true if it brought text. */
export function addChunk(answer, chunk) {
  if (chunk.usage) {
    answer.stats.prompt_tokens = chunk.usage.prompt_tokens;
    answer.stats.completion_tokens = chunk.usage.completion_tokens;
    answer.stats.cached_tokens = chunk.usage.prompt_tokens_details?.cached_tokens ?? null;
  }
  const choice = chunk.choices?.[0];
  if (!choice) return false;
  if (choice.finish_reason) answer.finish = choice.finish_reason;
  const delta = choice.delta ?? {};
  answer.content += delta.content ?? "";
  answer.reasoning += delta.reasoning_content ?? "";
  for (const part of delta.tool_calls ?? []) {
    const call = (answer.tool_calls[part.index] ??= { id: "", type: "function", function: { name: "", arguments: "" } });
    call.id = part.id ?? call.id;
    call.function.name += part.function?.name ?? "";
    call.function.arguments += part.function?.arguments ?? "";
  }
  return Boolean(delta.content || delta.reasoning_content || delta.tool_calls?.length);
}

/** The events of a stream of server-sent events, as JSON, up to `[DONE]`; a place in the queue is `{ waiting }`. */
async function* readEvents(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  while (true) {
    const { done, value } = await reader.read();
    if (done) return;
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    for (const event of events) {
      const place = /^: waiting (\d+)$/.exec(event);
      if (place) yield { waiting: Number(place[1]) };
      const data = event.split("\n").filter((line) => line.startsWith("data:")).map((line) => line.slice(5).trim()).join("\n");
      if (data === "[DONE]") return;
      if (data) yield JSON.parse(data);
    }
  }
}

/**
 * Ask a model and follow its answer.
 * body: of `/v1/chat/completions`, without `stream`; signal: stops it; onText: called after each piece of the answer,
 * and while it waits for its turn, when its `waiting` is the place in the queue.
 * Returns the answer with `state`: done, cut (at the limit of tokens), stopped or failed (then `problem` says why).
 */
export async function ask(body, signal, onText) {
  const answer = newAnswer();
  const start = performance.now();
  let first = 0;
  let last = 0;
  try {
    const response = await fetch(url("/v1/chat/completions"), {
      method: "POST",
      headers: makeHeaders({ "Content-Type": "application/json", "X-Hanlin-Queue": "1" }),
      body: JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true } }),
      signal,
    });
    if (!response.ok) throw await readError(response);
    for await (const chunk of readEvents(response.body)) {
      if (chunk.error) throw new Error(chunk.error.message);
      if (chunk.waiting) {
        answer.waiting = chunk.waiting;
        onText(answer);
      } else if (addChunk(answer, chunk)) {
        answer.waiting = 0;
        last = performance.now();
        first ||= last;
        onText(answer);
      }
    }
    answer.state = { stop: "done", tool_calls: "done", length: "cut" }[answer.finish] ?? "failed";
    if (answer.state === "failed") answer.problem = t("the answer ended before its end");
  } catch (error) {
    answer.state = signal.aborted ? "stopped" : "failed";
    if (answer.state === "failed") answer.problem = error.message || t("the server does not answer");
  }
  answer.tool_calls = answer.tool_calls.filter(Boolean);
  const { stats } = answer;
  if (first) stats.first_seconds = (first - start) / 1000;
  if (last > first && stats.completion_tokens > 1) {
    stats.tokens_per_second = (1000 * (stats.completion_tokens - 1)) / (last - first);
  }
  if (answer.problem) stats.problem = answer.problem;
  return answer;
}

/** The figures of an answer as one line. */
export function describeStats(stats) {
  const parts = [];
  if (stats.completion_tokens !== undefined) {
    parts.push(t("{prompt} + {answer} tokens", { prompt: stats.prompt_tokens, answer: stats.completion_tokens }));
  }
  if (stats.tokens_per_second) parts.push(t("{speed} tokens/s", { speed: stats.tokens_per_second.toFixed(1) }));
  if (stats.first_seconds !== undefined) parts.push(t("first after {seconds} s", { seconds: stats.first_seconds.toFixed(2) }));
  return parts.join(" · ");
}
