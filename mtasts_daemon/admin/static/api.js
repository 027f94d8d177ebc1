// Requests to the daemon. Unchanged answers are not transferred again.

const seen = new Map();
const MOST_SEEN = 40;
const PATIENCE = 10_000;

/** The daemon refused, with its message; or it does not answer, if `gone` is true. */
export class Refused extends Error {
  constructor(message, { status = 0, gone = false } = {}) {
    super(message);
    this.status = status;
    this.gone = gone;
  }
}

/** Return the JSON at `path`; the same object as before if nothing changed. Throws Refused. */
export async function get(path, { signal = null, patience = PATIENCE } = {}) {
  const before = seen.get(path);
  const limit = AbortSignal.timeout(patience);
  let answer;
  let body;
  try {
    answer = await fetch(path, {
      cache: "no-store",
      headers: before ? { "If-None-Match": before.tag } : {},
      signal: signal ? AbortSignal.any([signal, limit]) : limit,
    });
    body = answer.status === 304 ? null : await answer.text();
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Refused(error.name === "TimeoutError" ? "no answer in time" : "the daemon does not answer", { gone: true });
  }
  if (answer.status === 304) return before.value;
  const value = parsed(body);
  if (!answer.ok) throw new Refused(value?.detail ?? `HTTP status ${answer.status}`, { status: answer.status });
  if (value === null) throw new Refused("the answer is not JSON", { status: answer.status });
  const tag = answer.headers.get("ETag");
  seen.delete(path);
  if (tag) seen.set(path, { tag, value });
  if (seen.size > MOST_SEEN) seen.delete(seen.keys().next().value);
  return value;
}

function parsed(body) {
  try {
    return JSON.parse(body);
  } catch {
    return null;
  }
}

/** Call `on` with the JSON of each line at `path` as it arrives. Throws Refused. */
export async function lines(path, { signal, patience }, on) {
  const limit = AbortSignal.any([signal, AbortSignal.timeout(patience)]);
  try {
    const answer = await fetch(path, { cache: "no-store", signal: limit });
    if (!answer.ok) throw new Refused(parsed(await answer.text())?.detail ?? `HTTP status ${answer.status}`, { status: answer.status });
    let left = "";
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let part = await reader.read(); !part.done; part = await reader.read()) {
      const whole = (left + part.value).split("\n");
      left = whole.pop();
      for (const line of whole) on(JSON.parse(line));
    }
  } catch (error) {
    if (signal.aborted || error instanceof Refused) throw error;
    throw new Refused(error.name === "TimeoutError" ? "no answer in time" : "the daemon does not answer", { gone: true });
  }
}
