// The slider: dragged to the right end it tells the shop that a human is here, and leads back.
"use strict";
(() => {
  const knob = document.getElementById("nc_1_n1z");
  const room = () => knob.parentElement.clientWidth - knob.offsetWidth;
  let start = null;
  knob.addEventListener("pointerdown", (event) => {
    start = event.clientX;
    knob.setPointerCapture(event.pointerId);
  });
  knob.addEventListener("pointermove", (event) => {
    if (start !== null) knob.style.left = `${Math.max(0, Math.min(room(), event.clientX - start))}px`;
  });
  knob.addEventListener("pointerup", async () => {
    start = null;
    if (knob.offsetLeft < room() - 4) {
      knob.style.left = "0";
      return;
    }
    await fetch("/_control/solve", { method: "POST" });
    window.top.location.href = document.body.dataset.back;
  });
})();
