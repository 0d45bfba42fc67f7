// Look at the counts once a second, and fetch the list again when they have changed.
let seen = "";

async function refresh() {
  const counts = await (await fetch("/_simulator/counts")).text();
  if (counts === seen) return;
  const page = new DOMParser().parseFromString(await (await fetch("/")).text(), "text/html");
  document.querySelector("main").replaceWith(page.querySelector("main"));
  seen = counts;
}

setInterval(() => refresh().catch(() => {}), 1000);
