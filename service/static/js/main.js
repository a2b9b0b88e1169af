// The page: one query at a time, kept in the address so that reload, links and the back button work.

import { item, pictureOf, ready, search, SearchError, setApiKey } from "./api.js";
import { t, toggleLanguage, translatePage } from "./i18n.js";
import { watchKeys, watchPictures } from "./input.js";
import { $, fillExamples, showEmpty, showError, showHome, showLoading, showQueryPicture, showResults } from "./view.js";

const PAGE = 24;
const touch = matchMedia("(pointer: coarse)");

// query: {} | {text} | {like, title} | {picture, file}; pictures live as long as the page does.
const state = { query: {}, topK: PAGE, service: null, last: null, pictures: new Map(), running: null };

function queryFromAddress() {
  const params = new URLSearchParams(location.search);
  if (params.get("q")?.trim()) return { text: params.get("q").trim() };
  if (params.get("like")) return { like: params.get("like") };
  if (params.get("picture")) return { picture: params.get("picture"), ...state.pictures.get(params.get("picture")) };
  return {};
}

function addressOf({ text, like, picture }) {
  const params = new URLSearchParams(text ? { q: text } : like ? { like } : picture ? { picture } : {});
  const asked = params.toString();  // not .size, which older browsers lack
  return asked ? `/?${asked}` : "/";
}

/** A new query by the user: into the history, then searched for. */
function go(query) {
  history.pushState(null, "", addressOf(query));
  scrollTo(0, 0);
  return show(query);
}

function heading({ text, like, title, file }) {
  return text ?? (like ? t("similarTo", { name: title ?? like }) : file.name || t("pick"));
}

function showQuery(query) {
  $("q").value = query.text ?? "";
  if (query.like) showQueryPicture(pictureOf(query.like), heading(query));
  else if (query.file) showQueryPicture(query.preview, heading(query));
  else showQueryPicture(null);
  $("clear").hidden = addressOf(query) === "/";
  const words = addressOf(query) === "/" || (query.picture && !query.file) ? "" : `${heading(query)} · `;
  document.title = words + t("documentTitle");
}

/** Search for `query` and show what comes back; a newer call takes over from an older one. */
async function show(query, topK = PAGE) {
  state.running?.abort();
  const running = new AbortController();
  Object.assign(state, { query, topK, running, last: null });
  showQuery(query);
  if (addressOf(query) === "/") return showHome();
  if (topK === PAGE) showLoading();
  try {
    if (query.picture && !query.file) throw new SearchError("picture_gone");
    if (query.file && query.file.size > (state.service?.limits.upload_bytes ?? Infinity)) {
      throw new SearchError("payload_too_large");
    }
    if (query.like && query.title === undefined) {
      query.title = (await item(query.like)).title;
      if (running.signal.aborted) return;
      showQuery(query);
    }
    render({ answer: await search(query, topK, running.signal) });
  } catch (error) {
    if (error.name === "AbortError" || running.signal.aborted) return;
    render({ error: error instanceof SearchError ? error : new SearchError("other") });
  }
}

/** Show an answer or an error; kept, so that a change of language can show it again. */
function render(last) {
  state.last = last;
  const { answer, error } = last;
  if (error) {
    showError(error, state.service?.limits, {
      retry: () => show(state.query, state.topK),
      pick: () => $("file").click(),
      home: () => go({}),
      unlock: (key) => { setApiKey(key); show(state.query, state.topK); },
    });
  } else if (answer.no_match) {
    showEmpty(state.service?.items === 0, (text) => go({ text }));
  } else {
    showResults(answer, heading(state.query), (result) => go({ like: result.id, title: result.title }));
    const most = state.service?.limits.top_k ?? 200;
    $("more").hidden = answer.results.length < state.topK || state.topK >= most;
  }
}

async function showMore() {
  const shown = document.querySelectorAll("#results button.card").length;
  const most = state.service?.limits.top_k ?? 200;
  await show(state.query, Math.min(state.topK + PAGE, most));
  document.querySelectorAll("#results button.card")[shown]?.focus({ preventScroll: true });
}

function showService() {
  const { service } = state;
  $("gallery").textContent = service ? t("gallery", { n: service.items.toLocaleString(), model: service.model.name }) : "";
}

function translate() {
  translatePage();
  $("language").textContent = t("language");
  fillExamples($("chips"), (text) => go({ text }));
  showService();
  showQuery(state.query);
  if (state.last) render(state.last);
}

function searchByFile(file) {
  const picture = String(state.pictures.size + 1);
  state.pictures.set(picture, { file, preview: URL.createObjectURL(file) });
  go({ picture, ...state.pictures.get(picture) });
}

function clear() {
  if ($("q").value === "" && addressOf(state.query) === "/") return $("q").blur();
  if (addressOf(state.query) !== "/") go({});
  $("q").value = "";
  $("clear").hidden = true;
  $("q").focus();
}

$("search").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("q").value.trim();
  if (!text) return;
  if (touch.matches) $("q").blur();  // puts the screen keyboard away
  go({ text });
});
$("q").addEventListener("input", () => { $("clear").hidden = !$("q").value && addressOf(state.query) === "/"; });
$("clear").addEventListener("click", clear);
$("home").addEventListener("click", (event) => { event.preventDefault(); go({}); $("q").focus(); });
$("more").addEventListener("click", showMore);
$("language").addEventListener("click", () => { toggleLanguage(); translate(); });
addEventListener("popstate", () => show(queryFromAddress()));
watchPictures(searchByFile);
watchKeys(clear);

translate();
if (!location.search && !touch.matches) $("q").focus();
show(queryFromAddress());
ready().then((service) => { state.service = service; showService(); }).catch(() => {});
