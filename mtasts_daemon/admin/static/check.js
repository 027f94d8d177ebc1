// How a domain looks to a sender: a check streamed line by line, and the domains that are checked regularly.

import { get } from "./api.js";
import { el, say, show, table } from "./dom.js";
import { moment, NOTHING } from "./format.js";

const $ = (id) => document.getElementById(id);
const LEVELS = { authenticated: "good", unauthenticated: "warn", deferred: "bad", rejected: "bad", unknown: "plain" };
const SENDERS = { "mta-sts": "MTA-STS only (Gmail)", "dane-first": "DANE first (Postfix with this daemon)", both: "DANE and MTA-STS (Microsoft)" };
const VERDICTS = {
  authenticated: "Mail is delivered with authentication",
  unauthenticated: "Mail is delivered without authentication",
  deferred: "Mail is deferred",
  rejected: "Mail cannot be delivered",
  unknown: "The outcome could not be determined from here",
};
const SEVERITIES = { error: "bad", warning: "warn", note: "plain", ok: "good" };

let running = null;

export function start() {
  $("check-now").addEventListener("click", () => check($("key").value.trim()));
  $("check-answer").addEventListener("click", (event) => {
    if (event.target.closest("[data-stop-check]")) stop();
  });
  document.addEventListener("click", (event) => {
    const pressed = event.target.closest("[data-check]");
    if (!pressed) return;
    $("key").value = pressed.dataset.check;
    check(pressed.dataset.check);
    $("check-answer").scrollIntoView({ block: "nearest" });
  });
}

function stop() {
  running?.abort();
  running = null;
  $("check-answer").setAttribute("aria-busy", "false");
  show($("check-answer"));
}

async function check(domain) {
  if (!domain) {
    $("key").focus();
    return;
  }
  running?.abort();
  const mine = (running = new AbortController());
  $("check-answer").setAttribute("aria-busy", "true");
  working(domain, "");
  try {
    const result = await stream(domain, mine.signal, (step) => working(domain, `${step.name} ${step.subject}: ${step.found}`));
    if (running !== mine) return;
    show($("check-answer"), shown(result));
    say($("check-spoken"), verdict(result).title);
  } catch (error) {
    if (running !== mine) return;
    show($("check-answer"), el("div", { class: "verdict", "data-level": "bad" }, el("h3", {}, "Not checked"), el("p", {}, `${domain}: ${error.message}.`)));
    say($("check-spoken"), `Not checked: ${error.message}`);
  } finally {
    if (running === mine) $("check-answer").setAttribute("aria-busy", "false");
  }
}

/** Read the lines of `/api/v1/check/DOMAIN`; return the result, or raise an error with the reason. */
async function stream(domain, signal, onStep) {
  const answer = await fetch(`/api/v1/check/${encodeURIComponent(domain)}`, { signal, cache: "no-store" });
  if (!answer.ok) throw new Error((await answer.json().catch(() => null))?.detail ?? `HTTP status ${answer.status}`);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    const lines = (rest + (value ?? "")).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      const found = JSON.parse(line);
      if (found.step) onStep(found.step);
      if (found.result) return found.result;
      if (found.error) throw new Error(found.error.detail);
    }
    if (done) throw new Error("the answer ended too early");
  }
}

function working(domain, step) {
  show(
    $("check-answer"),
    el("p", { class: "working" }, el("span", { class: "spinner", "aria-hidden": "true" }), el("span", {}, `Checking ${domain} as a sender sees it. `), el("button", { type: "button", class: "link", "data-stop-check": "" }, "Stop")),
    el("p", { class: "hint" }, step),
  );
}

function verdict({ domain, conclusions }) {
  const found = [...new Set(conclusions.map((one) => one.delivery))];
  if (found.length === 1) return { level: LEVELS[found[0]], title: `${domain}: ${VERDICTS[found[0]]}` };
  return { level: "warn", title: `${domain}: what happens to mail depends on the sender` };
}

function shown(result) {
  const { level, title } = verdict(result);
  const problems = result.findings.filter((one) => one.severity === "error" || one.severity === "warning" || one.ours);
  return [
    el("div", { class: "verdict", "data-level": level }, el("h3", {}, title)),
    el("h4", {}, "What senders do"),
    el("ol", { class: "steps" }, result.conclusions.map((one) =>
      el("li", { "data-level": LEVELS[one.delivery] }, el("div", { class: "step-head" }, el("span", { class: "step-title" }, SENDERS[one.sender])), el("div", { class: "step-found" }, `${one.delivery}${one.host ? ` at ${one.host}` : ""}: ${one.reason}`)),
    )),
    problems.length ? [el("h4", {}, "What to fix"), el("ol", { class: "steps" }, problems.map(finding))] : null,
    result.mx.length ? [el("h4", {}, "MX hosts"), hosts(result)] : null,
  ];
}

function finding(one) {
  const detail = one.detail ? ` (${one.detail})` : "";
  return el(
    "li",
    { "data-level": SEVERITIES[one.severity] },
    el("div", { class: "step-head" }, el("span", { class: "step-title" }, `${one.severity}: ${one.subject}`), el("span", { class: "rule-name" }, `${one.slug} ${one.rfc}`)),
    el("div", { class: "step-found" }, `${one.sentence}${detail}`),
    el("div", { class: "hint" }, one.remedy),
  );
}

function hosts({ mx, at }) {
  const unprobed = { address: "not probed", tls: null, problem: null, not_after: null, requiretls: null };
  const rows = mx.flatMap((host) => (host.addresses.length ? host.addresses : [unprobed]).map((one) => [
    host.host,
    one.address,
    one.tls ?? (one.problem ?? NOTHING),
    one.tls ? (one.certificate_problem ?? "valid") : NOTHING,
    one.not_after ? `${Math.floor((one.not_after - at) / 86400)} d` : NOTHING,
    host.permitted === null ? NOTHING : host.permitted ? "yes" : "no",
    host.dane ?? NOTHING,
    one.requiretls === null ? NOTHING : one.requiretls ? "yes" : "no",
  ]));
  return el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "MX hosts" }, table("MX hosts", ["MX host", "Address", "TLS", "Certificate", "Expires", "Permitted", "TLSA", "REQUIRETLS"], rows));
}

/** The watched domains, worst first; nothing is shown if there are none. */
export async function watched() {
  const { domains } = await get("/api/v1/watched");
  $("watched").hidden = domains.length === 0;
  const now = Date.now() / 1000;
  const weight = ({ result }) => (result ? 1000 * result.errors + result.warnings : 0);
  const rows = [...domains].sort((a, b) => weight(b) - weight(a)).map(({ domain, due_in: due, failure, result }) => [
    el("button", { type: "button", class: "link", "data-check": domain }, domain),
    result ? result.outcomes.join(", ") : NOTHING,
    result ? String(result.errors) : NOTHING,
    result ? String(result.warnings) : NOTHING,
    failure || (result ? moment(result.at, now) : NOTHING),
    moment(now + due, now),
  ]);
  show($("watched-list"), table("Watched domains", ["Domain", "Senders", "Errors", "Warnings", "Checked", "Again"], rows));
}
