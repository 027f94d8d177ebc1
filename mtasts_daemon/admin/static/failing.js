// Problems: domains whose mail is deferred, policies that cannot be refreshed, and policies that were never fetched.

import { get } from "./api.js";
import { el, empty, say, show, table } from "./dom.js";
import { count, moment, NOTHING, plural, span } from "./format.js";
import { domain, life, mode } from "./policies.js";
import { sentence } from "./words.js";

const $ = (id) => document.getElementById(id);
const MOST_WITHOUT = 6;

/** Entries of domains whose policy was never fetched. They are in no list, because nothing is stored for them. */
export async function neverFetched(lines) {
  const names = new Set(lines.filter((line) => line.event === "policy-fetch-failed").map((line) => line.fields.domain));
  const found = await Promise.all([...names].slice(0, MOST_WITHOUT).map((name) => get(`/api/v1/entries/${encodeURIComponent(name)}`).catch(missing)));
  return found.filter((entry) => entry?.failure && !entry.held);
}

function missing(error) {
  if (error.gone) throw error;
  return null;
}

export function draw(page, without, status) {
  const { now, deferred } = status;
  const listed = new Set(deferred.domains.map((one) => one.domain));
  const failing = page.entries.filter((entry) => !listed.has(entry.domain));
  const never = without.filter((entry) => !listed.has(entry.domain));
  const rows = [
    ...deferred.domains.map((one) => [
      domain(one.domain),
      el("span", { class: "tag tag-deferred" }, "deferred"),
      why(one.sentence[0].toUpperCase() + one.sentence.slice(1), one.reason),
      el("span", {}, "for ", span(Math.max(now - one.since, 0))),
      "when corrected",
      one.reason === "policy-permits-no-mx-host" ? "in force" : NOTHING,
    ]),
    ...failing.map((entry) => row(entry, entry, now)),
    ...never.map((entry) => row(entry, { failure_problem: entry.failure.problem, failure_detail: entry.failure.detail, failure_count: entry.failure.count, failure_at: entry.failure.at, failure_retry_at: entry.failure.retry_at, mode: null, valid_until: null }, now)),
  ];
  const more = Math.max((page.total ?? 0) - page.entries.length, 0) + Math.max(deferred.total - deferred.domains.length, 0);
  say($("failing-count"), rows.length ? count(rows.length + more) : "");
  $("problems").hidden = !rows.length;
  if (!rows.length) {
    show($("failing"), empty("No problems", "The last fetch of every policy succeeded, and no mail is deferred."));
    return;
  }
  const keys = [...deferred.domains, ...failing, ...never].map((one) => one.domain);
  show(
    $("failing"),
    table("Domains whose mail is deferred or whose policy cannot be fetched", ["Domain", "State", "Reason", "Duration or attempts", "Next attempt", "Policy"], rows, { kind: "stacking failing", keys }),
    more ? el("p", { class: "hint" }, `And ${plural(more, "more domain", "more domains")}. List all: `, el("code", {}, "mtastsctl cache list --failing"), " and ", el("code", {}, "mtastsctl status"), ".") : "",
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
