// Fills the shell of a result page: asks for the cards, draws them (again and again if so set), loads
// pictures when they come into view, and shows what the shop says when it refuses.
"use strict";
(() => {
  const config = JSON.parse(document.getElementById("page-config").textContent);
  const root = document.getElementById("root");
  const waiting = new WeakMap(); // img -> address it gets once it is in view

  const watcher = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      if (!isIntersecting) continue;
      target.src = waiting.get(target);
      target.removeAttribute("data-ks-lazyload");
      watcher.unobserve(target);
    }
  });

  function draw(html) {
    root.innerHTML = html;
    for (const img of root.querySelectorAll("img[data-fill], img[data-ks-lazyload]")) {
      waiting.set(img, img.dataset.fill || img.dataset.ksLazyload);
      img.removeAttribute("data-fill");
      watcher.observe(img);
    }
  }

  function showOverlay(url) {
    const widget = document.createElement("div");
    widget.className = "J_MIDDLEWARE_FRAME_WIDGET";
    widget.innerHTML =
      '<div class="baxia-dialog"><div id="baxia-dialog-content"><iframe id="baxia-dialog-content-frame"></iframe></div></div>';
    widget.querySelector("iframe").src = url;
    document.body.append(widget);
  }

  function refuse(answer) {
    const said = answer.ret.join(" ");
    const url = answer.data.url;
    if (!url) {
      root.innerHTML = '<div class="notice"><p></p></div>';
      root.querySelector("p").textContent = said;
    } else if (said.includes("SESSION_EXPIRED") || url.includes("action=deny")) {
      location.href = url;
    } else {
      showOverlay(url);
    }
  }

  async function fill() {
    const answer = await (await fetch(config.data)).json();
    if (!answer.ret[0].startsWith("SUCCESS")) return refuse(answer);
    draw(answer.data.html);
    if (config.redraw_ms) setInterval(() => draw(answer.data.html), config.redraw_ms);
    if (config.check) fetch(config.check, { credentials: "include" }).catch(() => undefined);
  }

  document.querySelector(".next-next").addEventListener("click", () => {
    const here = new URL(location.href);
    here.searchParams.set("page", Number(document.querySelector(".next-pagination-display em").textContent) + 1);
    location.href = here;
  });
  setTimeout(fill, config.delay_ms);
})();
