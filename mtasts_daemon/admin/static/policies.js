// Policies that expire or are refreshed next; DNSSEC and DANE; the log.

import { el, empty, say, show, table } from "./dom.js";
import { clock, count, full, moment, NOTHING, plural, span } from "./format.js";

const $ = (id) => document.getElementById(id);

/** A button that explains the domain. */
export function domain(name) {
  return el("button", { type: "button", class: "link", "data-explain": name, title: `Explain ${name}` }, name);
}

export function mode(name) {
  return name ? el("span", { class: `tag tag-${name}` }, name) : el("span", { class: "quiet" }, "no policy");
}

function list(id, found, rows, titles, about, none) {
  if (!found.length) {
    show($(id), none);
    return;
  }
  show($(id), table(about, titles, found.map(rows), { kind: "stacking short", keys: found.map((one) => one.domain) }));
}

export function life(entry, now) {
  if (entry.valid_until === null) return el("span", { class: "quiet" }, "none");
  if (entry.valid_until <= now) return el("span", { class: "quiet" }, "expired ", moment(entry.valid_until, now));
  return el("span", {}, "expires ", moment(entry.valid_until, now));
}

export function expiring(page, now) {
  list(
    "expiring",
    page.entries,
    (entry) => [
      domain(entry.domain),
      mode(entry.mode),
      moment(entry.valid_until, now),
      entry.failure_problem ? el("span", { class: "bad-words" }, "fails") : moment(entry.due_at, now),
    ],
    ["Domain", "Mode", "Expires", "Refresh"],
    "Policies, those that expire first at the top",
    empty("No policy is stored", "Policies are discovered when Postfix looks domains up. If none appear, check main.cf with: mtastsctl setup"),
  );
}

export function expiringCount(status) {
  say($("expiring-count"), status.cache.expiring ? `${count(status.cache.expiring)} within a day` : "");
}

export function queue(page, now) {
  list(
    "queue",
    page.entries.filter((entry) => entry.due_at !== null),
    (entry) => [
      domain(entry.domain),
      entry.due_at <= now ? el("span", {}, "overdue by ", span(now - entry.due_at)) : moment(entry.due_at, now),
      moment(entry.last_used, now),
    ],
    ["Domain", "Refresh", "Last lookup"],
    "Policies, those to be refreshed first at the top",
    empty("No refresh is due", "A policy is fetched again after a day, or after half its max_age."),
  );
}

export function queueSummary(status) {
  const { refresher, now } = status;
  say($("queue-count"), refresher.due ? `${count(refresher.due)} due` : "");
  const failures = Object.entries(refresher.failures).sort(([, a], [, b]) => b - a);
  const failed = failures.reduce((total, [, value]) => total + value, 0);
  show(
    $("queue-summary"),
    refresher.due ? `${plural(refresher.due, "policy is", "policies are")} due${refresher.due_since ? `, the first for ${span(now - refresher.due_since)}` : ""}. ` : "Nothing is overdue. ",
    `${count(refresher.under_way)} in progress, ${count(refresher.refreshes)} done since the start`,
    failed ? `, ${count(failed)} failed (mostly ${failures[0][0]}). ` : ". ",
    refresher.last_success ? el("span", {}, "Last success ", moment(refresher.last_success, now), ".") : "",
  );
}

// -- DNSSEC and DANE ---------------------------------------------------------------------------------------

const VALIDATES = {
  true: ["good", "The resolver validates DNSSEC."],
  false: ["off", "The resolver does not validate DNSSEC, or is not trusted (dns.trust_ad), so DANE is off. MTA-STS works without it. With a validating resolver on this host, DANE is switched on automatically."],
  null: ["off", "Whether the resolver validates DNSSEC is not known yet."],
};
const DANE = {
  auto: "depends on the resolver and main.cf",
  on: "for domains with an enforced policy",
  always: "for every domain",
  off: "left to Postfix",
};

/** When DANE is used. Without a validating resolver it has no effect. */
function when(setting, validates) {
  return validates === false && setting !== "off" ? "but it has no effect without a validating resolver" : (DANE[setting] ?? "");
}

export function dane(status) {
  const [level, words] = VALIDATES[String(status.dns.validates)];
  const zones = Object.entries(status.zones);
  show(
    $("dane"),
    el("p", { class: "state", "data-level": level }, el("span", { class: "dot", "aria-hidden": "true" }), words),
    table(
      "Map names",
      ["Map name", "DANE", "Replies for", "Default level"],
      zones.map(([name, zone]) => [
        el("code", {}, name),
        el("span", {}, zone.dane, el("span", { class: "quiet" }, `, ${when(zone.dane, status.dns.validates)}`)),
        zone.dialect === "tlsrpt" ? "Postfix 3.10 and later, with TLS reports" : "Postfix 3.4 and later",
        zone.default_level ?? el("span", { class: "quiet" }, "not set"),
      ]),
      { kind: "stacking", keys: zones.map(([name]) => name) },
    ),
    status.overrides ? el("p", { class: "hint" }, `${plural(status.overrides, "override")} in the configuration; `, el("a", { href: "/api/v1/overrides" }, "domains and reasons"), ".") : "",
  );
}

// -- the log -----------------------------------------------------------------------------------------------

/** Lines of the log, the newest first. */
export function log(lines, all) {
  const shown = (all ? lines : lines.filter((line) => line.level === "warning" || line.level === "error")).slice(0, 60);
  if (!shown.length) {
    show($("log"), all ? empty("No log lines", "") : empty("No warnings", "Tick the box to see the other lines."));
    return;
  }
  show($("log"), el("ul", {}, shown.map(line)));
}

export function line({ at, level, event, fields }) {
  const words = Object.entries(fields).map(([name, value]) =>
    el("span", { class: "field" }, el("span", { class: "quiet" }, `${name}=`), name === "domain" ? domain(value) : value, " "),
  );
  return el(
    "li",
    { "data-level": level, "data-key": `${at} ${event}` },
    el("time", { datetime: new Date(at * 1000).toISOString(), title: full(at) }, clock(at)),
    el("span", { class: "level" }, level),
    el("span", { class: "event" }, event, " ", words),
  );
}

export function foot(status) {
  const { reload } = status;
  const parts = [
    `Process ${status.pid}, up for ${span(status.now - status.started_at)}, Python ${status.python}`,
    `listens on ${status.listeners.join(", ") || NOTHING}`,
    `log level ${status.log_level}`,
    reload.ok ? `configuration in force since ${full(reload.at)}` : `reload rejected ${full(reload.at)}`,
  ];
  say($("foot-words"), `${parts.join(" · ")}`);
}
