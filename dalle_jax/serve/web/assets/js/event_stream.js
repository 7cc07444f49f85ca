/** Server-sent events, read from the body of a fetch. EventSource cannot POST. */

import { failed } from "./api.js";

/**
 * Yield the JSON of each event's data. Events without data, comments and `[DONE]` are skipped.
 * @param {ReadableStream<Uint8Array>} body
 * @returns {AsyncGenerator<Record<string, any>>}
 */
export async function* readEvents(body) {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let unread = "";
  for (;;) {
    const { done, value } = await reader.read().catch(failed("The connection was lost before the end."));
    unread += decoder.decode(value, { stream: !done });
    const events = unread.split(/\r?\n\r?\n/);
    unread = done ? "" : (events.pop() ?? "");
    for (const text of events) {
      const data = dataOf(text);
      if (data && data !== "[DONE]") yield JSON.parse(data);
    }
    if (done) return;
  }
}

/**
 * Return the data lines of an event, joined.
 * @param {string} text
 */
function dataOf(text) {
  const lines = text.split(/\r?\n/).filter((line) => line.startsWith("data:"));
  return lines.map((line) => line.slice(5).replace(/^ /, "")).join("\n");
}
