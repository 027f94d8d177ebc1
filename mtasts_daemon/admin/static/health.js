// The state of the daemon as one colour and a list of reasons. Pure: the API's JSON goes in.

import { count, plural, span } from "./format.js";

const ERRORS_COUNT_FOR = 900;
const DEFERRED_SHARE = 0.05;
const REPORTED_WITHIN = 36 * 3600;

const CHECKS = {
  listeners: ["No listener is open, so Postfix defers mail", "See listen in the configuration, and the log."],
  store: ["The store fails", "New policies are in memory only and are lost at a restart. See the log and store.path."],
  resolver: ["The resolver does not answer", "Cached policies apply; policies of other domains cannot be discovered. See dns.resolvers and the resolver."],
  refresher: ["Policies are not refreshed", "They expire one by one. See the log; a restart helps."],
  certificates: ["No policy can be fetched", "There are no CA certificates. Install the package ca-certificates, or set https.ca_file."],
};

/** ``{level, title, reasons: [{level, text, hint}]}`` of a status, the minutes of history, the last log lines and the parts that could not be read. */
export function judge(status, history, lines, unread) {
  const reasons = [
    ...failedChecks(status),
    ...mailDeferred(status),
    ...deferred(status, history),
    ...policiesAtRisk(status),
    ...reportsLate(status),
    ...configuration(status),
    ...errorLines(status, lines),
    ...[...unread].map(([name, message]) => reason("warn", `The part "${name}" cannot be read: ${message}.`)),
  ];
  const level = reasons.some((one) => one.level === "bad") ? "bad" : reasons.length ? "warn" : "good";
  return { level, title: title(status, reasons), reasons: reasons.length ? reasons : [{ level: "good", text: calm(status, history) }] };
}

function reason(level, text, hint = "") {
  return { level, text, hint };
}

function failedChecks(status) {
  return status.checks
    .filter((check) => !check.ok)
    .map((check) => {
      const [text, hint] = CHECKS[check.name] ?? [`${check.name} fails`, "See the log."];
      return reason("bad", `${text}: ${check.detail}.`, hint);
    });
}

/** Replies that deferred mail in the last hour, and all lookups. */
export function deferredOf(history) {
  const minutes = (history?.answers?.temp ?? []).slice(-60);
  const all = (history?.lookups ?? []).slice(-60);
  const sum = (list) => list.reduce((total, value) => total + value, 0);
  return { temp: sum(minutes), lookups: sum(all) };
}

function deferred(status, history) {
  const { temp, lookups } = deferredOf(history);
  if (!temp || status.deferred.total) return [];
  const level = temp / lookups > DEFERRED_SHARE ? "bad" : "warn";
  const text = `${count(temp)} of ${plural(lookups, "lookup")} in the last hour deferred mail. No mail is deferred now.`;
  return [reason(level, text, "The log below names the domains and the reasons.")];
}

function mailDeferred({ deferred: { total, domains } }) {
  if (!total) return [];
  const names = domains.slice(0, 3).map((one) => one.domain).join(", ");
  const others = total > 3 ? ` and ${count(total - 3)} more` : "";
  const reasons = [...new Set(domains.map((one) => one.sentence))];
  return [reason("bad", `Mail to ${names}${others} is deferred: ${reasons.join("; ")}.`, "Explain a domain to see each step and what to do.")];
}

/** The headline: the first problem in a few words. */
function title({ checks, deferred: { total } }, reasons) {
  const failed = checks.find((check) => !check.ok);
  if (failed) return CHECKS[failed.name]?.[0] ?? `${failed.name} fails`;
  if (total) return `Mail to ${plural(total, "domain")} is deferred`;
  if (!reasons.length) return "No problems";
  return reasons.length === 1 ? "1 warning" : `${reasons.length} warnings`;
}

function policiesAtRisk(status) {
  const risk = status.cache.enforce_at_risk;
  if (!risk) return [];
  const text = `${plural(risk, "enforced policy expires", "enforced policies expire")} within a day and cannot be refreshed.`;
  return [reason("warn", text, "They are listed under Expiring next. When they have expired, mail to these domains is delivered without a policy.")];
}

function reportsLate({ tlsrpt, now }) {
  const since = tlsrpt.sending ? (tlsrpt.reports?.waits_since ?? null) : null;
  if (since === null || now - since < REPORTED_WITHIN) return [];
  const text = `TLS reports of a day that ended ${span(now - since)} ago have not been delivered.`;
  return [reason("warn", text, "mtastsctl tlsrpt status names the days. See the log events that begin with tlsrpt-.")];
}

function configuration(status) {
  if (status.reload.ok) return [];
  const problems = status.reload.problems;
  const text = `The new configuration was rejected: ${problems[0]}${problems.length > 1 ? `, and ${problems.length - 1} more` : ""}.`;
  return [reason("warn", text, "The previous configuration is in force. mtasts-daemon check-config names each problem with its line.")];
}

function errorLines(status, lines) {
  const late = lines.filter((line) => line.level === "error" && status.now - line.at < ERRORS_COUNT_FOR);
  if (!late.length) return [];
  return [reason("warn", `${plural(late.length, "error was", "errors were")} logged in the last ${span(ERRORS_COUNT_FOR)}; the last is ${late[0].event}.`,
    "See the log at the end of this page.")];
}

function calm(status, history) {
  const { lookups } = deferredOf(history);
  const policies = Object.values(status.cache.modes).reduce((total, value) => total + value, 0);
  const stored = policies ? `${plural(policies, "policy is", "policies are")} valid.` : "No policy is stored yet.";
  return lookups ? `No mail was deferred in the last hour, in ${plural(lookups, "lookup")}. ${stored}` : `No lookups in the last hour. ${stored}`;
}
