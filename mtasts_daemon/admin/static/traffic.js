// Lookups: the figures, and the charts over time.

import { chart, groups } from "./charts.js";
import { el, empty, say, show, svg, table } from "./dom.js";
import { clock, count, NOTHING, percent, plural, rate, span, zone } from "./format.js";
import { deferredOf } from "./health.js";
import { KINDS, MODES } from "./words.js";

const $ = (id) => document.getElementById(id);
const MOST_COLUMNS = 90;
const MOST_ROWS = 60;

export function tiles(status, history) {
  const { lookups, cache, deferred } = status;
  const { temp, lookups: lately } = deferredOf(history);
  const valid = Object.values(cache.modes).reduce((total, value) => total + value, 0);
  const tile = (id, title, value, below, level = null) =>
    el("div", { class: "tile", "data-level": level }, el("dt", {}, title), el("dd", { class: "figure", id }, value), el("dd", { class: "below" }, below));
  show(
    $("tiles"),
    tile("lookup-rate", "Lookups per second", rate(lookups.lookups_per_second), `${count(lookups.total)} since the start`),
    tile("hit-rate", "Answered from memory", percent(lookups.hit_rate), lookups.hit_rate === null ? "no lookups in the last minute" : `${count(lookups.hits)} since the start`),
    tile("deferred", "Domains deferred now", count(deferred.total), temp ? `${count(temp)} of ${plural(lately, "lookup")} in the last hour answered with temp` : "no lookup in the last hour answered with temp", deferred.total ? "bad" : null),
    tile("valid", "Valid policies", count(valid), `${count(cache.expiring)} expire within a day`),
    tile("waiting", "Waiting for a reply", count(lookups.waiting), plural(lookups.connections, "connection")),
  );
}

/** The number of replies of each type since the start. */
export function kinds(status) {
  const given = status.lookups.answers;
  const all = Object.values(given).reduce((total, value) => total + value, 0);
  const shown = Object.keys(KINDS).filter((kind) => given[kind] || kind === "secure" || kind === "none" || kind === "temp");
  const others = Object.keys(given).filter((kind) => !Object.hasOwn(KINDS, kind));
  const rows = [...shown, ...others].map((kind) => bar(kind, KINDS[kind] ?? [kind, ""], given[kind] ?? 0, all));
  show($("kinds"), el("ul", { class: "bar-list", "aria-label": "Replies since the start" }, rows));
}

function bar(kind, [name, meaning], value, all) {
  const share = all ? value / all : 0;
  return el(
    "li",
    { "data-key": kind },
    el("span", { class: "bar-name" }, el("code", {}, name), " ", el("span", { class: "quiet" }, meaning)),
    el("span", { class: "bar-value" }, el("b", { "data-kind": kind }, count(value)), " ", el("span", { class: "quiet" }, all ? percent(share) : "")),
    meter(`fill-${kind}`, share),
  );
}

/** A horizontal bar; the figures next to it say the same. */
function meter(fill, share) {
  return svg("svg", { class: "meter", "aria-hidden": "true" }, svg("rect", { class: fill, width: `${share * 100}%`, height: "100%" }));
}

export function modes(status) {
  const found = status.cache.modes;
  const names = [...Object.keys(MODES), ...Object.keys(found).filter((mode) => !Object.hasOwn(MODES, mode))];
  const all = names.reduce((total, mode) => total + (found[mode] ?? 0), 0);
  const rows = names.map((mode) => bar(`mode-${mode}`, [mode, MODES[mode] ?? ""], found[mode] ?? 0, all));
  const { file, in_memory: memory, ready_replies: replies } = status.cache;
  show(
    $("modes"),
    el("ul", { class: "bar-list", "aria-label": "Valid policies by mode" }, rows),
    el("p", { class: "hint" }, `${plural(memory, "domain")} and ${plural(replies, "reply", "replies")} in memory.`),
    el("p", { class: "hint path" }, file ? file : "In memory only: lost at a restart."),
  );
}

// -- over time ---------------------------------------------------------------------------------------------

export function charts(history, minutes, startedAt) {
  const length = history.at.length;
  if (!length) {
    for (const name of ["answers", "hits"]) {
      const host = $(`${name}-chart`);
      if (!host.chart) show(host, empty("No data yet", "The chart begins after the first minute."));
      show($(`${name}-table`), el("p", { class: "quiet" }, "No data yet."));
    }
    return;
  }
  const parts = groups(length, MOST_COLUMNS);
  const sum = (list, [from, to]) => list.slice(from, to).reduce((total, value) => total + value, 0);
  const kindsSeen = Object.keys(KINDS).filter((kind) => history.answers[kind]?.some((value) => value));
  const per = parts.map((part) => sum(history.seconds, part) / 60);
  const times = parts.map(([, to]) => history.at[to - 1]);
  const series = kindsSeen.map((kind) => ({
    name: KINDS[kind][0],
    slug: kind,
    values: parts.map((part, index) => sum(history.answers[kind], part) / (per[index] || 1)),
  }));
  const rates = parts.map((part) => {
    const lookups = sum(history.lookups, part);
    return lookups ? sum(history.hits, part) / lookups : null;
  });
  const lookups = parts.map((part) => sum(history.lookups, part));
  const start = times.findIndex((at) => at >= startedAt);
  const axis = { ticks: roundTimes(times, minutes), mark: start > 0 ? start : null };
  answersChart(times, series, lookups, minutes, axis);
  hitsChart(times, rates, lookups, axis);
  tablesOf(times, series, rates, lookups);
}

const minuteRate = (value) => (value >= 10 || value === 0 || Number.isInteger(value) ? count(value) : value.toFixed(1));

/** Labels at round times only: every 10 minutes, hour or 4 hours. */
function roundTimes(times, minutes) {
  const step = minutes <= 60 ? 10 : minutes <= 360 ? 60 : 240;
  const slot = (at) => {
    const date = new Date(at * 1000);
    return Math.floor((date.getHours() * 60 + date.getMinutes()) / step);
  };
  return times.map((at, index) => {
    if (index === 0 || slot(at) === slot(times[index - 1])) return "";
    const date = new Date(at * 1000);
    const minute = Math.floor((date.getHours() * 60 + date.getMinutes()) / step) * step;
    return `${String(Math.floor(minute / 60)).padStart(2, "0")}:${String(minute % 60).padStart(2, "0")}`;
  });
}

function answersChart(times, series, lookups, minutes, axis) {
  const total = lookups.reduce((sum, value) => sum + value, 0);
  const shown = series.map((one) => one.name).join(", ");
  chart($("answers-chart"), $("answers-read"), {
    kind: "stack",
    labels: axis.ticks,
    mark: axis.mark,
    series,
    format: minuteRate,
    resting: `${plural(total, "lookup")} in ${span(minutes * 60)} (${zone()})`,
    words: `Replies per minute by type, from ${clock(times[0], false)} to ${clock(times.at(-1), false)}: ${plural(total, "lookup")}${shown ? `, replies ${shown}` : ""}. The table below has the figures.`,
    reading: (index) =>
      `${clock(times[index], false)}  ${series.filter((one) => one.values[index]).map((one) => `${one.name} ${minuteRate(one.values[index])}`).join("  ") || "no lookups"}`,
  });
  show($("answers-legend"), series.map((one) => key(one.slug, one.name)));
}

export function key(slug, name) {
  return el("span", { class: "key" }, el("span", { class: `swatch back-${slug}`, "aria-hidden": "true" }), name);
}

function hitsChart(times, values, lookups, axis) {
  const last = values.findLast((value) => value !== null) ?? null;
  chart($("hits-chart"), $("hits-read"), {
    kind: "line",
    top: 1,
    labels: axis.ticks,
    mark: axis.mark,
    series: [{ name: "from memory", slug: "hits", values }],
    format: percent,
    resting: last === null ? "no lookups" : `${percent(last)} last`,
    words: `Share of lookups answered from memory, from ${clock(times[0], false)} to ${clock(times.at(-1), false)}; last ${percent(last)}. The table below has the figures.`,
    reading: (index) => `${clock(times[index], false)}  ${values[index] === null ? "no lookups" : `${percent(values[index])} of ${plural(lookups[index], "lookup")}`}`,
  });
}

function tablesOf(times, series, rates, lookups) {
  // The newest first, and a limited number of rows.
  const order = times.map((_, index) => index).reverse().slice(0, MOST_ROWS);
  const at = (index) => clock(times[index], false);
  const answered = order.map((index) => [at(index), ...series.map((one) => minuteRate(one.values[index]))]);
  show($("answers-table"), table("Replies per minute by type", [`Until (${zone()})`, ...series.map((one) => one.name)], answered, { kind: "figures" }));
  const hits = order.map((index) => [at(index), count(lookups[index]), rates[index] === null ? NOTHING : percent(rates[index])]);
  show($("hits-table"), table("Share of lookups answered from memory", [`Until (${zone()})`, "Lookups", "From memory"], hits, { kind: "figures" }));
}

export function version(status) {
  say($("version"), `${status.version}`);
}
