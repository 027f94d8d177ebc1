// TLS reports that others send about the own domains: all of them worst first, and one in detail.

import { get } from "./api.js";
import { chart } from "./charts.js";
import { el, empty, say, show, table } from "./dom.js";
import { count, full, percent, plural } from "./format.js";
import { key } from "./traffic.js";
import { RESULTS } from "./words.js";

const $ = (id) => document.getElementById(id);
const MOST_TYPES = 5;
const MOST_REPORTS = 50;
const DAY = 86_400_000;

// The reader's choice.
const chosen = { days: 30, domain: null, reporter: "", type: "" };
let shown = null;
let asked = 0;

/** Query the selected reports and draw them. Raises Refused if the daemon does not answer. */
export async function received() {
  const turn = ++asked;
  let overview;
  let domain = null;
  try {
    overview = await get(`/api/v1/received?days=${chosen.days}`);
    if (chosen.domain && overview.receiving) domain = await ofDomain(chosen.domain);
  } catch (error) {
    if (error.gone) throw error;
    overview = error.status === 404 ? { receiving: false } : { problem: error.message };
  }
  // A later choice was drawn meanwhile.
  if (turn === asked) draw(overview, domain);
}

async function ofDomain(name) {
  const query = new URLSearchParams({ days: chosen.days, reporter: chosen.reporter, type: chosen.type });
  const path = `/api/v1/received/${encodeURIComponent(name)}`;
  const [summary, reports, others] = await Promise.all([
    get(`${path}?${query}`),
    get(`${path}/reports?${query}&trusted=1&limit=${MOST_REPORTS}`),
    get(`${path}/reports?${query}&trusted=0&limit=${MOST_REPORTS}`),
  ]);
  return { summary, reports: reports.reports, others: others.reports };
}

function draw(overview, domain) {
  if (overview.problem) return nothing("Received reports cannot be read", `${overview.problem}.`);
  if (!overview.receiving) {
    return nothing("No reports are received", "Name your domains in receive.own_domains and a way in, such as receive.lmtp_socket. mtastsctl setup prints what Postfix needs.");
  }
  if (!overview.domains.length && !overview.only_unauthenticated.length && !domain) {
    return nothing("No report has come in yet", "Senders report once a day, if _smtp._tls of your domain names an address in rua.");
  }
  frame();
  const sessions = overview.domains.reduce((sum, one) => sum + one.successful + one.failed, 0);
  const failed = overview.domains.reduce((sum, one) => sum + one.failed, 0);
  say($("received-summary"), `${plural(overview.domains.length, "domain")}, ${plural(sessions, "session")}, ${percent(sessions ? failed / sessions : 0)} failed`);
  domains(overview);
  if (domain) detail(domain);
  else show($("received-detail"));
}

function nothing(title, ...words) {
  shown = null;
  say($("received-summary"), "");
  $("received").replaceChildren(el("div", { class: "panel" }, empty(title, ...words)));
}

function frame() {
  if ($("received-domains")) return;
  $("received").replaceChildren(
    el(
      "div",
      { class: "panel", role: "region", "aria-labelledby": "received-domains-title" },
      el("h3", { id: "received-domains-title" }, "By domain, the largest failed share first"),
      el("div", { class: "list", id: "received-domains" }),
    ),
    el("div", { id: "received-unauthenticated" }),
    el("p", { class: "hidden", id: "received-spoken", role: "status" }),
    el("div", { id: "received-detail", tabindex: -1, role: "region", "aria-label": "Reports about one domain" }),
  );
}

function domains({ domains: found, only_unauthenticated: unauthenticated, alerts }) {
  const rows = found.map((one) => {
    const raised = alerts.filter((alert) => alert.domain === one.domain).length;
    return [
      choice(one.domain),
      count(one.reports),
      count(one.successful),
      count(one.failed),
      percent(one.failed_share),
      raised ? plural(raised, "alert") : "none",
      day(one.last_day),
    ];
  });
  const titles = ["Domain", "Reports", "Successful", "Failed", "Share", "Alerts", "Last day"];
  show($("received-domains"), found.length ? table("Domains by failed share", titles, rows, { kind: "stacking", keys: found.map((one) => one.domain) }) : empty("No authenticated report in these days", ""));
  unproven(unauthenticated);
}

function choice(domain) {
  return el("button", { type: "button", class: "link", "data-received": domain, "aria-pressed": String(chosen.domain === domain) }, domain);
}

/** Domains that have only unauthenticated reports: these are in no chart and raise no alert. */
function unproven(found) {
  const place = $("received-unauthenticated");
  if (!found.length) return show(place);
  if (!$("received-unproven")) place.replaceChildren(panel("received-unproven", "Domains that have only unauthenticated reports, not counted"));
  const rows = found.map((one) => [choice(one.domain), `only unauthenticated reports: ${count(one.reports)}`, day(one.last_day)]);
  const titles = ["Domain", "Reports", "Last day"];
  show($("received-unproven"), table("Domains that have only unauthenticated reports", titles, rows, { kind: "stacking", keys: found.map((one) => one.domain) }));
}

// -- one domain --------------------------------------------------------------------------------------------

function detail({ summary, reports, others }) {
  if (shown !== summary.domain) {
    shown = summary.domain;
    $("received-detail").replaceChildren(
      el("div", { class: "head" }, el("h3", { id: "received-name" }), el("div", { class: "received-filters", id: "received-filters" })),
      el("div", { class: "panel", id: "received-advice" }),
      el(
        "figure",
        { class: "panel", "aria-labelledby": "received-days-title" },
        el("figcaption", {}, el("h3", { id: "received-days-title" }, "Sessions by day"), el("span", { class: "read", id: "received-days-read" })),
        el("div", { class: "chart", id: "received-days-chart" }),
        el("div", { class: "legend", id: "received-days-legend" }),
        el("details", {}, el("summary", {}, "As a table"), el("div", { class: "scroll", id: "received-days-table", tabindex: 0, role: "region", "aria-label": "Sessions by day, as a table" })),
      ),
      panel("received-failures", "What fails, where and since when"),
      panel("received-reporters", "Who reports"),
      panel("received-reports", "Reports"),
      panel("received-others", "Reports that prove nothing, not counted above"),
      el("div", { id: "received-raw", tabindex: -1, role: "region", "aria-label": "Report as it was received" }),
    );
  }
  say($("received-name"), summary.domain);
  filters(summary);
  advice(summary);
  days(summary);
  failures(summary);
  reporters(summary);
  list($("received-reports"), reports, "No report in these days");
  list($("received-others"), others, "None");
}

function panel(id, title) {
  return el("div", { class: "panel", role: "region", "aria-labelledby": `${id}-title` }, el("h3", { id: `${id}-title` }, title), el("div", { class: "list", id }));
}

function filters({ reporters: who, failures: found }) {
  const types = [...new Set([...found.map((one) => one.result_type), chosen.type])].filter(Boolean).sort();
  show(
    $("received-filters"),
    select("received-reporter", "Reporter", chosen.reporter, ["", ...who.map((one) => one.submitter)]),
    select("received-type", "Result type", chosen.type, ["", ...types]),
  );
}

function select(id, words, value, values) {
  return el(
    "label",
    { class: "received-filter" },
    el("span", {}, words),
    el("select", { id }, values.map((one) => el("option", { value: one, selected: one === value }, one || "all"))),
  );
}

function advice({ advice: found, alerts }) {
  show(
    $("received-advice"),
    el("ul", { class: "received-advice" }, [
      found.map((one) =>
        el(
          "li",
          { "data-level": one.good ? "good" : "bad" },
          el("p", {}, el("b", {}, one.good ? "In order: " : "To do: "), one.sentence),
          one.hint ? el("p", { class: "hint" }, `${one.hint[0].toUpperCase()}${one.hint.slice(1)}.`) : null,
          el("details", {}, el("summary", {}, "Evidence"), el("ul", {}, one.evidence.map((line) => el("li", {}, line)))),
        ),
      ),
      alerts.map((alert) => el("li", { "data-level": "bad" }, el("p", {}, el("b", {}, "Alert: "), alert.sentence))),
    ]),
  );
}

function days({ days: found, since, until }) {
  const all = calendar(since, until);
  const byDay = new Map(found.map((one) => [one.day, one]));
  const sums = new Map();
  for (const one of found) for (const [type, value] of Object.entries(one.types)) sums.set(type, (sums.get(type) ?? 0) + value);
  const types = [...sums].sort((a, b) => b[1] - a[1]).map(([type]) => type);
  const first = chosen.type ? types.filter((type) => type === chosen.type) : types.slice(0, MOST_TYPES);
  const named = (one) => first.reduce((sum, type) => sum + (one.types[type] ?? 0), 0);
  const series = [
    { name: "successful", slug: "secure", values: all.map((text) => byDay.get(text)?.successful ?? 0) },
    ...first.map((type, index) => ({ name: type, slug: `reason-${index}`, values: all.map((text) => byDay.get(text)?.types[type] ?? 0) })),
  ];
  if (!chosen.type) series.push({ name: "other failures", slug: "none", values: all.map((text) => rest(byDay.get(text), named)) });
  const used = series.filter((one) => one.values.some((value) => value > 0));
  const words = (index) => {
    const one = byDay.get(all[index]);
    return one ? `${plural(one.successful, "session")} successful, ${count(one.failed)} failed` : "no report";
  };
  chart($("received-days-chart"), $("received-days-read"), {
    kind: "stack",
    labels: all.map(day),
    series: used,
    format: count,
    words: `Sessions by day and result from ${day(since)} to ${day(until)}. The table below has the figures.`,
    reading: (index) => `${day(all[index])}  ${words(index)}`,
  });
  show($("received-days-legend"), used.map((one) => key(one.slug, one.name)));
  const rows = [...found].reverse().map((one) => [day(one.day), count(one.reports), count(one.successful), count(one.failed), Object.entries(one.types).map(([type, value]) => `${type} ${count(value)}`).join(", ") || "none"]);
  show($("received-days-table"), table("Sessions by day", ["Day", "Reports", "Successful", "Failed", "Types"], rows, { kind: "figures" }));
}

/** Failed sessions of a day that no failure detail accounts for. */
function rest(one, named) {
  return one ? Math.max(one.failed - named(one), 0) : 0;
}

function failures({ failures: found }) {
  const rows = found.map((one) => [
    el("span", {}, el("code", {}, one.result_type), el("span", { class: "quiet" }, ` ${RESULTS[one.result_type] ?? ""}`)),
    one.mx_host || "not reported",
    count(one.failed),
    `${day(one.first_day)} to ${day(one.last_day)}`,
    plural(one.reporters, "reporter"),
    one.changes.length ? el("ul", {}, one.changes.map((change) => el("li", {}, `${full(change.at)}: ${change.text}`))) : "nothing known",
  ]);
  const titles = ["Failure", "MX host", "Sessions", "First and last day", "Reported by", "What changed then"];
  show($("received-failures"), rows.length ? table("Failures by type and MX host", titles, rows, { kind: "stacking" }) : empty("No failure was reported", ""));
}

function reporters({ reporters: found }) {
  const rows = found.map((one) => [one.submitter, plural(one.days, "day"), count(one.successful), count(one.failed), day(one.last_day)]);
  show($("received-reporters"), rows.length ? table("Reporters by sessions", ["Reporter", "Reported", "Successful", "Failed", "Last day"], rows, { kind: "stacking" }) : empty("No report in these days", ""));
}

function list(place, found, none) {
  const rows = found.map((one) => [
    el("button", { type: "button", class: "link", "data-raw": one.id, "aria-label": `Show report ${one.id}` }, one.report_id || `report ${one.id}`),
    day(one.day),
    one.submitter || "unknown",
    `${one.method} ${one.auth_detail}`.trim(),
    one.revision > 1 ? `${one.revision}${one.counted ? "" : ", not counted"}` : one.counted || !one.trusted ? "1" : "1, replaced",
    count(one.successful),
    count(one.failed),
    one.deviations.join(", ") || "none",
  ]);
  const titles = ["Report", "Day", "Reporter", "Authenticated", "Revision", "Successful", "Failed", "Deviations"];
  show(place, rows.length ? table("Reports, newest first", titles, rows, { kind: "stacking", keys: found.map((one) => String(one.id)) }) : empty(none, ""));
}

async function raw(number) {
  const place = $("received-raw");
  try {
    const { text, complete } = await get(`/api/v1/received-reports/${number}/raw`);
    const words = `Report ${number} as it was received${complete ? "" : ", its beginning"}`;
    show(place, el("div", { class: "panel" }, el("h3", {}, words), el("pre", { class: "received-text", tabindex: 0, "aria-label": words }, pretty(text))));
  } catch (error) {
    show(place, el("div", { class: "panel" }, empty("The report cannot be shown", `${error.message}.`)));
  }
  place.focus();
}

function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

function calendar(since, until) {
  const found = [];
  for (let at = Date.parse(`${since}T00:00:00Z`); at <= Date.parse(`${until}T00:00:00Z`); at += DAY) found.push(new Date(at).toISOString().slice(0, 10));
  return found;
}

const day = (text) => new Date(`${text}T12:00:00Z`).toLocaleDateString("en-GB", { day: "numeric", month: "short", timeZone: "UTC" });

// -- choices -----------------------------------------------------------------------------------------------

/** Listen to what the reader chooses. `again` asks and draws. */
export function start(again) {
  $("received-range").addEventListener("click", (event) => {
    const pressed = event.target.closest("button");
    if (!pressed) return;
    chosen.days = Number(pressed.dataset.days);
    for (const button of $("received-range").children) button.setAttribute("aria-pressed", String(button === pressed));
    again();
  });
  $("received").addEventListener("click", async (event) => {
    const name = event.target.closest("[data-received]")?.dataset.received;
    const number = event.target.closest("[data-raw]")?.dataset.raw;
    if (number) await raw(number);
    if (!name) return;
    Object.assign(chosen, { domain: name, reporter: "", type: "" });
    await again();
    say($("received-spoken"), `Reports about ${name}`);
    $("received-detail").focus();
  });
  $("received").addEventListener("change", (event) => {
    if (event.target.id === "received-reporter") chosen.reporter = event.target.value;
    if (event.target.id === "received-type") chosen.type = event.target.value;
    again();
  });
}
