// Checks of accessibility that a script can make: names, references, order of headings, contrast.
() => {
  const problems = [];
  const shown = (node) => node.checkVisibility({ visibilityProperty: true }) && node.getClientRects().length > 0;
  const where = (node) => `${node.tagName.toLowerCase()}${node.id ? `#${node.id}` : ""}.${node.getAttribute("class") ?? ""} "${node.textContent.trim().slice(0, 30)}"`;

  // -- names and references
  const textOf = (ids) => ids.split(/\s+/).map((id) => document.getElementById(id)?.textContent ?? "").join(" ").trim();
  const nameOf = (node) =>
    (node.hasAttribute("aria-labelledby") && textOf(node.getAttribute("aria-labelledby"))) ||
    node.getAttribute("aria-label") ||
    [...(node.labels ?? [])].map((label) => label.textContent).join(" ").trim() ||
    (node.matches("button, a, summary") && node.textContent.trim()) ||
    "";
  for (const node of document.querySelectorAll("button, a[href], input, summary, select, textarea")) {
    if (!nameOf(node)) problems.push(`no name: ${where(node)}`);
  }
  for (const node of document.querySelectorAll("section, figure, [role=region], [role=group], svg[role=img], nav")) {
    if (shown(node) && !nameOf(node)) problems.push(`no label: ${where(node)}`);
  }
  for (const node of document.querySelectorAll("img:not([alt]), svg:not([role=img]):not([aria-hidden=true])")) {
    if (node.closest("[aria-hidden=true]")) continue;
    problems.push(`no text alternative: ${where(node)}`);
  }
  for (const attribute of ["aria-labelledby", "aria-describedby", "aria-controls", "for", "list"]) {
    for (const node of document.querySelectorAll(`[${attribute}]`)) {
      for (const id of node.getAttribute(attribute).split(/\s+/)) {
        if (!document.getElementById(id)) problems.push(`${attribute}=${id} leads nowhere: ${where(node)}`);
      }
    }
  }
  const ids = [...document.querySelectorAll("[id]")].map((node) => node.id);
  for (const id of new Set(ids)) if (ids.filter((one) => one === id).length > 1) problems.push(`id ${id} twice`);

  // -- order and landmarks
  for (const landmark of ["header", "main", "footer", "[role=search]", "html[lang]"]) {
    if (document.querySelectorAll(landmark).length !== 1) problems.push(`not one ${landmark}`);
  }
  const levels = [...document.querySelectorAll("h1, h2, h3, h4")].filter(shown).map((node) => [Number(node.tagName[1]), node]);
  levels.forEach(([level, node], index) => {
    if (index === 0 ? level !== 1 : level > levels[index - 1][0] + 1) problems.push(`title out of order: ${where(node)}`);
  });
  if (levels.filter(([level]) => level === 1).length !== 1) problems.push("not one h1");
  for (const node of document.querySelectorAll("table")) {
    if (!node.caption) problems.push(`table without caption: ${where(node)}`);
    if (node.querySelector("th:not([scope])")) problems.push(`title cell without scope: ${where(node)}`);
  }

  // -- contrast, WCAG 2.2 1.4.3
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 1;
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  const rgba = (color) => {
    pen.clearRect(0, 0, 1, 1);
    pen.fillStyle = color;
    pen.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = pen.getImageData(0, 0, 1, 1).data;
    return { rgb: [r, g, b], alpha: a / 255 };
  };
  const over = (top, below) => top.rgb.map((value, at) => value * top.alpha + below[at] * (1 - top.alpha));
  const ground = (node) => {
    const layers = [];
    for (let one = node; one; one = one.parentElement) {
      const layer = rgba(getComputedStyle(one).backgroundColor);
      if (layer.alpha > 0) layers.unshift(layer);
    }
    return layers.reduce((below, layer) => over(layer, below), [255, 255, 255]);
  };
  const light = (rgb) => {
    const [r, g, b] = rgb.map((value) => (value / 255 <= 0.04045 ? value / 255 / 12.92 : ((value / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ratio = (a, b) => (Math.max(light(a), light(b)) + 0.05) / (Math.min(light(a), light(b)) + 0.05);
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let text = walker.nextNode(); text; text = walker.nextNode()) {
    const node = text.parentElement;
    if (!text.data.trim() || !shown(node) || node.closest("script, option, noscript, .hidden")) continue;
    const style = getComputedStyle(node);
    const color = rgba(node instanceof SVGElement ? style.fill : style.color);
    for (let one = node; one; one = one.parentElement) color.alpha *= Number(getComputedStyle(one).opacity);
    const below = ground(node);
    const size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    const found = ratio(over(color, below), below);
    if (found < (large ? 3 : 4.5)) problems.push(`contrast ${found.toFixed(2)}: ${where(node)}`);
  }
  // WCAG 1.4.11: the colour of each series against its background.
  for (const node of document.querySelectorAll(".swatch, .chart rect, .chart path, .tag, #key")) {
    const style = getComputedStyle(node);
    const color = node.matches("path") ? style.stroke : node instanceof SVGElement ? style.fill : node.matches(".swatch") ? style.backgroundColor : style.borderTopColor;
    const found = ratio(over(rgba(color), ground(node.parentElement)), ground(node.parentElement));
    if (found < 3) problems.push(`contrast of a drawing ${found.toFixed(2)}: ${where(node)}`);
  }
  return [...new Set(problems)];
}
