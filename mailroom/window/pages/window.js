// Keeps ages and times true for who reads, and the page fresh while somebody looks at it.
const UNITS = [[86400, "d"], [3600, "h"], [60, "min"]];
const EVERY = 5000;
let tag = null, read = Date.parse(document.body.dataset.now), since = performance.now();

class LoginEnded extends Error {}

function about(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  for (const [size, unit] of UNITS) if (whole >= 2 * size) return `${Math.floor(whole / size)} ${unit}`;
  return `${whole} s`;
}

function tellAges() {
  const now = read + performance.now() - since;
  for (const each of document.querySelectorAll("time[data-age]")) {
    const words = `${about((now - Date.parse(each.dateTime)) / 1000)} ago`;
    if (each.textContent !== words) each.textContent = words;
  }
}

// The server says UTC; who reads has a zone.
function tellTimes() {
  for (const each of document.querySelectorAll("time[data-clock]")) {
    const at = new Date(each.dateTime), form = { hour: "2-digit", minute: "2-digit", hourCycle: "h23" };
    if (each.dataset.clock === "second") form.second = "2-digit";
    const today = at.toDateString() === new Date(read).toDateString();
    each.textContent = at.toLocaleString([], today ? form : { ...form, year: "numeric", month: "short", day: "numeric" });
  }
  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
  document.querySelector("[data-zone]").textContent = `All times are in ${zone}.`;
}

// What is as it was stays: the focus, and words that somebody marks. The sentence is read aloud only if it is another.
function put(fresh) {
  const parts = (page) => [...page.querySelectorAll("[data-part]")];
  const same = parts(fresh).map((part) => part.id).join() === parts(document).map((part) => part.id).join();
  const focused = document.activeElement, chosen = document.getSelection();
  for (const part of same ? parts(fresh) : [fresh.querySelector("main")]) {
    const old = document.getElementById(part.id);
    if (!chosen.isCollapsed && chosen.containsNode(old, true)) continue;
    const kept = old.querySelector("h1"), next = part.querySelector("h1");
    if (part.id === "said" && kept.outerHTML === next.outerHTML) old.lastElementChild.replaceWith(part.lastElementChild);
    else old.replaceChildren(...part.childNodes);
  }
  const link = focused.isConnected ? null : focused.getAttribute("href");
  if (link) document.querySelector(`main [href="${CSS.escape(link)}"]`)?.focus();
}

// Who is not let in any more is led to a login, told so, or shown another page: what is here stays as it is.
async function refresh() {
  if (document.hidden) return;
  const answer = await fetch(location.href, { headers: tag ? { "If-None-Match": tag } : {}, redirect: "manual" });
  if (answer.type === "opaqueredirect" || [401, 403].includes(answer.status)) throw new LoginEnded();
  if (answer.status === 200) {
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    if (!("live" in fresh.body.dataset)) throw new LoginEnded();
    tag = answer.headers.get("ETag");
    read = Date.parse(fresh.body.dataset.now);
    since = performance.now();
    document.title = fresh.title;
    put(fresh);
    tellTimes();
    tellAges();
  } else if (answer.status !== 304) throw new Error(answer.status);
}

function keepFresh() {
  const lost = document.querySelector(".lost");
  refresh().then(() => (lost.hidden = true), (error) => {
    const words = error instanceof LoginEnded ? lost.dataset.ended : lost.dataset.silent;
    if (lost.hidden || lost.textContent !== words) lost.textContent = words;
    lost.hidden = false;
  });
}

tellTimes();
setInterval(tellAges, 1000);
if ("live" in document.body.dataset) {
  setInterval(keepFresh, EVERY);
  document.addEventListener("visibilitychange", keepFresh);
}
