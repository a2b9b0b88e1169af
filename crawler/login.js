// Reads the state of a login widget in one document: login sections `selectors` and `texts` are lists by
// name. Only what is visible counts, for pages keep old states hidden. Changes nothing on the page.
const [selectors, texts, frames] = arguments;
const MIN_CODE_PX = 60;

function visible(element) {
  const box = element.getBoundingClientRect();
  if (box.width < 1 || box.height < 1) return false;
  if (box.right + scrollX <= 0 || box.bottom + scrollY <= 0) return false;
  if (getComputedStyle(element).visibility !== 'visible') return false;
  for (let node = element; node; node = node.parentElement) {
    if (Number(getComputedStyle(node).opacity) < 0.1) return false;
  }
  return true;
}

function find(list, good = visible) {
  for (const selector of list || []) {
    try {
      const element = [...document.querySelectorAll(selector)].find(good);
      if (element) return [selector, element];
    } catch { /* not a selector this browser knows */ }
  }
  return [null, null];
}

// The smallest element that says a text counts: its parents say it too, but may be visible where it is not.
function says(list) {
  if (!(list || []).some((text) => (document.body?.textContent || '').includes(text))) return false;
  const all = [...document.body.querySelectorAll(':not(script):not(style):not(noscript):not(template)')];
  return list.some((text) => all.some((element) =>
    element.textContent.includes(text)
    && ![...element.children].some((child) => child.textContent.includes(text))
    && visible(element)));
}

function bigEnough(element) {
  const box = element.getBoundingClientRect();
  return visible(element) && Math.min(box.width, box.height) >= MIN_CODE_PX;
}

function picture(element) {
  if (!element) return null;
  if (element instanceof HTMLCanvasElement) {
    try { return element.toDataURL('image/png'); } catch { return null; } // painted from another site
  }
  return element.currentSrc || element.src || null;
}

// An address for one iframe, as several may match the profile's selector and some of them be hidden.
function path(element) {
  if (!element) return null;
  const steps = [];
  for (let node = element; node.parentElement; node = node.parentElement) {
    const place = [...node.parentElement.children].indexOf(node) + 1;
    steps.unshift(`${node.localName}:nth-child(${place})`);
  }
  return ['html', ...steps].join(' > ');
}

const [code, element] = find(selectors.code, bigEnough);
const state = (name) => Boolean(find(selectors[`${name}_selectors`])[1]) || says(texts[name]);
return {
  code,
  picture: picture(element),
  switch: find(selectors.switch)[0],
  frame: path(find(frames)[1]),
  keep: Boolean(find(selectors.keep_dialog)[1]),
  expired: state('expired'),
  scanned: state('scanned'),
  cancelled: state('cancelled'),
};
