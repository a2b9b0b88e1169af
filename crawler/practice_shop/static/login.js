// The login form: password first, the QR code behind the corner. Asks every half second how the code is.
const POLL_MS = 500;
const QUIET = 4; // modules around the code
const PIXELS = 5; // per module
const target = new URL(location.href).searchParams.get("redirectURL") || "";
const box = document.getElementById("login");
const part = (name) => box.querySelector(name);
let token = "";

async function ask(path, words = {}) {
  const response = await fetch(`/newlogin/qrcode/${path}?${new URLSearchParams(words)}`, { method: "POST" });
  return (await response.json()).content.data;
}

function drawCanvas(modules) {
  const rows = modules.split("\n");
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = (rows.length + 2 * QUIET) * PIXELS;
  const pen = canvas.getContext("2d");
  pen.fillStyle = "#fff";
  pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.fillStyle = "#000";
  rows.forEach((row, y) =>
    [...row].forEach((dark, x) => {
      if (dark === "1") pen.fillRect((x + QUIET) * PIXELS, (y + QUIET) * PIXELS, PIXELS, PIXELS);
    }),
  );
  return canvas;
}

function drawImage(code) {
  const image = document.createElement("img");
  image.src = `/newlogin/qrcode/image.do?t=${code}`;
  image.alt = "";
  return image;
}

function show(state) {
  part(".qrcode-expired-mask").hidden = state !== "EXPIRED";
  part(".qrcode-canceled-mask").hidden = state !== "CANCELED";
  part(".qrcode-success").hidden = state !== "SCANED" && state !== "CONFIRMED";
}

async function renew() {
  const code = await ask("generate.do");
  token = code.t;
  part(".qrcode-img").replaceChildren(code.node === "canvas" ? drawCanvas(code.modules) : drawImage(token));
  show("NEW");
  watch(token);
}

async function watch(mine) {
  while (mine === token) {
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
    if (mine !== token) return;
    const answer = await ask("query.do", { t: mine, redirectURL: target });
    if (mine !== token) return;
    show(answer.qrCodeStatus);
    if (answer.redirect) return leave(answer);
    if (["EXPIRED", "CANCELED"].includes(answer.qrCodeStatus)) return;
  }
}

function leave({ redirect, askToKeep }) {
  const go = (keep) => {
    window.top.location.href = redirect + (keep ? "&keep=1" : "&keep=0");
  };
  if (!askToKeep) return go(true);
  const dialog = part(".keep-login-confirm");
  dialog.classList.add("show");
  dialog.querySelector(".confirm").addEventListener("click", () => go(true));
  dialog.querySelector(".cancel").addEventListener("click", () => go(false));
}

part(".corner-icon-view").addEventListener("click", () => {
  const icon = part(".corner-icon-view i");
  const toCode = icon.classList.contains("icon-qrcode");
  icon.className = `iconfont ${toCode ? "icon-password" : "icon-qrcode"}`;
  part(".login-view-password").hidden = toCode;
  part(".login-view-qrcode").hidden = !toCode;
  if (toCode && !token) renew();
});
for (const button of box.querySelectorAll(".refresh-btn")) button.addEventListener("click", renew);
