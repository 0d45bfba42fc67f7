// On the inbox, look at the counts once a second, and fetch the list again when they have changed.
let seen = "";

async function refresh() {
  const counts = await (await fetch("/_simulator/counts")).text();
  if (counts === seen) return;
  const page = new DOMParser().parseFromString(await (await fetch("/")).text(), "text/html");
  document.querySelector("main").replaceWith(page.querySelector("main"));
  seen = counts;
}

const isInbox = document.querySelector(".counts") !== null;
if (isInbox) setInterval(() => refresh().catch(() => {}), 1000);

// A button lets something become of its mail.
document.addEventListener("click", async (event) => {
  const button = event.target.closest("button[data-post]");
  if (!button) return;
  button.disabled = true;
  await fetch(button.dataset.post, { method: "POST", headers: { "Content-Type": "application/json" }, body: "{}" });
  if (isInbox) refresh().catch(() => {});
  else location.reload();
});
