// Renews the parts of the page that are marked with data-live, every two seconds or as often as data-every says, while the page can be
// seen. Without this script the page is the same, as of when it was loaded.
"use strict";
(() => {
  // In place of a picture that cannot be had, its alternative says so.
  for (const img of document.querySelectorAll("img[data-gone]")) {
    const gone = () => {
      const said = document.createElement("p");
      said.className = "empty";
      said.textContent = img.dataset.gone;
      img.closest("figure").replaceChildren(said);
    };
    if (img.complete && !img.naturalWidth && img.loading !== "lazy") gone();
    else img.addEventListener("error", gone);
  }

  const parts = () => [...document.querySelectorAll("[data-live]")];
  if (!parts().length) return;
  const button = document.getElementById("pause");
  const stale = document.getElementById("stale");
  let paused = false;
  try { paused = localStorage.getItem("onceover-paused") === "1"; } catch { /* not allowed: not remembered */ }
  const show = () => {
    button.hidden = false;
    button.textContent = paused ? button.dataset.still : button.dataset.renewed;
  };
  button.addEventListener("click", () => {
    paused = !paused;
    try { localStorage.setItem("onceover-paused", paused ? "1" : "0"); } catch { /* not remembered */ }
    show();
    update();
  });
  show();

  // name tells an element from others of its kind. Those of one name are taken for the same: what has the focus keeps it, and what was
  // typed stays.
  const name = (e) => e.dataset.key || e.id || e.getAttribute("href") || e.getAttribute("action") || e.getAttribute("name") || "";
  const alike = (a, b) => a.nodeName === b.nodeName && (a.nodeType !== Node.ELEMENT_NODE || name(a) === name(b));
  // become makes old what fresh is, and touches nothing that is so already.
  const become = (old, fresh) => {
    if (old.nodeType !== Node.ELEMENT_NODE) {
      if (old.data !== fresh.data) old.data = fresh.data;
      return;
    }
    for (const a of fresh.attributes) if (old.getAttribute(a.name) !== a.value) old.setAttribute(a.name, a.value);
    for (const a of [...old.attributes]) if (a.name !== "open" && !fresh.hasAttribute(a.name)) old.removeAttribute(a.name);
    let at = old.firstChild;
    for (const child of [...fresh.childNodes]) {
      let same = at;
      while (same && !alike(same, child)) same = same.nextSibling;
      if (!same) {
        old.insertBefore(child, at);
        continue;
      }
      while (at !== same) {
        const after = at.nextSibling;
        at.remove();
        at = after;
      }
      become(same, child);
      at = same.nextSibling;
    }
    while (at) {
      const after = at.nextSibling;
      at.remove();
      at = after;
    }
  };
  // A row that has come to another place is made anew: the focus goes with it, or to the part if it has gone.
  const address = (e) => `${e.localName} ${name(e)} ${name(e.closest("form, [data-key]") ?? e)}`;
  const renew = (part, fresh) => {
    const focus = part.contains(document.activeElement) ? document.activeElement : null;
    become(part, fresh);
    if (!focus || focus.isConnected) return;
    let to = [...part.querySelectorAll(focus.localName)].find((e) => address(e) === address(focus));
    if (!to) {
      to = part;
      part.tabIndex = -1;
    }
    to.focus({ preventScroll: true });
  };

  // Buttons do not move away below the pointer, for a while.
  let held = 0;
  const aimed = () => {
    held = document.querySelector("[data-live] .do:hover") ? held + 1 : 0;
    return held % 6 !== 0;
  };

  let busy = false;
  const update = async () => {
    if (paused || busy || document.hidden || aimed()) return;
    busy = true;
    try {
      await ask();
    } finally {
      busy = false;
    }
  };
  const ask = async () => {
    let why = stale.dataset.away;
    try {
      const answer = await fetch(location.href, { headers: { Accept: "text/html" }, cache: "no-store", signal: AbortSignal.timeout(8000) });
      if (answer.status === 401) { location.reload(); return; }
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
      if (!answer.ok) {
        why = fresh.querySelector("main [role=alert]")?.textContent || why;
        throw new Error(why);
      }
      for (const part of parts()) {
        const next = fresh.querySelector(`[data-live="${part.dataset.live}"]`);
        if (next) renew(part, next);
      }
      stale.querySelector("time").textContent = fresh.querySelector("#stale time").textContent;
      stale.hidden = true;
    } catch {
      const said = stale.querySelector("span");
      if (said.textContent !== why) said.textContent = why;
      stale.hidden = false;
    }
  };
  const every = () => Math.min(...parts().map((part) => Number(part.dataset.every) || 2000));
  const loop = async () => { await update(); setTimeout(loop, every()); };
  setTimeout(loop, every());
  document.addEventListener("visibilitychange", update);
})();
