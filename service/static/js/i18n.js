// Words of the page in Chinese and English. The choice is remembered; the browser's language is the default.

const WORDS = {
  zh: {
    brand: "以文搜图", home: "回到首页", language: "English", documentTitle: "以文搜图",
    title: "用中文，找到那张图", lead: "描述你想找的东西，或者拿一张图片来找相似的。",
    placeholder: "例如：红色连衣裙", searchLabel: "搜索图片", search: "搜索", clear: "清除", pick: "用图片搜索",
    skip: "跳到结果", results: "搜索结果", examples: "试试这些", more: "显示更多",
    dropTitle: "以图搜图", dropHint: "把图片拖到这里、直接粘贴，或点击选择文件", dropHintTouch: "拍一张照片，或从相册里选", dropNow: "松开鼠标，用这张图片搜索",
    keyFocus: "搜索", keyMove: "移动", keySimilar: "找相似", keyClear: "清除", api: "接口文档",
    gallery: "图库 {n} 张 · 模型 {model}", searching: "正在搜索…",
    found: "{n} 张图片", time: "{total} 毫秒", timeDetail: "编码 {encode} · 检索 {search}", model: "模型 {model}",
    similar: "找相似", similarTo: "与“{name}”相似", score: "相似度 {score}",
    emptyTitle: "没有找到相符的图片", emptyText: "换个更常见的说法，或者少写几个限定词。",
    emptyGallery: "图库里还没有图片", emptyGalleryText: "先用 cnclip index 图片目录 --gallery 图库目录 放一些进来。",
    retry: "再试一次", otherPicture: "换一张图片", back: "回到首页",
    apiKey: "访问密钥", unlock: "继续", keyTitle: "需要访问密钥", requestId: "请求编号 {id}",
    errorTitle: "这次搜索没有成功",
    network: "连不上服务。请确认它还在运行，然后再试一次。",
    overloaded: "现在请求太多，请稍等片刻再试。",
    deadline_exceeded: "搜索用时过长，已经停止。请稍后再试。",
    not_ready: "服务还没有准备好，或正在停止。请稍后再试。",
    unauthorized: "请输入这个服务的访问密钥，它只保存在当前标签页里。",
    forbidden_host: "没有设置访问密钥的服务只接受本机访问，请用 localhost 或 127.0.0.1 打开本页。",
    payload_too_large: "图片太大了，最大 {limit} MB。",
    image_unreadable: "读不出这张图片。请换一个 JPEG、PNG 或 WebP 文件。",
    text_too_long: "查询太长了，请缩短一些。",
    not_found: "找不到这一项，它可能已经被删除。",
    picture_gone: "这张图片只保存在上次打开的页面里，请重新选择。",
    other: "服务出错了，请稍后再试。",
  },
  en: {
    brand: "Picture search", home: "Back to the start", language: "中文", documentTitle: "Picture search",
    title: "Say it in Chinese, see it", lead: "Describe what you are looking for in Chinese, or bring a picture to find similar ones.",
    placeholder: "For example: 红色连衣裙", searchLabel: "Search pictures", search: "Search", clear: "Clear", pick: "Search by picture",
    skip: "Skip to results", results: "Results", examples: "Try one of these", more: "Show more",
    dropTitle: "Search by picture", dropHint: "Drop a picture here, paste one, or click to choose a file", dropHintTouch: "Take a photo, or choose one you have", dropNow: "Release to search by this picture",
    keyFocus: "search", keyMove: "move", keySimilar: "find similar", keyClear: "clear", api: "API",
    gallery: "{n} pictures · model {model}", searching: "Searching…",
    found: "{n} pictures", time: "{total} ms", timeDetail: "encode {encode} · search {search}", model: "model {model}",
    similar: "Find similar", similarTo: "Similar to “{name}”", score: "similarity {score}",
    emptyTitle: "Nothing matches", emptyText: "Try a more common word, or fewer of them.",
    emptyGallery: "The gallery is empty", emptyGalleryText: "Put pictures in with: cnclip index PICTURES --gallery DIR",
    retry: "Try again", otherPicture: "Choose another picture", back: "Back to the start",
    apiKey: "API key", unlock: "Continue", keyTitle: "An API key is needed", requestId: "Request {id}",
    errorTitle: "That search did not work",
    network: "The service cannot be reached. Check that it is running, then try again.",
    overloaded: "Too many requests right now. Try again in a moment.",
    deadline_exceeded: "The search took too long and was stopped. Try again later.",
    not_ready: "The service is not ready, or is stopping. Try again in a moment.",
    unauthorized: "Enter the key of this service. It is kept in this tab only.",
    forbidden_host: "A service without an API key answers this machine only. Open this page as localhost or 127.0.0.1.",
    payload_too_large: "The picture is too large; {limit} MB at most.",
    image_unreadable: "This picture cannot be read. Try a JPEG, PNG or WebP file.",
    text_too_long: "The query is too long. Please shorten it.",
    not_found: "That item cannot be found; it may have been deleted.",
    picture_gone: "That picture lived in the page you had open before. Please choose it again.",
    other: "Something went wrong in the service. Try again later.",
  },
};

export const EXAMPLES = [
  ["苹果", "apple"], ["连衣裙", "dress"], ["一杯咖啡", "a cup of coffee"],
  ["小狗", "puppy"], ["运动鞋", "sneakers"], ["下雨", "rain"],
];

function remembered() {
  try { return localStorage.getItem("language"); } catch { return null; }  // storage may be forbidden
}

let current = remembered() ?? (navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en");
if (!(current in WORDS)) current = "zh";

export const language = () => current;
export const has = (key) => key in WORDS[current];

/** The words for `key`, with {placeholders} filled in. */
export function t(key, values = {}) {
  return WORDS[current][key].replace(/\{(\w+)\}/g, (_, name) => values[name] ?? "");
}

export function toggleLanguage() {
  current = current === "zh" ? "en" : "zh";
  try { localStorage.setItem("language", current); } catch { /* only this visit, then */ }
}

/** Fill in every element that names its words in a data-i18n… attribute. */
export function translatePage() {
  document.documentElement.lang = current === "zh" ? "zh-CN" : "en";
  for (const element of document.querySelectorAll("[data-i18n]")) element.textContent = t(element.dataset.i18n);
  for (const element of document.querySelectorAll("[data-i18n-label]")) {
    element.setAttribute("aria-label", t(element.dataset.i18nLabel));
    if (element.matches("button, a")) element.title = t(element.dataset.i18nLabel);
  }
  for (const element of document.querySelectorAll("[data-i18n-placeholder]")) {
    element.placeholder = t(element.dataset.i18nPlaceholder);
  }
}
