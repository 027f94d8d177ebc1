// How the daemon is, in one colour and in words. Pure: what the API said goes in, reasons come out.

import { heldUp, whyHeldUp } from "./failing.js";
import { count, plural, span, within } from "./format.js";

const ERRORS_COUNT_FOR = 900;
const DEFERRED_SHARE = 0.05;
const REPORTED_WITHIN = 36 * 3600;

const CHECKS = {
  listeners: ["Postfix has nobody to ask", "See listen in the configuration, and the log."],
  store: ["The store does not work", "Policies live in memory only and are lost at a restart. See the log, and store.path."],
  resolver: ["DNS does not answer", "Cached policies are served; new domains cannot be discovered. See dns.resolvers and the resolver itself."],
  refresher: ["Policies are not refreshed", "They end one by one. The log says where the refresher stands; a restart helps."],
};

const TITLES = {
  good: "All is well",
  warn: "Needs a look",
  bad: "Something is broken",
};

/** ``{level, title, reasons: [{level, text, hint}]}`` of a status, the minutes of history, the last log lines and what could not be read. */
export function judge(status, history, lines, unread) {
  const reasons = [
    ...failedChecks(status),
    ...deferred(history),
    ...mailHeldUp(status, lines),
    ...policiesAtRisk(status),
    ...reportsLate(status),
    ...configuration(status),
    ...errorLines(status, lines),
    ...[...unread].map(([name, message]) => reason("warn", `What is shown as ${name} cannot be read: ${message}.`)),
  ];
  const level = reasons.some((one) => one.level === "bad") ? "bad" : reasons.length ? "warn" : "good";
  return { level, title: TITLES[level], reasons: reasons.length ? reasons : [{ level: "good", text: calm(status, history) }] };
}

function reason(level, text, hint = "") {
  return { level, text, hint };
}

function failedChecks(status) {
  return status.checks
    .filter((check) => !check.ok)
    .map((check) => {
      const [text, hint] = CHECKS[check.name] ?? [`${check.name} does not work`, "See the log."];
      return reason("bad", `${text}: ${check.detail}.`, hint);
    });
}

/** Answers that defer mail, in the last hour. */
export function deferredOf(history) {
  const minutes = (history?.answers?.temp ?? []).slice(-60);
  const all = (history?.lookups ?? []).slice(-60);
  const sum = (list) => list.reduce((total, value) => total + value, 0);
  return { temp: sum(minutes), lookups: sum(all) };
}

function deferred(history) {
  const { temp, lookups } = deferredOf(history);
  if (!temp) return [];
  const level = temp / lookups > DEFERRED_SHARE ? "bad" : "warn";
  const text = `${plural(temp, "lookup was", "lookups were")} answered so that mail is deferred, of ${count(lookups)} in the last hour.`;
  return [reason(level, text, "The log below names the domains and the reason; explain one of them.")];
}

function mailHeldUp(status, lines) {
  const found = heldUp(status, lines);
  if (!found.length) return [];
  const names = found.slice(0, 3).map((one) => one.domain).join(", ");
  const more = Math.max(found.length, status.undeliverable.total) - 3;
  const others = more > 0 ? ` and ${count(more)} more` : "";
  const reasons = [...new Set(found.map((one) => within(whyHeldUp(one.reason))))];
  return [reason("warn", `Mail to ${names}${others} is held up: ${reasons.join("; ")}.`, "Explain the domain to see it step by step, and what can be done.")];
}

function policiesAtRisk(status) {
  const risk = status.cache.enforce_at_risk;
  if (!risk) return [];
  const text = `${plural(risk, "enforced policy ends", "enforced policies end")} within a day and cannot be refreshed.`;
  return [reason("warn", text, "They are below, under what expires next. After that, mail to these domains goes without.")];
}

function reportsLate({ tlsrpt, now }) {
  const since = tlsrpt.sending ? (tlsrpt.reports?.waits_since ?? null) : null;
  if (since === null || now - since < REPORTED_WITHIN) return [];
  const text = `TLS reports of a day that ended ${span(now - since)} ago have not been delivered.`;
  return [reason("warn", text, "mtastsctl tlsrpt status says of which days; the log has what begins with tlsrpt-.")];
}

function configuration(status) {
  if (status.reload.ok) return [];
  const problems = status.reload.problems;
  const text = `The configuration as it is written is not in force: ${problems[0]}${problems.length > 1 ? `, and ${problems.length - 1} more` : ""}.`;
  return [reason("warn", text, "The one before is in force. mtasts-daemon check-config names each problem with its line.")];
}

function errorLines(status, lines) {
  const late = lines.filter((line) => line.level === "error" && status.now - line.at < ERRORS_COUNT_FOR);
  if (!late.length) return [];
  return [reason("warn", `${plural(late.length, "error was", "errors were")} logged in the last ${span(ERRORS_COUNT_FOR)}, the last one ${late[0].event}.`,
    "The log is at the end of this page.")];
}

function calm(status, history) {
  const { lookups } = deferredOf(history);
  const policies = Object.values(status.cache.modes).reduce((total, value) => total + value, 0);
  const stored = policies ? `${plural(policies, "policy is", "policies are")} valid.` : "No policy is stored yet.";
  return lookups ? `No mail was deferred in the last hour, in ${plural(lookups, "lookup")}. ${stored}` : `Nothing is wrong. ${stored}`;
}
