// A phone for humans: reads a code, tells the login site that it was scanned, then confirmed or cancelled.
const phone = document.querySelector(".phone");
const byId = (id) => document.getElementById(id);
const ENDS = {
  CONFIRMED: ["✓", "登录成功", "Logged in"],
  CANCELED: ["–", "已取消", "Cancelled"],
  EXPIRED: ["!", "二维码已失效，请刷新后再扫", "This code has expired: refresh it and scan again"],
  UNKNOWN: ["!", "没有这个二维码", "There is no such code"],
};
let payload = "";

function note(text) {
  byId("note").textContent = text;
}

function view(name) {
  phone.dataset.view = name;
  note("");
}

function end(state) {
  const [sign, chinese, english] = ENDS[state] || ["!", state, ""];
  view("end");
  phone.dataset.state = state;
  phone.querySelector(".sign").textContent = sign;
  const small = document.createElement("small");
  small.textContent = english;
  byId("result").replaceChildren(chinese, small);
}

async function scan(found) {
  if (!found) return note("没有看到本店的二维码 · No code of this shop to be seen");
  payload = found;
  const { state } = await (await fetch(payload)).json();
  if (state !== "SCANED") return end(state);
  view("ask");
  phone.querySelector(".token").textContent = `${token().slice(0, 8)}…`;
}

const token = () => new URL(payload).searchParams.get("lgToken");

async function answer(step) {
  const body = new URLSearchParams({ lgToken: token() });
  end((await (await fetch(new URL(step, payload), { method: "POST", body })).json()).state);
}

async function read(file) {
  if (!file) return;
  note("正在识别 · Reading…");
  const response = await fetch("/_phone/read", { method: "POST", body: file });
  scan((await response.json()).payload);
}

byId("shown").addEventListener("click", async () => scan((await (await fetch("/_phone/shown")).json()).payload));
byId("file").addEventListener("change", (event) => read(event.target.files[0]));
byId("confirm").addEventListener("click", () => answer("/qrcodeConfirm.htm"));
byId("cancel").addEventListener("click", () => answer("/qrcodeCancel.htm"));
byId("again").addEventListener("click", () => view("start"));
document.addEventListener("paste", (event) => read(event.clipboardData.files[0]));
for (const kind of ["dragover", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    byId("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop") read(event.dataTransfer.files[0]);
  });
}
const tick = () => (byId("clock").textContent = new Date().toTimeString().slice(0, 5));
tick();
setInterval(tick, 5000);
