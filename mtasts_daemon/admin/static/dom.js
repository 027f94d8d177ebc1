// Creates and updates elements. All text becomes text nodes, so it cannot become markup.

const SVG = "http://www.w3.org/2000/svg";

/** An element; `props` are attributes (null and false leave one out), `children` elements, texts, or lists of them. */
export function el(tag, props = {}, ...children) {
  return made(document.createElement(tag), props, children);
}

/** The same, of SVG. */
export function svg(tag, props = {}, ...children) {
  return made(document.createElementNS(SVG, tag), props, children);
}

function made(node, props, children) {
  for (const [name, value] of Object.entries(props)) {
    if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

/** Set the text of an element if it differs. */
export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Update the children of `parent` in place, so that nothing flickers and the focus is kept. */
export function show(parent, ...children) {
  const wanted = el("div", {}, ...children);
  patchChildren(parent, wanted);
}

function patchChildren(old, wanted) {
  const news = [...wanted.childNodes];
  news.forEach((node, index) => {
    // Remove the nodes before a row that stays, so that the row and its focus do not move.
    const stays = key(node) !== null && [...old.childNodes].slice(index).find((there) => alike(there, node));
    while (stays && old.childNodes[index] !== stays) old.childNodes[index].remove();
    const there = old.childNodes[index];
    if (!there) old.append(node);
    else if (!alike(there, node)) there.replaceWith(node);
    else patch(there, node);
  });
  while (old.childNodes.length > news.length) old.lastChild.remove();
}

function alike(a, b) {
  return a.nodeType === b.nodeType && a.nodeName === b.nodeName && key(a) === key(b);
}

function key(node) {
  return node.nodeType === Node.ELEMENT_NODE ? node.getAttribute("data-key") : null;
}

function patch(old, wanted) {
  if (old.nodeType === Node.TEXT_NODE) {
    if (old.data !== wanted.data) old.data = wanted.data;
    return;
  }
  for (const { name } of [...old.attributes]) {
    // The reader decides whether details are open.
    if (!wanted.hasAttribute(name) && name !== "open") old.removeAttribute(name);
  }
  for (const { name, value } of wanted.attributes) {
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  patchChildren(old, wanted);
}

/** A table with column titles; a cell is a text, an element, or a list of them. `about` names it to a screen reader. */
export function table(about, titles, rows, { kind = "", keys = [] } = {}) {
  const row = (cells, index) =>
    el(
      "tr",
      { "data-key": keys[index] ?? null },
      cells.map((cell, at) =>
        at === 0
          ? el("th", { scope: "row", "data-title": titles[at] }, cell)
          : el("td", { "data-title": titles[at] }, cell),
      ),
    );
  return el(
    "table",
    { class: kind },
    el("caption", { class: "hidden" }, about),
    el("thead", {}, el("tr", {}, titles.map((title) => el("th", { scope: "col" }, title)))),
    el("tbody", {}, rows.map(row)),
  );
}

/** The content of an empty list: why it is empty, and what to do. */
export function empty(title, ...words) {
  return el("div", { class: "empty" }, el("p", { class: "empty-title" }, title), el("p", {}, ...words));
}
