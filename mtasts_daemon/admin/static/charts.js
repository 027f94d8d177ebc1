// Charts as inline SVG. Each has a sentence for those who cannot see it.

import { show, svg } from "./dom.js";

const LEFT = 44;
const RIGHT = 6;
const TOP = 8;
const BOTTOM = 22;
const ROOM = 40;

/** The smallest of 1, 2, 5 times a power of ten that is at least `value`. */
function nice(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= value * (1 - 1e-9));
}

function ticks(top) {
  const step = nice(top / 3);
  const found = [];
  // Up to the first tick above all values.
  for (let value = 0; found.length === 0 || found.at(-1) < top * (1 - 1e-9); value += step) found.push(value);
  return found;
}

/** Groups of neighbours as [from, to), so that at most `most` are left. */
export function groups(length, most) {
  const size = Math.max(1, Math.ceil(length / most));
  const found = [];
  // The newest group is whole, the oldest may be short.
  for (let to = length; to > 0; to -= size) found.unshift([Math.max(0, to - size), to]);
  return found;
}

/**
 * A chart in `host`: `{labels, series: [{name, slug, values}], top, kind, words, format, reading, mark}`.
 *
 * `kind` is "stack" (columns) or "line" (null values leave gaps); `words` describe it; `reading(index)` is shown in
 * `read` for the point under the pointer; `labels` are below the axis, empty ones are left out; `mark` is the index at
 * which the daemon started, or null.
 */
export function chart(host, read, options) {
  host.chart = options;
  if (!host.watched) {
    host.watched = true;
    new ResizeObserver(() => draw(host)).observe(host);
    host.addEventListener("pointermove", (event) => point(host, read, event));
    host.addEventListener("pointerleave", () => point(host, read, null));
  }
  draw(host);
  if (host.pointed === undefined || host.pointed === null) read.textContent = options.resting ?? "";
}

function frame(host) {
  const width = Math.max(host.clientWidth, 160);
  const height = host.clientHeight;
  return { width, height, inner: width - LEFT - RIGHT, tall: height - TOP - BOTTOM };
}

function draw(host) {
  const { chart: options } = host;
  const area = frame(host);
  const highest = options.top ?? highestOf(options);
  const ys = options.top ? [0, options.top / 2, options.top] : ticks(highest > 0 ? highest : 1);
  const top = ys.at(-1);
  const y = (value) => TOP + area.tall * (1 - value / top);
  const slot = area.inner / Math.max(options.labels.length, 1);
  const body = options.kind === "line" ? lines(options, area, slot, y) : columns(options, slot, y);
  show(
    host,
    svg(
      "svg",
      { width: area.width, height: area.height, viewBox: `0 0 ${area.width} ${area.height}`, role: "img", "aria-label": options.words },
      ys.map((value) => rule(value, y(value), area, options.format)),
      labels(options, slot, area),
      body,
      options.mark ? started(LEFT + slot * options.mark, area) : null,
      svg("line", { class: "guide", x1: 0, x2: 0, y1: TOP, y2: TOP + area.tall, visibility: "hidden" }),
    ),
  );
}

function highestOf(options) {
  if (options.kind === "line") return Math.max(0, ...options.series.flatMap((one) => one.values.filter(Number.isFinite)));
  return Math.max(0, ...options.labels.map((_, index) => options.series.reduce((sum, one) => sum + one.values[index], 0)));
}

function rule(value, at, area, format) {
  return svg(
    "g",
    {},
    svg("line", { class: value === 0 ? "axis" : "rule", x1: LEFT, x2: area.width - RIGHT, y1: at, y2: at }),
    svg("text", { class: "tick", x: LEFT - 8, y: at + 4, "text-anchor": "end" }, format(value)),
  );
}

function labels(options, slot, area) {
  const end = area.width - RIGHT;
  let free = LEFT;
  return options.labels.map((text, index) => {
    const x = LEFT + slot * (index + 0.5);
    // Labels that would overlap the previous one or the edge are left out.
    if (!text || x - ROOM / 2 < free || x + ROOM / 2 > end + 8) return null;
    free = x + ROOM / 2 + 4;
    return svg("text", { class: "tick", x, y: area.height - 6, "text-anchor": "middle" }, text);
  });
}

/** A line at the start of the daemon. */
function started(x, area) {
  const right = x < area.width / 2;
  const text = svg("text", { class: "tick", x: right ? x + 4 : x - 4, y: TOP + 10, "text-anchor": right ? "start" : "end" }, "daemon started");
  return svg("g", { class: "started" }, svg("line", { x1: x, x2: x, y1: TOP, y2: TOP + area.tall }), text);
}

function columns(options, slot, y) {
  const gap = slot > 6 ? 2 : slot > 3 ? 1 : 0;
  return options.labels.map((_, index) => {
    let below = 0;
    return options.series.map((one) => {
      const value = one.values[index];
      if (!value) return null;
      const from = y(below);
      const to = y(below + value);
      below += value;
      return svg("rect", { class: `fill-${one.slug}`, x: LEFT + slot * index + gap / 2, width: Math.max(slot - gap, 0.5), y: to, height: Math.max(from - to, 0.5) });
    });
  });
}

function lines(options, area, slot, y) {
  const x = (index) => LEFT + slot * (index + 0.5);
  return options.series.map((one) => {
    let path = "";
    let pen = false;
    one.values.forEach((value, index) => {
      if (value === null) {
        pen = false;
        return;
      }
      path += `${pen ? "L" : "M"}${x(index).toFixed(1)} ${y(value).toFixed(1)}`;
      pen = true;
    });
    // A point between two gaps is not visible as a line.
    const alone = one.values.map((value, index) =>
      value !== null && (one.values[index - 1] ?? null) === null && (one.values[index + 1] ?? null) === null
        ? svg("circle", { class: `dot-${one.slug}`, cx: x(index), cy: y(value), r: 2.5 })
        : null,
    );
    return [svg("path", { class: `line-${one.slug}`, d: path, fill: "none" }), alone];
  });
}

function point(host, read, event) {
  const options = host.chart;
  const guide = host.querySelector(".guide");
  const area = frame(host);
  const slot = area.inner / Math.max(options.labels.length, 1);
  const index = event ? Math.floor((event.clientX - host.getBoundingClientRect().left - LEFT) / slot) : -1;
  const within = index >= 0 && index < options.labels.length;
  host.pointed = within ? index : null;
  guide.setAttribute("visibility", within ? "visible" : "hidden");
  if (within) {
    guide.setAttribute("x1", LEFT + slot * (index + 0.5));
    guide.setAttribute("x2", LEFT + slot * (index + 0.5));
  }
  read.textContent = within ? options.reading(index) : (options.resting ?? "");
}
