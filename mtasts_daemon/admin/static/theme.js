// Loaded before anything is drawn, so that no page in the wrong colours flashes up.
"use strict";

(() => {
  const NAMES = { auto: "automatic", light: "light", dark: "dark" };
  const order = Object.keys(NAMES);
  const root = document.documentElement;

  function kept() {
    try {
      const name = localStorage.getItem("mtasts-theme");
      return name in NAMES ? name : "auto";
    } catch {
      return "auto"; // storage may be forbidden
    }
  }

  let now = kept();

  function apply() {
    if (now === "auto") delete root.dataset.theme;
    else root.dataset.theme = now;
    const words = document.getElementById("theme-words");
    if (words) words.textContent = `Colours: ${NAMES[now]}`;
  }

  apply();
  document.addEventListener("DOMContentLoaded", () => {
    apply();
    document.getElementById("theme").addEventListener("click", () => {
      now = order[(order.indexOf(now) + 1) % order.length];
      try {
        localStorage.setItem("mtasts-theme", now);
      } catch {
        // It holds for this visit.
      }
      apply();
    });
  });
})();
