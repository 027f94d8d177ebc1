// Numbers and times for people. Times are seconds since the epoch.

import { el } from "./dom.js";

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const UNITS = [
  [86400, "d"],
  [3600, "h"],
  [60, "min"],
  [1, "s"],
];

export const NOTHING = "–";

export function count(value) {
  return typeof value === "number" ? whole.format(value) : NOTHING;
}

/** A rate per second with two significant digits. */
export function rate(value) {
  if (typeof value !== "number") return NOTHING;
  if (value === 0) return "0";
  if (value < 0.01) return "< 0.01";
  const digits = value < 10 ? 2 : value < 100 ? 1 : 0;
  return new Intl.NumberFormat("en", { maximumFractionDigits: digits }).format(value);
}

/** A share from 0 to 1 as a percentage. Only 1 is shown as 100 %, and only 0 as 0 %. */
export function percent(share) {
  if (typeof share !== "number" || Number.isNaN(share)) return NOTHING;
  if (share > 0 && share < 0.001) return "< 0.1 %";
  const tenths = share < 0.5 ? Math.round(share * 1000) : Math.floor(share * 1000 + 1e-9);
  return `${(tenths / 10).toLocaleString("en")} %`;
}

/** A duration in its two largest units. */
export function span(seconds) {
  let left = Math.floor(Math.abs(seconds));
  const parts = [];
  for (const [size, unit] of UNITS) {
    if (left >= size || (unit === "s" && !parts.length)) {
      parts.push(`${Math.floor(left / size)} ${unit}`);
      left %= size;
    } else if (parts.length) break;
  }
  return parts.slice(0, 2).join(" ");
}

/** A time element, relative to `now`. */
export function moment(at, now) {
  if (typeof at !== "number") return el("span", {}, NOTHING);
  const far = at - now;
  const words = Math.abs(far) < 1 ? "just now" : far > 0 ? `in ${span(far)}` : `${span(far)} ago`;
  return el("time", { datetime: new Date(at * 1000).toISOString(), title: full(at) }, words);
}

export function full(at) {
  return new Date(at * 1000).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "medium" });
}

export function clock(at, seconds = true) {
  const options = { hour: "2-digit", minute: "2-digit", hourCycle: "h23" };
  return new Date(at * 1000).toLocaleTimeString("en-GB", seconds ? { ...options, second: "2-digit" } : options);
}

/** The name of the browser's time zone, such as CET or UTC. */
export function zone() {
  const parts = new Intl.DateTimeFormat("en-GB", { timeZoneName: "short" }).formatToParts(new Date());
  return parts.find((part) => part.type === "timeZoneName")?.value ?? "";
}

export function plural(value, one, many = `${one}s`) {
  return `${count(value)} ${value === 1 ? one : many}`;
}
