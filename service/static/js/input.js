// Ways in: pictures (picked, dropped, pasted) and the keyboard.

import { $ } from "./view.js";

const firstPicture = (files) => [...files].find((file) => file.type.startsWith("image/")) ?? files[0];

/** Calls `onFile(file)` for each picture that is chosen, dropped anywhere on the page, or pasted. */
export function watchPictures(onFile) {
  const picker = $("file");
  const overlay = $("overlay");
  const hasFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  for (const id of ["pick", "drop"]) $(id).addEventListener("click", () => picker.click());
  picker.addEventListener("change", () => {
    if (picker.files.length) onFile(picker.files[0]);
    picker.value = "";  // so that the same file can be chosen again
  });
  document.addEventListener("dragover", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    overlay.hidden = false;
  });
  document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) overlay.hidden = true; });
  document.addEventListener("drop", (event) => {
    overlay.hidden = true;
    if (!hasFiles(event)) return;
    event.preventDefault();
    const file = firstPicture(event.dataTransfer.files);
    if (file) onFile(file);
  });
  document.addEventListener("paste", (event) => {
    const files = event.clipboardData?.files ?? [];
    if (!files.length) return;
    event.preventDefault();
    onFile(firstPicture(files));
  });
}

/** Columns of the grid, as it is laid out now (offsetTop: a card that is lifted by a hover still counts). */
function columnsOf(cards) {
  const next = cards.findIndex((card) => card.offsetTop > cards[0].offsetTop);
  return next < 0 ? cards.length : next;
}

function move(cards, from, key) {
  const columns = columnsOf(cards);
  const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[key];
  const to = key === "Home" ? 0 : key === "End" ? cards.length - 1 : from + step;
  if (to < 0) return $("q").focus();
  const target = cards[Math.min(to, cards.length - 1)];
  for (const card of cards) card.tabIndex = card === target ? 0 : -1;
  target.focus();
}

/** `/` to the search box, arrows through the grid, Escape calls `onClear()`. */
export function watchKeys(onClear) {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;  // isComposing: an IME is open
    const typing = event.target.matches("input");
    const cards = [...document.querySelectorAll("#results button.card")];
    const at = cards.indexOf(event.target);
    if (event.key === "/" && !typing) {
      event.preventDefault();
      $("q").focus();
      $("q").select();
    } else if (event.key === "Escape") {
      onClear();
    } else if (at >= 0 && /^(Arrow(Left|Right|Up|Down)|Home|End)$/.test(event.key)) {
      event.preventDefault();
      move(cards, at, event.key);
    } else if (event.target === $("q") && event.key === "ArrowDown" && cards.length) {
      event.preventDefault();
      move(cards, 0, "Home");
    }
  });
}
