// Calls to the service. Every failure becomes a SearchError with one of the service's codes, or "network".

const KEY = "apiKey";

export class SearchError extends Error {
  constructor(code, requestId = "") {
    super(code);
    this.code = code;
    this.requestId = requestId;
  }
}

export const setApiKey = (key) => sessionStorage.setItem(KEY, key);

function authorization() {
  const key = sessionStorage.getItem(KEY);
  return key ? { Authorization: `Bearer ${key}` } : {};
}

async function call(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { ...options, headers: { ...options.headers, ...authorization() } });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new SearchError("network");
  }
  if (response.ok) return response;
  const body = await response.json().catch(() => ({}));
  throw new SearchError(body.error?.code ?? "other", body.error?.request_id);
}

const json = (path, body, signal) => call(path, {
  method: "POST", body: JSON.stringify(body), headers: { "Content-Type": "application/json" }, signal,
}).then((response) => response.json());

export const ready = () => call("/readyz").then((response) => response.json());

/** Search by `{text}`, `{like}` (id of an item) or `{file}`. */
export function search(query, topK, signal) {
  if (query.file) {
    const form = new FormData();
    form.append("file", query.file, query.file.name || "picture");
    form.append("top_k", topK);
    return call("/v1/search/image", { method: "POST", body: form, signal }).then((response) => response.json());
  }
  const what = query.like ? { item_id: query.like } : { text: query.text };
  return json("/v1/search", { ...what, top_k: topK }, signal);
}

/** Show a picture of the service in `img`. With an API key a plain src would be refused, so it is fetched. */
export async function showPicture(img, url) {
  if (!sessionStorage.getItem(KEY)) {
    img.src = url;
    return;
  }
  const blob = await call(url).then((response) => response.blob());
  img.src = URL.createObjectURL(blob);
  img.addEventListener("load", () => URL.revokeObjectURL(img.src), { once: true });
}

/** Path of an item's picture, for an item that is known by its id only. */
export const pictureOf = (id) => `/v1/items/${encodeURIComponent(id)}/image`;
export const item = (id) => call(`/v1/items/${encodeURIComponent(id)}`).then((response) => response.json());
