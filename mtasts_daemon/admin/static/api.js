// Asking the daemon. What has not changed is not sent again.

const seen = new Map();
const MOST_SEEN = 40;
const PATIENCE = 10_000;

/** Something the daemon said no to, in its own words; or, where `gone` is true, a daemon that does not answer. */
export class Refused extends Error {
  constructor(message, { status = 0, gone = false } = {}) {
    super(message);
    this.status = status;
    this.gone = gone;
  }
}

/** The JSON at `path`; the same object as before where nothing changed. Raises Refused. */
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
    throw new Refused(error.name === "TimeoutError" ? "no answer came in time" : "the daemon does not answer", { gone: true });
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
