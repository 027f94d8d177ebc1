// The search box: a domain goes in, the whole explanation comes out.

import { get } from "./api.js";
import { el, say, show } from "./dom.js";
import { moment, span, within } from "./format.js";
import { line, mode } from "./policies.js";
import { SENTENCES, sentence } from "./words.js";

const $ = (id) => document.getElementById(id);
const LIVE_PATIENCE = 95_000;
const SUGGEST_AFTER = 200;
const MOST_LINES = 8;

let asked = null;
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

/** ``#explain=example.com`` in the address asks at once, so that a finding can be passed on. */
function fromAddress() {
  const found = /^#explain=(.+)$/.exec(location.hash);
  if (!found) return;
  let key;
  try {
    key = decodeURIComponent(found[1]);
  } catch {
    return; // not an address that this page made
  }
  if (asked?.key === key) return;
  $("key").value = key;
  ask(key, false);
}

function stop() {
  asked?.control.abort();
  asked = null;
  $("answer").setAttribute("aria-busy", "false");
  show($("answer"));
}

async function ask(key, live, { go = false } = {}) {
  if (!key) {
    $("key").focus();
    return;
  }
  asked?.control.abort();
  const mine = (asked = { key, control: new AbortController() });
  const { signal } = mine.control;
  history.replaceState(null, "", `#explain=${encodeURIComponent(key)}`);
  $("answer").setAttribute("aria-busy", "true");
  if (go) $("answer").closest("section").scrollIntoView({ block: "start" });
  const ticking = progress(live);
  try {
    const told = await get(`/api/v1/explain/${encodeURIComponent(key)}${live ? "?live=1" : ""}`, { signal, patience: LIVE_PATIENCE });
    const more = told.policy_domain ? await beside(told.policy_domain, signal) : { entry: null, lines: [] };
    if (asked !== mine) return;
    show($("answer"), explained(told, more, live));
    say($("answer-spoken"), verdictOf(told, more.lines).title);
  } catch (error) {
    if (asked !== mine) return;
    show($("answer"), refused(key, error));
    say($("answer-spoken"), `No explanation: ${error.message}`);
  } finally {
    clearInterval(ticking);
    if (asked === mine) {
      $("answer").setAttribute("aria-busy", "false");
      if (go) $("answer").focus({ preventScroll: true });
    }
  }
}

/** What else is known of the domain; the explanation stands without. */
async function beside(domain, signal) {
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
    el("p", { class: "working" }, el("span", { class: "spinner", "aria-hidden": "true" }), el("span", {}, "Asking DNS and the policy host, which may take a minute. "), seconds, el("button", { type: "button", class: "link", "data-stop": "" }, "Stop")),
  );
  say($("answer-spoken"), "Asking DNS and the policy host");
  const tick = () => say(seconds, `${span((Date.now() - since) / 1000)} `);
  tick();
  return setInterval(tick, 1000);
}

function refused(key, error) {
  return el("div", { class: "verdict", "data-level": "bad" }, el("h3", {}, "No explanation"), el("p", {}, `${key}: ${error.message}.`));
}

// -- what is shown -----------------------------------------------------------------------------------------

function explained(told, { entry, lines }, live) {
  const verdict = verdictOf(told, lines);
  // Who is here because mail is held up looks for that first.
  const worse = verdict.level === "bad";
  const todo = told.policy_domain ? actions(told.policy_domain, worse) : null;
  return [
    el(
      "div",
      { class: "verdict", "data-level": verdict.level },
      el("h3", {}, verdict.title),
      el("p", {}, verdict.words),
      live ? null : el("p", { class: "hint" }, "By what the daemon knows. ", el("button", { type: "button", class: "link", "data-live": "" }, "Ask DNS and the policy host now")),
    ),
    worse ? todo : null,
    replies(told),
    el("h4", {}, "Step by step"),
    el("ol", { class: "steps" }, told.steps.map(step)),
    entry?.failure ? lastFailure(entry.failure) : null,
    entry?.held ? stored(entry.held) : null,
    lines.length ? [el("h4", {}, "In the log"), el("div", { class: "list log" }, el("ul", {}, lines.map(line)))] : null,
    worse ? null : todo,
  ];
}

const starts = (texts, words) => texts.some((text) => text.startsWith(words));

/** What becomes of the mail, in one sentence: the worst of what the map names get. */
export function verdictOf({ key, steps, replies, decisions }, lines) {
  const texts = Object.values(replies);
  const reasons = Object.values(decisions);
  const deferring = texts.find((text) => text.startsWith("TEMP") || text.startsWith("TIMEOUT") || text.startsWith("PERM"));
  if (deferring) return { level: "bad", title: `Mail to ${key} is deferred by this daemon`, words: deferring };
  const enforced = starts(texts, "OK secure");
  const judged = steps.find((one) => one.title === "permitted hosts");
  // What was seen now counts more than what was logged once.
  const permitsNone = judged ? judged.good === false : lines.some((one) => one.event === "policy-permits-no-mx-host");
  if (enforced && permitsNone) {
    return { level: "bad", title: `Mail to ${key} is deferred: its policy permits none of its MX hosts`, words: "The domain has to mend its policy or its MX records. An override lets mail pass until then." };
  }
  if (reasons.includes("dane-all-hosts-failed")) {
    return { level: "bad", title: `Mail to ${key} is deferred while the lookups of its MX hosts fail`, words: "Postfix asks again for each host and logs which. The steps below name the lookups that failed." };
  }
  if (enforced) {
    return { level: "good", title: `Mail to ${key} goes over TLS to hosts that its policy permits`, words: "If it is deferred, TLS with those hosts fails: no STARTTLS, or a certificate that is expired, not trusted, or for another name. Postfix's log says which." };
  }
  if (starts(texts, "OK dane")) {
    return { level: "good", title: `Mail to ${key} goes over TLS by its TLSA records`, words: "If it is deferred, no host has a certificate that matches them. Postfix's log says so." };
  }
  if (starts(texts, "OK")) return { level: "good", title: `Mail to ${key} goes as the reply below says`, words: "The steps say where it is from." };
  const failed = reasons.find((slug) => Object.hasOwn(SENTENCES, slug));
  // A live explanation has seen more than the sentence says.
  const seen = steps.find((one) => one.good === false && one.found.includes(`(${failed}`))?.found.split("\n")[0].replace(` (${failed})`, "");
  const words = failed ? `Its policy cannot be had: ${within(seen ?? sentence(failed))}. Mail goes without one.` : "If mail is deferred, no policy that this daemon knows is the reason.";
  return { level: failed ? "warn" : "plain", title: `Nothing is demanded for ${key}: Postfix's own level stands`, words };
}

/** What Postfix gets; map names that get the same stand together. */
function replies({ replies: texts, decisions }) {
  const same = new Map();
  for (const [name, text] of Object.entries(texts)) {
    const both = `${text}\n${decisions[name]}`;
    same.set(both, [...(same.get(both) ?? []), name]);
  }
  return el(
    "div",
    { class: "replies" },
    el("h4", {}, "What Postfix is told"),
    el("dl", {}, [...same].map(([both, names]) => {
      const [text, reason] = both.split("\n");
      return [el("dt", {}, names.map((name) => el("code", {}, name)), el("span", { class: "slug" }, reason)), el("dd", {}, el("code", { class: "reply" }, text))];
    })),
  );
}

const MARKS = { true: ["good", "good"], false: ["bad", "problem"], null: ["plain", "noted"] };

function step({ title, rule, found, good }) {
  const [level, spoken] = MARKS[String(good)];
  const whole = found.split("\n");
  // A policy is a text of its own; elsewhere the first line says it, and others are details.
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
    el("b", {}, "The policy could not be had "),
    moment(at, now),
    `, attempt ${attempts}: ${detail || sentence(problem)} `,
    el("code", { class: "slug" }, problem),
    again > now ? [" It is tried again ", moment(again, now), "."] : null,
  );
}

function stored(held) {
  return el(
    "details",
    {},
    el("summary", {}, "The policy as it is stored ", mode(held.mode), held.live ? "" : " (it has ended)"),
    el("pre", { class: "policy" }, held.lines.join("\n")),
  );
}

function actions(domain, open) {
  const override = `overrides:\n  ${domain}:\n    skip: true\n    reason: why, and until when`;
  return el(
    "details",
    { class: "actions", open },
    el("summary", {}, "What can be done, without a restart"),
    el("p", {}, "Fetch the policy anew:"),
    command(`mtastsctl cache refresh ${domain}`),
    el("p", {}, "Let mail pass as if the domain had no policy, by these lines in the configuration:"),
    command(override),
    el("p", {}, "Then take the configuration over:"),
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

/** Domains that are stored and look like what is typed. */
async function suggest() {
  const typed = $("key").value.trim().toLowerCase();
  if (typed.length < 2) return;
  try {
    const { entries } = await get(`/api/v1/entries?limit=8&q=${encodeURIComponent(typed)}`);
    show($("known"), entries.map((entry) => el("option", { value: entry.domain })));
  } catch {
    // Typed in full it can be asked for all the same.
  }
}
