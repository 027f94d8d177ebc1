// TLS results: the share of failed sessions by day, by domain and by reason.

import { get } from "./api.js";
import { chart } from "./charts.js";
import { el, empty, say, show, svg, table } from "./dom.js";
import { count, moment, percent, plural, span } from "./format.js";
import { key } from "./traffic.js";
import { reasonSlug, RESULTS } from "./words.js";

const $ = (id) => document.getElementById(id);
const DAYS = 30;
const MOST_REASONS = 6;

/** Fetch and draw the results. Throws Refused if the daemon does not answer. */
export async function results() {
  let found;
  try {
    found = await get(`/api/v1/tls-results?days=${DAYS}`);
  } catch (error) {
    if (error.gone) throw error;
    found = error.status === 404 ? { collecting: false } : { problem: error.message };
  }
  draw(found);
}

export function draw(found) {
  if (found.problem) return nothing("TLS results cannot be read", `${found.problem}.`);
  if (!found.collecting) {
    return nothing("TLS reports are off", "Set tlsrpt.socket in the configuration, and let Postfix 3.10 or later write to it (smtp_tlsrpt_enable, smtp_tlsrpt_socket_name). Then the results with each domain are shown here.");
  }
  const sessions = sum(found.sessions);
  if (!sessions && !found.reasons.length) return nothing("No TLS results yet", "Postfix sends them as it delivers mail. mtastsctl tlsrpt status shows what was received.");
  frame();
  const failed = sum(found.failed);
  say($("tls-summary"), `${plural(sessions, "session")} in ${plural(found.days.length, "day")}, ${percent(sessions ? failed / sessions : 0)} failed`);
  shares(found);
  reasons(found);
  domains(found);
}

/** The state of TLS reports. */
export function state({ tlsrpt, now }) {
  if (!tlsrpt.collecting) return show($("tls-state"));
  const { received, rejected, last_at } = tlsrpt.events;
  const refused = sum(Object.values(rejected));
  const events = received
    ? el("span", {}, `${plural(received, "result")} since the start${refused ? `, ${count(refused)} of them rejected` : ""}, the last `, moment(last_at, now), ". ")
    : "No result since the start. ";
  return show($("tls-state"), events, ofReports(tlsrpt, now));
}

function ofReports({ sending, reports }, now) {
  if (!sending) return "No reports are sent: set tlsrpt.organization, tlsrpt.contact and tlsrpt.sender.";
  if (!reports) return "Reports are not counted yet.";
  const late = reports.waits_since !== null && now > reports.waits_since ? `, the first for a day that ended ${span(now - reports.waits_since)} ago` : "";
  const waiting = reports.waiting ? `${plural(reports.waiting, "report waits", "reports wait")}, ${count(reports.due)} of them due${late}.` : "No report waits.";
  return `${waiting} In seven days ${count(reports.delivered)} delivered, ${count(reports.refused)} refused, ${count(reports.failed)} failed.`;
}

const sum = (list) => list.reduce((total, value) => total + value, 0);
const share = (failed, sessions) => (sessions ? failed / sessions : null);
const day = (text) => new Date(`${text}T12:00:00Z`).toLocaleDateString("en-GB", { day: "numeric", month: "short", timeZone: "UTC" });

function nothing(title, ...words) {
  say($("tls-summary"), "");
  show($("tls"), el("div", { class: "panel" }, empty(title, ...words)));
}

function frame() {
  if ($("share-chart")) return;
  const figure = (id, title) =>
    el(
      "figure",
      { class: "panel", "aria-labelledby": `${id}-title` },
      el("figcaption", {}, el("h3", { id: `${id}-title` }, title), el("span", { class: "read", id: `${id}-read` })),
      el("div", { class: "chart", id: `${id}-chart` }),
      el("div", { class: "legend", id: `${id}-legend` }),
      el("details", {}, el("summary", {}, "As a table"), el("div", { class: "scroll", id: `${id}-table`, tabindex: 0, role: "region", "aria-label": `${title}, as a table` })),
    );
  $("tls").replaceChildren(
    el("div", { class: "grid halves" }, figure("share", "Share of failed sessions"), figure("reason", "Failures by reason")),
    el("p", { class: "hint" }, "Failures include those of policies and DNS, which belong to no session, so there may be more failures than failed sessions."),
    el("div", { class: "panel", role: "region", "aria-labelledby": "tls-domains-title" }, el("h3", { id: "tls-domains-title" }, "By domain, most failures first"), el("div", { class: "list", id: "tls-domains" })),
  );
}

function shares(found) {
  const values = found.days.map((_, index) => share(found.failed[index], found.sessions[index]));
  const words = (index) => (values[index] === null ? "no session" : `${percent(values[index])} of ${plural(found.sessions[index], "session")}`);
  chart($("share-chart"), $("share-read"), {
    kind: "line",
    labels: found.days.map(day),
    series: [{ name: "failed", slug: "temp", values }],
    format: percent,
    resting: "days in UTC",
    words: `Share of failed TLS sessions, from ${day(found.days[0])} to ${day(found.days.at(-1))}. The table below has the figures.`,
    reading: (index) => `${day(found.days[index])}  ${words(index)}`,
  });
  const rows = found.days.map((text, index) => [day(text), count(found.sessions[index]), count(found.failed[index]), percent(values[index])]).reverse();
  show($("share-table"), table("TLS sessions by day", ["Day", "Sessions", "Failed", "Share"], rows, { kind: "figures" }));
}

function reasons(found) {
  const first = found.reasons.slice(0, MOST_REASONS);
  const rest = found.reasons.slice(MOST_REASONS);
  const series = first.map((one) => ({ name: one.reason, slug: reasonSlug(one.reason), values: one.counts }));
  if (rest.length) series.push({ name: "others", slug: "none", values: found.days.map((_, index) => sum(rest.map((one) => one.counts[index]))) });
  chart($("reason-chart"), $("reason-read"), {
    kind: "stack",
    labels: found.days.map(day),
    series,
    format: count,
    resting: `${plural(sum(found.reasons.map((one) => sum(one.counts))), "failure")}, ${plural(sum(found.failed), "failed session")}`,
    words: `Failures by day and reason: ${series.map((one) => `${one.name} ${count(sum(one.values))}`).join(", ") || "none"}. The table below has the figures.`,
    reading: (index) => `${day(found.days[index])}  ${series.filter((one) => one.values[index]).map((one) => `${one.name} ${count(one.values[index])}`).join("  ") || "no failure"}`,
  });
  show($("reason-legend"), series.map((one) => key(one.slug, one.name)));
  const rows = found.reasons.map((one) => [el("span", {}, el("code", {}, one.reason), el("span", { class: "quiet" }, ` ${RESULTS[one.reason] ?? ""}`)), count(sum(one.counts))]);
  show($("reason-table"), table("Failures by reason", ["Reason", "Failures"], rows, { kind: "figures" }));
}

function domains(found) {
  const highest = (one) => Math.max(...found.days.map((_, index) => share(one.failed[index], one.sessions[index]) ?? 0));
  const top = Math.max(0.05, ...found.domains.map(highest));
  const rows = found.domains.map((one) => {
    const [sessions, failed] = [sum(one.sessions), sum(one.failed)];
    const shares = found.days.map((_, index) => share(one.failed[index], one.sessions[index]));
    return [
      el("button", { type: "button", class: "link", "data-explain": one.domain, title: "Explain" }, one.domain),
      count(sessions),
      count(failed),
      percent(share(failed, sessions) ?? NaN),
      spark(shares, top),
    ];
  });
  if (!rows.length) return show($("tls-domains"), empty("No sessions", ""));
  return show($("tls-domains"), table("TLS sessions by domain", ["Domain", "Sessions", "Failed", "Share", "Day by day"], rows, { kind: "stacking", keys: found.domains.map((one) => one.domain) }));
}

/** A small chart of shares up to `top`; the figures next to it are the sums. */
function spark(shares, top) {
  const width = 120;
  const slot = width / Math.max(shares.length, 1);
  const columns = shares.map((value, index) =>
    value === null ? null : svg("rect", { class: value ? "fill-temp" : "fill-base", x: index * slot, width: Math.max(slot - 1, 1), y: value ? 22 - Math.max((20 * value) / top, 2) : 21, height: value ? Math.max((20 * value) / top, 2) : 1 }),
  );
  return svg("svg", { class: "spark", width, height: 22, viewBox: `0 0 ${width} 22`, "aria-hidden": "true" }, columns);
}
