// The policies of the own domains: mode, id, gate, next step and reports of each; those that need attention first.

import { get } from "./api.js";
import { el, empty, say, show, table } from "./dom.js";
import { count, moment, percent, plural } from "./format.js";

const $ = (id) => document.getElementById(id);
const MOST = 100;
const DAYS = 7;

/** Ask and draw. Raises Refused if the daemon does not answer. */
export async function published() {
  const [overview, attention, first, reports] = await Promise.all([
    get("/api/v1/publish"),
    get(`/api/v1/publish/domains?attention=1&limit=${MOST}`),
    get(`/api/v1/publish/domains?limit=${MOST}`),
    reported(),
  ]);
  $("published-section").hidden = !overview.domains && !overview.problems.length;
  const known = new Set(attention.domains.map((one) => one.domain));
  const domains = [...attention.domains, ...first.domains.filter((one) => !known.has(one.domain))].slice(0, MOST);
  draw(overview, domains, reports);
}

/** Sessions by domain in the last days; empty if no reports are received. */
async function reported() {
  try {
    const found = await get(`/api/v1/received?days=${DAYS}`);
    return new Map((found.domains ?? []).map((one) => [one.domain, one]));
  } catch (error) {
    if (error.gone) throw error;
    return new Map();
  }
}

function draw(overview, domains, reports) {
  const words = [plural(overview.domains, "domain")];
  if (overview.gated) words.push(`${count(overview.gated)} wait for the gate`);
  if (overview.with_findings) words.push(`${count(overview.with_findings)} with findings`);
  if (overview.unchecked) words.push(`${count(overview.unchecked)} not checked since the start`);
  say($("published-summary"), words.join(", "));
  const problems = [...overview.problems];
  if (overview.domains && !overview.listening.length) problems.push("Policies are served nowhere: add public.listen.");
  const now = Date.now() / 1000;
  show(
    $("published"),
    problems.map((problem) => el("p", { class: "summary" }, problem)),
    domains.length ? listed(domains, reports, now) : empty("No domain is published", "Name your domains in publish.domains."),
    overview.domains > domains.length
      ? el("p", { class: "summary" }, `${count(overview.domains - domains.length)} more: mtastsctl publish list`)
      : null,
  );
}

function listed(domains, reports, now) {
  const rows = domains.map((one) => [
    one.domain,
    one.mode ?? "nothing served",
    one.id ? el("code", { title: one.id }, one.id.slice(0, 8)) : "–",
    moment(one.live_since, now),
    gate(one, now),
    one.next_step || "nothing to do",
    sessions(reports.get(one.domain)),
  ]);
  const titles = ["Domain", "Mode", "Id", "Live since", "Gate", "Next step", `Reports, ${DAYS} days`];
  const keys = domains.map((one) => one.domain);
  return table("Published domains, those that need attention first", titles, rows, { kind: "stacking", keys });
}

function gate(one, now) {
  const words = [];
  if (one.forced) words.push(`forced: ${one.forced}`);
  if (one.gate) words.push(one.gate.passed ? "passed" : plural(one.gate.problems.length, "problem"));
  if (one.findings) words.push(plural(one.findings, "finding"));
  words.push(...one.problems);
  // A verdict without its age would look like one of now.
  const at = one.gate?.at ?? one.checked_at;
  const verdict = words.join("; ") || (at ? "no findings" : "not checked yet");
  return el("span", {}, verdict, at ? [", ", moment(at, now)] : null);
}

function sessions(found) {
  if (!found) return "none";
  const all = found.successful + found.failed;
  return `${plural(all, "session")}, ${percent(all ? found.failed / all : 0)} failed`;
}
