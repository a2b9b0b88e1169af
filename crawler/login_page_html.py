"""The login page's HTML. `{nonce}` is filled in for each answer; texts come from the login's state."""

from __future__ import annotations

HTML = """<!doctype html>
<html lang="zh-CN">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>扫码登录</title>
<style nonce="{nonce}">
  :root {
    color-scheme: light dark;
    --page: #f3f4f6; --card: #ffffff; --ink: #16181d; --soft: #5c6370; --line: #d9dce2;
    --accent: #c2410c; --good: #15803d; --bad: #b91c1c;
  }
  @media (prefers-color-scheme: dark) {
    :root {
      --page: #111318; --card: #1b1e25; --ink: #eef0f4; --soft: #a2a9b8; --line: #343945;
      --accent: #fb923c; --good: #4ade80; --bad: #f87171;
    }
  }
  * { box-sizing: border-box; margin: 0; }
  body {
    min-height: 100vh; display: grid; place-items: center; padding: 16px;
    background: var(--page); color: var(--ink);
    font: 16px/1.5 system-ui, "PingFang SC", "Microsoft YaHei", "Noto Sans CJK SC", sans-serif;
  }
  main {
    width: min(100%, 430px); padding: 28px 28px 32px; text-align: center;
    background: var(--card); border: 1px solid var(--line); border-radius: 16px;
  }
  ol { display: flex; list-style: none; padding: 0; margin-bottom: 24px; }
  li { flex: 1; font-size: 13px; color: var(--soft); border-top: 3px solid var(--line); padding-top: 8px; }
  li + li { margin-left: 6px; }
  li.done { border-color: var(--good); }
  li.now { border-color: var(--accent); color: var(--ink); font-weight: 600; }
  #box {
    width: min(100%, 300px); aspect-ratio: 1; margin: 0 auto 24px; display: grid; place-items: center;
    border: 1px solid var(--line); border-radius: 12px; overflow: hidden;
  }
  #box.code { background: #fff; border-color: #fff; }
  #box img { width: 100%; height: 100%; object-fit: contain; image-rendering: pixelated; }
  #box svg { width: 88px; height: 88px; fill: none; stroke: currentColor; stroke-width: 2;
    stroke-linecap: round; stroke-linejoin: round; color: var(--soft); }
  #box.good svg { color: var(--good); }
  #box.bad svg { color: var(--bad); }
  #box.act svg { color: var(--accent); }
  #box.wait svg { animation: turn 1.2s linear infinite; }
  @keyframes turn { to { transform: rotate(360deg); } }
  @media (prefers-reduced-motion: reduce) { #box.wait svg { animation-duration: 6s; } }
  #chinese { font-size: 19px; font-weight: 600; text-wrap: balance; }
  #english { margin-top: 6px; color: var(--soft); font-size: 14px; text-wrap: balance; }
  p { overflow-wrap: anywhere; }
  p span { display: inline-block; white-space: pre-wrap; }
  [hidden] { display: none !important; }
</style>
</head>
<body>
<main>
  <ol>
    <li>扫码<br><span lang="en">Scan</span></li>
    <li>手机确认<br><span lang="en">Confirm</span></li>
    <li>完成<br><span lang="en">Done</span></li>
  </ol>
  <div id="box" class="wait">
    <img id="code" alt="登录二维码 / login QR code" hidden>
    <svg id="icon" viewBox="0 0 24 24" aria-hidden="true"><path></path></svg>
  </div>
  <div role="status">
    <p id="chinese">请稍候</p>
    <p id="english" lang="en">one moment</p>
  </div>
</main>
<script nonce="{nonce}">
'use strict';
const POLL_MS = 1000, MAX_MISSES = 3;
const ICONS = {
  wait: 'M21 12a9 9 0 1 1-6.2-8.6',
  act: 'M8 2h8a2 2 0 0 1 2 2v16a2 2 0 0 1-2 2H8a2 2 0 0 1-2-2V4a2 2 0 0 1 2-2zM9 12l2.2 2.2L15 10.4M11 19h2',
  good: 'M12 3a9 9 0 1 0 0 18a9 9 0 0 0 0-18zM8 12.3l2.8 2.8L16 9.6',
  bad: 'M12 3a9 9 0 1 0 0 18a9 9 0 0 0 0-18zM9 9l6 6M15 9l-6 6',
};
const LOOKS = {
  scanned: 'act', identity_check: 'act', no_code: 'act', logged_in: 'good', failed: 'bad', closed: 'bad',
};
const STAGES = { scanned: 1, confirmed: 2, keep_login: 2, identity_check: 1, verify: 2, logged_in: 3 };
const one = (id) => document.getElementById(id);
let misses = 0;

// Lines break between clauses rather than in a Chinese word.
function phrases(text) {
  return text.split(/(?=[（(])|(?<=[，；])/).map((phrase) => {
    const span = document.createElement('span');
    span.textContent = phrase;
    return span;
  });
}

function show(state) {
  const look = state.image ? 'code' : LOOKS[state.step] || 'wait';
  one('box').className = look;
  one('code').hidden = !state.image;
  one('icon').hidden = Boolean(state.image);
  if (state.image) one('code').src = state.image; else one('code').removeAttribute('src');
  if (!state.image) one('icon').firstElementChild.setAttribute('d', ICONS[look]);
  for (const [id, text] of [['chinese', state.chinese], ['english', state.english]]) {
    if (text && one(id).textContent !== text) one(id).replaceChildren(...phrases(text));
  }
  const stage = STAGES[state.step] || 0;
  document.querySelectorAll('li').forEach((item, place) => {
    item.className = place < stage ? 'done' : place === stage && !state.final ? 'now' : '';
  });
  document.title = state.chinese || '扫码登录';
}

async function poll() {
  try {
    const answer = await fetch('state.json', { cache: 'no-store' });
    if (!answer.ok) throw new Error(String(answer.status));
    const state = await answer.json();
    misses = 0;
    show(state);
    if (state.final) return;
  } catch {
    misses += 1;
    if (misses >= MAX_MISSES) {
      const english = 'the login has ended; see the terminal';
      show({ step: 'closed', image: '', chinese: '登录程序已退出', english, final: true });
      return;
    }
  }
  setTimeout(poll, POLL_MS);
}
poll();
</script>
</body>
</html>
"""
