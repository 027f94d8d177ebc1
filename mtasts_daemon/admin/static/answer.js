// The search box: explains a domain.

import { get, lines as jsonLines } from "./api.js";
import { el, say, show } from "./dom.js";
import { moment, span } from "./format.js";
import { line, mode } from "./policies.js";
import { sentence } from "./words.js";

const $ = (id) => document.getElementById(id);
const LIVE_PATIENCE = 95_000;
const SUGGEST_AFTER = 200;
const MOST_LINES = 8;

let current = null;
let suggesting = null;

export function start() {
  $("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    ask($("key").value.trim(), $("live").checked);
  });
  $("key").addEventListener("input", () => {
    clearTimeout(suggesting);
    suggesting = setTimeout(suggest, SUGGEST_AFTER);
  });
  document.addEventListener("click", (event) => {
    const pressed = event.target.closest("[data-explain]");
    if (pressed) {
      $("key").value = pressed.dataset.explain;
      ask(pressed.dataset.explain, false, { go: true });
    }
    if (event.target.closest("[data-live]")) {
      $("live").checked = true;
      ask($("key").value.trim(), true);
    }
    if (event.target.closest("[data-stop]")) stop();
    const copied = event.target.closest("[data-copy]");
    if (copied) copy(copied);
  });
  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest("input, textarea, select, [contenteditable]");
    if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) {
      event.preventDefault();
      $("key").focus();
      $("key").select();
    }
  });
  window.addEventListener("hashchange", fromAddress);
  fromAddress();
}

/** ``#explain=example.com`` in the address explains at once, so that a finding can be passed on. */
function fromAddress() {
  const found = /^#explain=(.+)$/.exec(location.hash);
  if (!found) return;
  let key;
  try {
    key = decodeURIComponent(found[1]);
  } catch {
    return; // not an address that this page made
  }
  if (current?.key === key) return;
  $("key").value = key;
  ask(key, false);
}

function stop() {
  current?.control.abort();
  current = null;
  $("answer").setAttribute("aria-busy", "false");
  show($("answer"));
}

async function ask(key, live, { go = false } = {}) {
  if (!key) {
    $("key").focus();
    return;
  }
  current?.control.abort();
  const mine = (current = { key, control: new AbortController() });
  const { signal } = mine.control;
  history.replaceState(null, "", `#explain=${encodeURIComponent(key)}`);
  $("answer").setAttribute("aria-busy", "true");
  if (go) $("answer").closest("section").scrollIntoView({ block: "start" });
  const ticking = progress(live);
  try {
    const path = `/api/v1/explain/${encodeURIComponent(key)}`;
    const found = live ? await streamed(`${path}?live=1&stream=1`, mine) : await get(path, { signal });
    const more = found.policy_domain ? await context(found.policy_domain, signal) : { entry: null, lines: [] };
    if (current !== mine) return;
    show($("answer"), explained(found, more, live));
    say($("answer-spoken"), sentenceOf(found));
  } catch (error) {
    if (current !== mine) return;
    show($("answer"), refused(key, error));
    say($("answer-spoken"), `No explanation: ${error.message}`);
  } finally {
    clearInterval(ticking);
    if (current === mine) {
      $("answer").setAttribute("aria-busy", "false");
      if (go) $("answer").focus({ preventScroll: true });
    }
  }
}

/** The result of a live explanation; its steps are shown as they arrive. */
async function streamed(path, mine) {
  let result = null;
  await jsonLines(path, { signal: mine.control.signal, patience: LIVE_PATIENCE }, (line) => {
    if (line.result) result = line.result;
    else if (current === mine) $("live-steps")?.append(step(line.step));
  });
  if (result === null) throw new Error("the answer is incomplete");
  return result;
}

/** The stored entry and the log lines of the domain; optional parts of the explanation. */
async function context(domain, signal) {
  const [entry, log] = await Promise.all([
    get(`/api/v1/entries/${encodeURIComponent(domain)}`, { signal }).catch(() => null),
    get("/api/v1/log", { signal }).catch(() => ({ lines: [] })),
  ]);
  return { entry, lines: log.lines.filter((one) => one.fields.domain === domain).slice(0, MOST_LINES) };
}

function progress(live) {
  if (!live) return null;
  const since = Date.now();
  const seconds = el("span", { "aria-hidden": "true" });
  $("answer").replaceChildren(
    el("p", { class: "working" }, el("span", { class: "spinner", "aria-hidden": "true" }), el("span", {}, "Querying DNS and the policy host, which may take a minute. "), seconds, el("button", { type: "button", class: "link", "data-stop": "" }, "Stop")),
    el("ol", { class: "steps", id: "live-steps" }),
  );
  say($("answer-spoken"), "Querying DNS and the policy host");
  const tick = () => say(seconds, `${span((Date.now() - since) / 1000)} `);
  tick();
  return setInterval(tick, 1000);
}

function refused(key, error) {
  return el("div", { class: "verdict", "data-level": "bad" }, el("h3", {}, "No explanation"), el("p", {}, `${key}: ${error.message}.`));
}

// -- display -----------------------------------------------------------------------------------------------

const LEVELS = { deferred: "bad", failing: "bad", unavailable: "warn", authenticated: "good" };

/** The verdict, or for a key that can have no policy the reason. */
function sentenceOf({ key, verdict, steps }) {
  return verdict?.sentence ?? `${key} has no TLS policy: ${steps[0]?.found ?? ""}`;
}

function explained(found, { entry, lines }, live) {
  const level = LEVELS[found.verdict?.state] ?? "plain";
  // If mail is deferred, what can be done comes first.
  const worse = level === "bad";
  const todo = found.policy_domain ? actions(found.policy_domain, worse) : null;
  return [
    el(
      "div",
      { class: "verdict", "data-level": level },
      el("h3", {}, sentenceOf(found)),
      found.verdict ? el("p", { class: "hint" }, `${found.verdict.asked}.`) : null,
      found.deferred_since ? el("p", {}, "Deferred since ", moment(found.deferred_since, Date.now() / 1000), ".") : null,
      live ? null : el("p", { class: "hint" }, "From the cache. ", el("button", { type: "button", class: "link", "data-live": "" }, "Query DNS and the policy host now")),
    ),
    worse ? todo : null,
    replies(found),
    el("h4", {}, "Step by step"),
    el("ol", { class: "steps" }, found.steps.map(step)),
    entry?.failure ? lastFailure(entry.failure) : null,
    entry?.held ? stored(entry.held) : null,
    lines.length ? [el("h4", {}, "In the log"), el("div", { class: "list log" }, el("ul", {}, lines.map(line)))] : null,
    worse ? null : todo,
  ];
}

/** The replies to Postfix; map names with the same reply are shown together. */
function replies({ replies: texts, decisions }) {
  const same = new Map();
  for (const [name, text] of Object.entries(texts)) {
    const both = `${text}\n${decisions[name]}`;
    same.set(both, [...(same.get(both) ?? []), name]);
  }
  return el(
    "div",
    { class: "replies" },
    el("h4", {}, "Replies to Postfix"),
    el("dl", {}, [...same].map(([both, names]) => {
      const [text, reason] = both.split("\n");
      return [el("dt", {}, names.map((name) => el("code", {}, name)), el("span", { class: "slug" }, reason)), el("dd", {}, el("code", { class: "reply" }, text))];
    })),
  );
}

const MARKS = { true: ["good", "good"], false: ["bad", "problem"], null: ["plain", "note"] };

function step({ title, rule, found, good }) {
  const [level, spoken] = MARKS[String(good)];
  const whole = found.split("\n");
  // A policy is a block of text; otherwise the first line is a summary of the others.
  const first = title === "policy text" ? null : whole[0];
  const rest = first === null ? whole : whole.slice(1);
  return el(
    "li",
    { "data-level": level },
    el("div", { class: "step-head" }, el("span", { class: "step-title" }, title.trim()), el("span", { class: "hidden" }, ` (${spoken}): `), el("span", { class: "rule-name" }, rule)),
    first === null ? null : el("div", { class: "step-found" }, first),
    rest.length ? el("pre", {}, rest.join("\n")) : null,
  );
}

function lastFailure({ at, retry_at: again, count: attempts, problem, detail }) {
  const now = Date.now() / 1000;
  return el(
    "p",
    { class: "failure" },
    el("b", {}, "The last fetch failed "),
    moment(at, now),
    `, attempt ${attempts}: ${detail || sentence(problem)} `,
    el("code", { class: "slug" }, problem),
    again > now ? [" Next attempt ", moment(again, now), "."] : null,
  );
}

function stored(held) {
  return el(
    "details",
    {},
    el("summary", {}, "The stored policy ", mode(held.mode), held.live ? "" : " (expired)"),
    el("pre", { class: "policy" }, held.lines.join("\n")),
  );
}

function actions(domain, open) {
  const override = `overrides:\n  ${domain}:\n    skip: true\n    reason: "why, and until when"`;
  return el(
    "details",
    { class: "actions", open },
    el("summary", {}, "What to do"),
    el("p", {}, "Fetch the policy again:"),
    command(`mtastsctl cache refresh ${domain}`),
    el("p", {}, "Deliver mail as if the domain had no policy, with these lines in the configuration:"),
    command(override),
    el("p", {}, "Then reload the configuration:"),
    command("mtastsctl reload"),
  );
}

function command(text) {
  const copying = navigator.clipboard ? el("button", { type: "button", class: "link", "data-copy": text, "aria-label": `Copy ${text.split("\n")[0]}` }, "Copy") : null;
  return el("div", { class: "command" }, el("pre", {}, text), copying);
}

async function copy(button) {
  try {
    await navigator.clipboard.writeText(button.dataset.copy);
    say(button, "Copied");
  } catch {
    say(button, "Not allowed");
  }
}

/** Suggest stored domains that contain the typed text. */
async function suggest() {
  const typed = $("key").value.trim().toLowerCase();
  if (typed.length < 2) return;
  try {
    const { entries } = await get(`/api/v1/entries?limit=8&q=${encodeURIComponent(typed)}`);
    show($("known"), entries.map((entry) => el("option", { value: entry.domain })));
  } catch {
    // Suggestions are optional.
  }
}
