// The status page: polls the daemon every few seconds and shows its state. It changes nothing.

import * as answer from "./answer.js";
import { get } from "./api.js";
import * as check from "./check.js";
import { el, say, show } from "./dom.js";
import * as failing from "./failing.js";
import { clock, span } from "./format.js";
import { judge } from "./health.js";
import * as policies from "./policies.js";
import { published } from "./published.js";
import * as reports from "./received.js";
import * as tls from "./tls.js";
import * as traffic from "./traffic.js";

const $ = (id) => document.getElementById(id);
const EVERY = 3000;
const ROWS = 8;
const SILENT = {
  level: "bad",
  title: "The daemon does not answer",
  reasons: [{ level: "bad", text: "Postfix defers mail while the daemon does not answer.", hint: "The figures below are the last known ones." }],
};

// The last answers, and how often each part is polled: expensive parts less often.
const known = { status: null, history: null, lines: [], failing: null, without: [], expiring: null, queue: null };
const parts = [
  { name: "status", every: 3000, path: () => "/api/v1/status" },
  { name: "history", every: 20_000, path: () => "/api/v1/history?minutes=1440" },
  { name: "log", every: 6000, path: () => "/api/v1/log" },
  { name: "failing", every: 12_000, path: () => `/api/v1/entries?failing=1&sort=-failures&limit=${2 * ROWS}` },
  { name: "expiring", every: 12_000, path: () => `/api/v1/entries?live=1&sort=expires&limit=${ROWS}` },
  { name: "queue", every: 12_000, path: () => `/api/v1/entries?live=1&sort=due&limit=${ROWS}` },
];
const STATUS_PATIENCE = 6000;
const due = new Map();
const unread = new Map();
let minutes = 60;
let heardAt = null;
let problem = null;
let turning = false;

async function turn() {
  if (turning || document.hidden) return;
  turning = true;
  const now = Date.now();
  try {
    // The status first: without it the page can show nothing.
    for (const group of [parts.slice(0, 1), parts.slice(1)]) {
      await Promise.all(group.filter((part) => (due.get(part.name) ?? 0) <= now).map((part) => take(part, now)));
    }
    if ((due.get("tls") ?? 0) <= now) {
      await tls.results();
      due.set("tls", now + 60_000);
    }
    if ((due.get("watched") ?? 0) <= now) {
      await check.watched();
      due.set("watched", now + 60_000);
    }
    if ((due.get("received") ?? 0) <= now) {
      await reports.received();
      due.set("received", now + 60_000);
    }
    if ((due.get("published") ?? 0) <= now) {
      await published();
      due.set("published", now + 60_000);
    }
    heardAt = Date.now();
    problem = null;
  } catch (error) {
    problem = error;
  }
  turning = false;
  draw();
}

async function take(part, now) {
  due.set(part.name, now + part.every - EVERY / 2);
  try {
    const found = await get(part.path(), part.name === "status" ? { patience: STATUS_PATIENCE } : {});
    if (part.name === "log") {
      known.lines = found.lines;
      known.without = await failing.neverFetched(found.lines);
    }
    if (part.name in known) known[part.name] = found;
    unread.delete(part.name);
  } catch (error) {
    due.delete(part.name);
    // Without a list, the rest of the page is still right.
    if (error.gone || part.name === "status") throw error;
    unread.set(part.name, error.message);
  }
}

// -- showing -----------------------------------------------------------------------------------------------

function draw() {
  freshness();
  const { status, history, lines } = known;
  if (!status || problem) return;
  document.body.classList.remove("is-loading");
  const { now } = status;
  health(judge(status, recent(60), lines, unread));
  checks(status);
  traffic.version(status);
  traffic.kinds(status);
  traffic.modes(status);
  traffic.tiles(status, recent(60));
  if (history) traffic.charts(recent(minutes), minutes, status.started_at);
  if (known.failing) failing.draw(known.failing, known.without, status);
  if (known.expiring) policies.expiring(known.expiring, now);
  if (known.queue) policies.queue(known.queue, now);
  policies.expiringCount(status);
  policies.queueSummary(status);
  tls.state(status);
  policies.dane(status);
  policies.log(lines, $("log-all").checked);
  policies.foot(status);
}

/** The last minutes of the history; minutes before the start of the daemon have null lookups. */
function recent(most) {
  if (!known.history) return null;
  const { at, seconds, lookups, hits, answers } = known.history;
  const missing = at.length ? Math.max(most - at.length, 0) : 0;
  const cut = (list, before) => [...Array.from({ length: missing }, before), ...list.slice(-most)];
  const none = () => 0;
  const kinds = Object.entries(answers).map(([kind, list]) => [kind, cut(list, none)]);
  return {
    at: cut(at, (_, index) => at[0] - 60 * (missing - index)),
    seconds: cut(seconds, () => 60),
    lookups: cut(lookups, none),
    hits: cut(hits, none),
    answers: Object.fromEntries(kinds),
  };
}

function health(found) {
  // Spoken if the level changes, not with every figure.
  if ($("health").dataset.level !== found.level) say($("health-spoken"), [found.title, ...found.reasons.map((one) => one.text)].join(". "));
  $("health").dataset.level = found.level;
  say($("health-title"), found.title);
  show(
    $("health-reasons"),
    el("ul", {}, found.reasons.map((one) => el("li", { "data-level": one.level }, el("span", {}, one.text), one.hint ? el("span", { class: "hint" }, ` ${one.hint}`) : null))),
  );
  const marks = { good: "", warn: "(!) ", bad: "(!!) " };
  document.title = `${marks[found.level]}mtasts-daemon: ${found.title.toLowerCase()}`;
}

function checks(status) {
  show(
    $("checks"),
    status.checks.map((check) =>
      el("li", { "data-level": check.ok ? "good" : "bad", "data-key": check.name, title: check.detail }, el("span", { class: "dot", "aria-hidden": "true" }), el("span", {}, check.name), el("span", { class: "hidden" }, check.ok ? `: works, ${check.detail}` : `: fails, ${check.detail}`)),
    ),
  );
}

/** Show whether the figures are current. A hanging daemon is shown like a stopped one after 6 s. */
function freshness() {
  const stale = problem !== null;
  $("fresh").dataset.state = stale ? "stale" : heardAt === null ? "waiting" : "live";
  say($("fresh-words"), stale ? "Not up to date" : heardAt === null ? "Connecting" : `Updated ${clock(heardAt / 1000)}`);
  document.body.classList.toggle("is-stale", stale);
  if (!problem) {
    show($("gone"));
    return;
  }
  const since = heardAt === null ? "" : ` The figures below are from ${clock(heardAt / 1000)}.`;
  const what = problem.gone ? "The daemon does not answer." : `The daemon refused: ${problem.message}.`;
  if (problem.gone) health(SILENT);
  show($("gone"), el("p", {}, el("b", {}, what), `${since} The page tries again every ${span(EVERY / 1000)}.`), el("p", {}, "On its host: ", el("code", {}, "systemctl status mtasts-daemon"), " and ", el("code", {}, "journalctl -u mtasts-daemon -e"), "."));
}

// -- choices -----------------------------------------------------------------------------------------------

$("range").addEventListener("click", (event) => {
  const pressed = event.target.closest("button");
  if (!pressed) return;
  minutes = Number(pressed.dataset.minutes);
  for (const button of $("range").children) button.setAttribute("aria-pressed", String(button === pressed));
  draw();
});
$("log-all").addEventListener("change", draw);
document.addEventListener("visibilitychange", turn);

answer.start();
check.start();
reports.start(async () => {
  try {
    await reports.received();
  } catch (error) {
    problem = error;
    draw();
  }
});
turn();
setInterval(turn, EVERY);
