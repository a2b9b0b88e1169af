// One look at the page as plain data; Python decides what it means. This is the body of a function: its
// argument holds the profile's selectors, texts and patterns, what it returns is crawler.snapshot.Snapshot.
"use strict";
const wanted = arguments[0];
const bad = [];

/** `action()`, or `otherwise` if the profile's selector or pattern is none; the complaint is returned. */
function attempt(action, otherwise, what) {
  try {
    return action();
  } catch (error) {
    bad.push(`${what}: ${error.message}`);
    return otherwise;
  }
}

const all = (selector, root = document) => attempt(() => [...root.querySelectorAll(selector)], [], selector);
const is = (element, selector) => attempt(() => element.matches(selector), false, selector);
const within = (root, selector) => (is(root, selector) ? [root] : []).concat(all(selector, root));
const patterns = (sources) => sources.map((source) => attempt(() => new RegExp(source), /(?!)/, source));
const cut = (text) => text.replace(/\s+/g, " ").trim().slice(0, wanted.max_text);

// --- Where an element is, and whether anybody can see it

/** Rectangle in CSS pixels of the viewport; an element that makes no box of its own has that of its content. */
function rectOf(element) {
  let box = element.getBoundingClientRect();
  if (!box.width && !box.height && getComputedStyle(element).display === "contents") {
    const range = document.createRange();
    range.selectNodeContents(element);
    box = range.getBoundingClientRect();
  }
  return { x: box.x, y: box.y, width: box.width, height: box.height };
}

/** Seen by its rectangle, as offsetParent is null for position:fixed. */
function visible(element) {
  const box = rectOf(element);
  if (box.width <= 0 || box.height <= 0 || getComputedStyle(element).visibility !== "visible") return false;
  let opacity = 1;
  let fixed = false;
  for (let node = element; node && node !== document.body; node = node.parentElement) {
    const style = getComputedStyle(node);
    opacity *= style.opacity;
    if (!fixed && node !== element && style.overflow !== "visible" && style.display !== "contents") {
      const clip = node.getBoundingClientRect();
      if (clip.width < 1 || clip.height < 1) return false;
    }
    fixed ||= style.position === "fixed";
  }
  const [left, top] = fixed ? [0, 0] : [scrollX, scrollY];
  return opacity >= 0.1 && box.x + box.width + left > 0 && box.y + box.height + top > 0;
}

/** The element, or where it has no size (its content is fixed or floats) the largest visible one in it. */
function shown(element) {
  if (visible(element)) return element;
  const box = rectOf(element);
  if (box.width > 0 && box.height > 0) return null;
  const area = (one) => rectOf(one).width * rectOf(one).height;
  const inside = [...element.querySelectorAll("*")].slice(0, 200).filter(visible);
  return inside.reduce((best, one) => (best && area(best) >= area(one) ? best : one), null);
}

/** Whether it, or what holds it, is taken out of the flow of the page. */
function overlays(element) {
  for (let node = element; node && node !== document.body; node = node.parentElement) {
    if (["fixed", "absolute"].includes(getComputedStyle(node).position)) return true;
  }
  return false;
}

/** Places among the siblings from the root down: their order is that of the document, their prefixes hold them. */
function pathOf(element) {
  const path = [];
  for (let node = element; node.parentElement; node = node.parentElement) {
    let place = 0;
    for (let other = node.previousElementSibling; other; other = other.previousElementSibling) place += 1;
    path.unshift(place);
  }
  return path;
}

// --- Product cards

const productLinks = patterns(wanted.product_links);
const adLinks = patterns(wanted.ad_links);
const anchors = [...document.querySelectorAll("a[href]")].filter((anchor) => typeof anchor.href === "string");

/** The item a product address is about, or null. */
function itemOf(address) {
  for (const pattern of productLinks) {
    const match = pattern.exec(address);
    if (match) return match.groups?.id ?? address;
  }
  return null;
}

function pictureOf(img) {
  const attributes = {};
  for (const name of wanted.attributes) {
    const value = (name === "currentSrc" ? img.currentSrc : img.getAttribute(name)) || "";
    if (value.startsWith("data:")) attributes[name] = "data:";
    else if (value && value.length <= wanted.max_address) attributes[name] = value;
  }
  const failed = img.complete && !img.naturalWidth; // then its box is that of the alternative text
  const rect = failed ? { x: 0, y: 0, width: 0, height: 0 } : rectOf(img);
  return { attributes, natural_width: img.naturalWidth, natural_height: img.naturalHeight, rect };
}

function titleOf(card, pictures) {
  const named = [...card.querySelectorAll("[class*='title' i]")].map((element) => element.textContent);
  const attributes = [card, ...card.querySelectorAll("a[title]")].map((element) => element.getAttribute("title"));
  const texts = [...named, ...attributes, ...pictures.map((img) => img.alt), card.textContent];
  return cut(texts.find((text) => text?.trim()) ?? "");
}

function rowOf(card, { image, link, ad }) {
  const pictures = within(card, image).filter((element) => element instanceof HTMLImageElement);
  const links = within(card, link).map((anchor) => anchor.href).filter((href) => href && typeof href === "string");
  return {
    path: pathOf(card),
    rect: rectOf(card),
    title: titleOf(card, pictures),
    links: [...new Set(links)].slice(0, 12),
    images: pictures.slice(0, 8).map(pictureOf),
    ads: ad.filter((selector) => within(card, selector).length > 0),
  };
}

const cards = wanted.layouts.map((layout) =>
  all(layout.card).filter((card) => !attempt(() => card.parentElement?.closest(layout.card), null, layout.card)));

/** For pages of no known layout: each item's largest element that holds no other item. */
function unknownCards() {
  const products = anchors.filter((anchor) => itemOf(anchor.href) && shown(anchor));
  const owner = new Map(); // element -> the item below it, or null if there are several
  for (const anchor of products) {
    const item = itemOf(anchor.href);
    for (let node = anchor; node; node = node.parentElement) {
      owner.set(node, !owner.has(node) || owner.get(node) === item ? item : null);
    }
  }
  const several = owner.get(document.documentElement) === null;
  const found = new Set();
  for (const anchor of products) {
    let card = anchor;
    while (several && owner.get(card.parentElement) !== null) card = card.parentElement;
    found.add(card);
  }
  return [...found];
}

// --- Texts outside product cards

const SILENT = new Set(["SCRIPT", "STYLE", "NOSCRIPT", "TEMPLATE", "TEXTAREA", "SELECT", "IFRAME"]);
const INLINE = new Set(["A", "B", "EM", "FONT", "I", "MARK", "SMALL", "SPAN", "STRONG", "U"]);
const ofProducts = new Set([
  ...cards.flat(),
  ...anchors.filter((anchor) => itemOf(anchor.href) || adLinks.some((pattern) => pattern.test(anchor.href))),
]);
const sayings = Object.entries(wanted.texts).flatMap(([kind, texts]) => texts.map((text) => ({ kind, text })));

/** The smallest elements that say one of the texts; a line break stands for whatever separates texts. */
function findTexts(root) {
  const found = [];
  const read = (element) => {
    if (SILENT.has(element.tagName) || ofProducts.has(element)) return { text: "\n", said: [] };
    const said = new Set();
    let text = "";
    for (const child of element.childNodes) {
      if (child.nodeType === Node.TEXT_NODE) text += child.data.replace(/\s+/g, " ");
      if (child.nodeType !== Node.ELEMENT_NODE) continue;
      const below = read(child);
      text += INLINE.has(child.tagName) ? below.text : `\n${below.text}\n`;
      below.said.forEach((one) => said.add(one));
    }
    for (const one of sayings) {
      if (said.has(one) || !text.includes(one.text)) continue;
      said.add(one);
      found.push({ kind: one.kind, wanted: one.text, element, text });
    }
    return { text, said };
  };
  read(root);
  return found;
}

function nodeOf(kind, what, element, text) {
  const place = { rect: rectOf(element), path: pathOf(element), overlay: overlays(element) };
  return { kind, wanted: what, text: cut(text), link: element.closest("a, button") !== null, ...place };
}

function findProbes() {
  const found = [];
  for (const [kind, selectors] of Object.entries(wanted.probes)) {
    for (const selector of selectors) {
      const seen = all(selector).map(shown).filter(Boolean).slice(0, wanted.max_rows);
      found.push(...seen.map((element) => nodeOf(kind, selector, element, element.textContent)));
    }
  }
  return found;
}

function findComments() {
  const walker = document.createTreeWalker(document, NodeFilter.SHOW_COMMENT);
  const found = [];
  while (walker.nextNode()) {
    const said = sayings.filter((one) => walker.currentNode.data.includes(one.text));
    found.push(...said.map((one) => ({ kind: one.kind, wanted: one.text })));
  }
  return found;
}

/** Where a frame is by now, if we may know, else where it was sent. */
function frameAddress(frame) {
  try {
    const address = frame.contentWindow.location.href;
    return address === "about:blank" ? frame.src : address;
  } catch {
    return frame.src;
  }
}

const BUSY = "[class*='skeleton' i], [class*='loading' i], [aria-busy='true'], [role='progressbar']";
const root = document.body ?? document.documentElement;
const unknown = unknownCards().filter(shown);
const anyLayout = { image: "img", link: "a[href]", ad: wanted.layouts.flatMap((layout) => layout.ad) };
const box = wanted.query_box ? all(wanted.query_box)[0] : null;

return {
  url: location.href, // document.URL can be hidden by an element of that name
  base_url: document.baseURI,
  ready_state: document.readyState,
  status: performance.getEntriesByType("navigation")[0]?.responseStatus ?? 0,
  error: location.href.startsWith("chrome-error:") ? (root.textContent.match(/\bERR_[A-Z_]+/) ?? [""])[0] : "",
  title: cut(document.title),
  width: innerWidth,
  height: innerHeight,
  scroll_y: scrollY,
  scroll_height: document.documentElement.scrollHeight,
  query_box: String(box?.value ?? "").slice(0, wanted.max_address),
  busy: [...document.querySelectorAll(BUSY)].slice(0, wanted.max_rows).filter(visible).length,
  probes: findProbes(),
  texts: findTexts(root)
    .filter((one) => visible(one.element))
    .slice(0, wanted.max_rows)
    .map((one) => nodeOf(one.kind, one.wanted, one.element, one.text)),
  comments: findComments(),
  frames: [...document.querySelectorAll("iframe, frame")]
    .filter(visible)
    .map((frame) => ({ url: frameAddress(frame), rect: rectOf(frame), overlay: overlays(frame) })),
  layouts: Object.fromEntries(wanted.layouts.map((layout, i) =>
    [layout.name, cards[i].filter(shown).slice(0, wanted.max_rows).map((card) => rowOf(card, layout))])),
  rows: unknown.slice(0, wanted.max_rows).map((card) => rowOf(card, anyLayout)),
  more_rows: Math.max(0, unknown.length - wanted.max_rows),
  bad,
};
