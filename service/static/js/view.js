// What the page shows. Text from outside goes in through textContent only, never as HTML.

import { showPicture } from "./api.js";
import { EXAMPLES, has, language, t } from "./i18n.js";

export const $ = (id) => document.getElementById(id);

/** An element with a class, text and children. */
function make(tag, className = "", text = "", ...children) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text) element.textContent = text;
  element.append(...children);
  return element;
}

function icon(...paths) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  for (const d of paths) {
    const path = document.createElementNS(svg.namespaceURI, "path");
    path.setAttribute("d", d);
    svg.append(path);
  }
  return svg;
}

const EMPTY_ICON = ["M17.5 11a6.5 6.5 0 1 1-13 0 6.5 6.5 0 0 1 13 0z", "m16 16 4.5 4.5", "M8.5 11h5"];
const KEY_ICON = ["M11.5 12.5 20 4m-3 3 2.5 2.5M14 10l2 2", "M12 16a4 4 0 1 1-8 0 4 4 0 0 1 8 0z"];
const ERROR_ICON = ["M12 4 2.8 19.5h18.4z", "M12 10v4.5", "M12 17v.01"];

/** "home", "loading", "results", "empty" or "error". */
export function setState(state) {
  document.body.dataset.state = state;
  $("results").setAttribute("aria-busy", String(state === "loading"));
  if (state !== "results") $("more").hidden = true;
}

export function showHome() {
  setState("home");
  $("status").replaceChildren();
  $("results").replaceChildren();
}

export function showLoading(count = 12) {
  setState("loading");
  $("status").replaceChildren(t("searching"));
  const grid = make("ul", "grid skeleton");
  grid.setAttribute("aria-hidden", "true");
  for (let i = 0; i < count; i++) {
    const caption = make("span", "caption", "", make("span", "line"));
    grid.append(make("li", "", "", make("span", "card", "", make("span", "picture"), caption)));
  }
  $("results").replaceChildren(grid);
}

function card(result, onPick) {
  const title = result.title || result.id;
  const picture = make("span", "picture");
  const placeholder = () => picture.prepend(make("span", "none", [...title][0]));
  if (result.image_url) {
    const img = make("img");
    Object.assign(img, { alt: "", loading: "lazy", decoding: "async", draggable: false });
    img.addEventListener("error", () => { img.remove(); placeholder(); }, { once: true });
    picture.append(img);
    showPicture(img, result.image_url).catch(() => img.dispatchEvent(new Event("error")));
  } else {
    placeholder();
  }
  picture.append(make("span", "hint", t("similar")));
  const score = make("span", "score", result.score.toFixed(3));
  const button = make("button", "card", "", picture, make("span", "caption", "", make("span", "name", title), score));
  button.type = "button";
  button.title = title;
  button.setAttribute("aria-label", `${title}，${t("score", { score: result.score.toFixed(3) })}，${t("similar")}`);
  button.addEventListener("click", () => onPick(result));
  return make("li", "", "", button);
}

const ms = (value) => (value >= 10 ? Math.round(value) : value.toFixed(1));

/** `answer` is the service's response; `onPick` is called with the result that was clicked. */
export function showResults(answer, heading, onPick) {
  setState("results");
  const took = answer.took_ms;
  const times = { total: ms(took.total), encode: ms(took.encode), search: ms(took.search) };
  $("status").replaceChildren(
    make("b", "", heading), make("span", "", t("found", { n: answer.results.length })),
    make("span", "", t("time", times)), make("span", "detail", t("timeDetail", times)),
    make("span", "", t("model", { model: answer.model.name })));
  const grid = make("ul", "grid");
  grid.append(...answer.results.map((result) => card(result, onPick)));
  grid.querySelectorAll(".card").forEach((button, i) => { button.tabIndex = i === 0 ? 0 : -1; });
  $("results").replaceChildren(grid);
}

function showPanel(state, paths, title, text, ...more) {
  setState(state);
  const panel = make("div", `panel ${state}`, "", icon(...paths), make("h2", "", title), make("p", "", text), ...more);
  $("status").replaceChildren(make("span", "", title));
  $("results").replaceChildren(panel);
}

export function showEmpty(galleryIsEmpty, onExample) {
  const [title, text] = galleryIsEmpty ? ["emptyGallery", "emptyGalleryText"] : ["emptyTitle", "emptyText"];
  const chips = make("div", "chips");
  if (!galleryIsEmpty) fillExamples(chips, onExample);
  showPanel("empty", EMPTY_ICON, t(title), t(text), chips);
}

// What helps against an error: another picture, another query, or (all the others) another try.
const PICTURE_ERRORS = new Set(["image_unreadable", "payload_too_large", "picture_gone"]);
const QUERY_ERRORS = new Set(["text_too_long", "not_found"]);

function actionButton(label, onClick) {
  const button = make("button", "", t(label));
  button.type = "button";
  button.addEventListener("click", onClick);
  return button;
}

function keyForm(onKey) {
  const input = make("input");
  Object.assign(input, { type: "password", required: true, autocomplete: "off", placeholder: t("apiKey") });
  input.setAttribute("aria-label", t("apiKey"));
  const form = make("form", "", "", input, make("button", "", t("unlock")));
  form.addEventListener("submit", (event) => { event.preventDefault(); onKey(input.value.trim()); });
  return form;
}

/** `error` is a SearchError; `actions` has `retry()`, `pick()`, `home()` and `unlock(key)`. */
export function showError(error, limits, actions) {
  const limit = Math.floor((limits?.upload_bytes ?? 20 * 2 ** 20) / 2 ** 20);
  const text = has(error.code) ? t(error.code, { limit }) : t("other");
  if (error.code === "unauthorized") {
    showPanel("error", KEY_ICON, t("keyTitle"), text, keyForm(actions.unlock));
    return;
  }
  const button = PICTURE_ERRORS.has(error.code) ? actionButton("otherPicture", actions.pick)
    : QUERY_ERRORS.has(error.code) ? actionButton("back", actions.home) : actionButton("retry", actions.retry);
  const id = error.requestId ? [make("p", "id", t("requestId", { id: error.requestId }))] : [];
  showPanel("error", ERROR_ICON, t("errorTitle"), text, button, ...id);
}

export function fillExamples(container, onExample) {
  container.replaceChildren(...EXAMPLES.map(([text, meaning]) => {
    const button = make("button", "", text);
    button.type = "button";
    if (language() === "en") button.append(make("small", "", meaning));
    button.addEventListener("click", () => onExample(text));
    return button;
  }));
}

/** The picture being searched by, inside the search box; null takes it away. */
export function showQueryPicture(url, name) {
  const thumb = $("query-thumb");
  $("query-picture").hidden = url === null;
  $("query-name").textContent = name ?? "";
  $("q").placeholder = url === null ? t("placeholder") : "";
  thumb.hidden = false;
  thumb.onerror = () => { thumb.hidden = true; };
  if (url === null) thumb.removeAttribute("src");
  else if (url.startsWith("blob:")) thumb.src = url;
  else showPicture(thumb, url).catch(thumb.onerror);
}
