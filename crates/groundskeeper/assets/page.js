// Keeps what the reader opened or selected while htmx refreshes the page, and says when the refresh fails.
"use strict";
(() => {
  const live = document.getElementById("live");
  const lost = document.getElementById("lost");
  const since = document.getElementById("lost-since");
  let fresh = new Date();
  let opened = [];

  const selecting = () => {
    const selection = document.getSelection();
    return selection && !selection.isCollapsed && live.contains(selection.anchorNode);
  };
  const failed = () => {
    since.textContent = fresh.toLocaleTimeString();
    since.dateTime = fresh.toISOString();
    lost.hidden = false;
    live.classList.add("old");
  };

  live.addEventListener("htmx:beforeSwap", (event) => {
    if (event.detail.xhr.status !== 200) return;
    fresh = new Date();
    lost.hidden = true;
    live.classList.remove("old");
    // Somebody is about to copy a command: leave the text where it is until the next time.
    if (selecting()) {
      event.detail.shouldSwap = false;
      return;
    }
    opened = [...live.querySelectorAll("details[open][id]")].map((details) => details.id);
  });
  live.addEventListener("htmx:afterSwap", () => {
    for (const id of opened) {
      const details = document.getElementById(id);
      if (details) details.open = true;
    }
  });
  for (const name of ["htmx:sendError", "htmx:responseError", "htmx:timeout"]) {
    live.addEventListener(name, failed);
  }
})();
