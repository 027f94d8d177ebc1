// What fails, and why: mail that is held up, policies that cannot be refreshed, and policies that were never had.

import { get } from "./api.js";
import { el, empty, say, show, table } from "./dom.js";
import { count, moment, NOTHING, plural } from "./format.js";
import { domain, life, mode } from "./policies.js";
import { sentence } from "./words.js";

const $ = (id) => document.getElementById(id);
const MOST_WITHOUT = 6;
const HELD_UP_FOR = 86400;

const HELD_UP = {
  "policy-permits-no-mx-host": "The policy permits none of the MX hosts",
  "dane-all-hosts-failed": "The DNS lookups of all MX hosts fail",
};
const COUNTED_AFTER = 120;

/** Domains whose mail is held up: by the log of the last day, the latest first, and by the status: ``{domain, at, reason}``. */
export function heldUp({ now, undeliverable }, lines) {
  const found = new Map();
  // The status counts once a minute; by then it knows which domains have mended what the log told of.
  const mended = (line) => now - line.at > COUNTED_AFTER && undeliverable.total === undeliverable.domains.length && !undeliverable.domains.includes(line.fields.domain);
  for (const line of lines) {
    const reason = line.event === "policy-permits-no-mx-host" && !mended(line) ? line.event : line.event === "mail-deferred" ? line.fields.reason : null;
    if (reason && now - line.at < HELD_UP_FOR && !found.has(line.fields.domain)) {
      found.set(line.fields.domain, { domain: line.fields.domain, at: line.at, reason });
    }
  }
  // The log has forgotten what it told long ago.
  for (const name of undeliverable.domains) {
    if (!found.has(name)) found.set(name, { domain: name, at: null, reason: "policy-permits-no-mx-host" });
  }
  return [...found.values()];
}

export function whyHeldUp(reason) {
  return HELD_UP[reason] ?? sentence(reason);
}

/** Entries of domains whose policy was never had: they are in no list, as nothing is stored of them. */
export async function neverHad(lines) {
  const names = new Set(lines.filter((line) => line.event === "policy-fetch-failed").map((line) => line.fields.domain));
  const found = await Promise.all([...names].slice(0, MOST_WITHOUT).map((name) => get(`/api/v1/entries/${encodeURIComponent(name)}`).catch(missing)));
  return found.filter((entry) => entry?.failure && !entry.held);
}

function missing(error) {
  if (error.gone) throw error;
  return null;
}

export function draw(page, without, lines, status) {
  const { now } = status;
  const held = heldUp(status, lines);
  const listed = new Set(held.map((one) => one.domain));
  const rows = [
    ...held.map((one) => [domain(one.domain), el("span", { class: "tag tag-deferred" }, "held up"), why(whyHeldUp(one.reason), one.reason), one.at === null ? NOTHING : el("span", { class: "quiet" }, "seen ", moment(one.at, now)), "when the domain mends it", one.reason === "policy-permits-no-mx-host" ? "in force" : NOTHING]),
    ...page.entries.filter((entry) => !listed.has(entry.domain)).map((entry) => row(entry, entry, now)),
    ...without.map((entry) => row(entry, { failure_problem: entry.failure.problem, failure_detail: entry.failure.detail, failure_count: entry.failure.count, failure_at: entry.failure.at, failure_retry_at: entry.failure.retry_at, mode: null, valid_until: null }, now)),
  ];
  const more = Math.max((page.total ?? 0) - page.entries.length, 0);
  say($("failing-count"), rows.length ? count(rows.length + more) : "");
  if (!rows.length) {
    show($("failing"), empty("Nothing fails", "Each policy that was asked for was had the last time. A domain whose policy cannot be fetched is listed here, with the reason."));
    return;
  }
  const keys = [...held, ...page.entries.filter((entry) => !listed.has(entry.domain)), ...without].map((one) => one.domain);
  show(
    $("failing"),
    table("Domains whose mail is held up or whose policy could not be had", ["Domain", "Mode", "Why", "Tried", "Tried again", "Policy held"], rows, { kind: "stacking failing", keys }),
    more ? el("p", { class: "hint" }, `And ${count(more)} more: `, el("code", {}, "mtastsctl cache list --failing"), " lists all.") : "",
  );
}

function row(entry, found, now) {
  const slug = found.failure_problem ?? found.txt_problem;
  return [
    domain(entry.domain),
    mode(found.mode),
    why(found.failure_detail || sentence(slug), slug),
    el("span", {}, plural(found.failure_count ?? 0, "attempt"), el("span", { class: "quiet" }, ", last ", moment(found.failure_at, now))),
    moment(found.failure_retry_at, now),
    life(found, now),
  ];
}

function why(words, slug) {
  return el("span", { class: "why" }, words, " ", el("code", { class: "slug" }, slug ?? ""));
}
