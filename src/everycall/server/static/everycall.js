// What is more convenient with a script; every page works without one. No library, and no request to another server.
"use strict";

(() => {
  const editing = (element) => element instanceof HTMLElement && element.closest("input, select, textarea, button, summary") !== null;
  document.documentElement.classList.add("script");
  for (const element of document.querySelectorAll("[data-no-script]")) element.hidden = true;
  for (const element of document.querySelectorAll("[data-script-only]")) element.hidden = false;
  const showCopyButtons = (root) => { for (const button of root.querySelectorAll(".copy")) button.hidden = false; };
  showCopyButtons(document);

  // --- theme: kept in a cookie, so that the server draws the next page in it ---
  for (const button of document.querySelectorAll("[data-theme-switch]")) {
    button.addEventListener("click", () => {
      const themes = ["auto", "light", "dark"];
      const root = document.documentElement;
      const theme = themes[(themes.indexOf(root.dataset.theme || "auto") + 1) % themes.length];
      if (theme === "auto") delete root.dataset.theme;
      else root.dataset.theme = theme;
      button.textContent = `Theme: ${theme}`;
      const age = theme === "auto" ? 0 : 31536000;
      document.cookie = `everycall_theme=${theme}; path=${button.dataset.cookiePath}; max-age=${age}; samesite=lax`;
    });
  }

  // --- copy buttons ---
  const copy = async (text) => {
    if (navigator.clipboard && window.isSecureContext) return navigator.clipboard.writeText(text);
    const area = document.createElement("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  };
  document.addEventListener("click", async (event) => {
    const button = event.target instanceof Element ? event.target.closest(".copy") : null;
    if (!button) return;
    event.preventDefault();
    const source = button.dataset.copyFrom;
    await copy(source ? document.getElementById(source).textContent : button.dataset.copy);
    button.classList.add("done");
    setTimeout(() => button.classList.remove("done"), 1200);
  });

  // --- forms: empty fields are left out of the URL; a choice applies immediately ---
  for (const form of document.querySelectorAll("form[data-tidy]")) {
    form.addEventListener("submit", () => {
      for (const field of form.elements) if (field.name && field.value.trim() === "") field.disabled = true;
    });
  }
  window.addEventListener("pageshow", () => {
    for (const field of document.querySelectorAll("form[data-tidy] :disabled")) field.disabled = false;
  });
  for (const select of document.querySelectorAll("select[data-submit], form[data-auto] select")) {
    select.addEventListener("change", () => select.form.requestSubmit());
  }

  // --- exact times also in the reader's time zone ---
  for (const time of document.querySelectorAll("time[title]")) {
    const moment = new Date(time.dateTime);
    if (!Number.isNaN(moment.getTime())) time.title += "\n" + moment.toLocaleString() + " here";
  }

  // --- tables: name the columns that are out of view ---
  for (const wrap of document.querySelectorAll(".table-wrap:has(thead)")) {
    const hint = document.createElement("p");
    hint.className = "hint more-columns";
    hint.hidden = true;
    wrap.before(hint);
    const update = () => {
      const edge = wrap.getBoundingClientRect().right;
      const hidden = [...wrap.querySelectorAll("thead th")].filter((head) => head.getBoundingClientRect().right > edge + 2);
      hint.hidden = hidden.length === 0;
      hint.textContent = `Scroll right for more columns: ${hidden.map((head) => head.textContent.trim()).join(", ")}`;
    };
    wrap.addEventListener("scroll", update, { passive: true });
    const sizes = new ResizeObserver(update);
    sizes.observe(wrap);
    sizes.observe(wrap.querySelector("table"));
  }

  // --- one trace: move in the tree, load only the panel ---
  const tree = document.querySelector("[data-tree]");
  const rows = tree ? [...tree.querySelectorAll(".row")] : [...document.querySelectorAll("[data-rows] .open")];
  const panel = document.getElementById("record");
  let loading = null;

  const load = async (row) => {
    if (loading) loading.abort();
    const mine = loading = new AbortController();
    const address = new URL(row.href);
    const part = new URL(address);
    part.hash = "";
    part.searchParams.set("part", "record");
    panel.firstElementChild?.classList.add("loading");
    try {
      const answer = await fetch(part, { signal: mine.signal, headers: { accept: "text/html" } });
      if (!answer.ok || answer.redirected) return location.assign(address);
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const record = page.querySelector(".record");
      if (mine.signal.aborted || !record) return undefined;
      panel.replaceChildren(document.adoptNode(record));
      panel.scrollTop = 0;
      showCopyButtons(panel);
      address.hash = "";
      history.replaceState(null, "", address);
      for (const link of document.querySelectorAll(".twin, [data-keeps-record]")) {
        const target = new URL(link.href);
        target.searchParams.set("record", address.searchParams.get("record"));
        link.href = target;
      }
    } catch (error) {
      if (error.name !== "AbortError") location.assign(address);
    }
    return undefined;
  };

  const select = (row) => {
    for (const other of tree.querySelectorAll("[aria-current]")) other.removeAttribute("aria-current");
    row.setAttribute("aria-current", "true");
    row.focus({ preventScroll: true });
    row.scrollIntoView({ block: "nearest" });
    return load(row);
  };

  const sideBySide = () => panel.getBoundingClientRect().left > tree.getBoundingClientRect().right - 1;
  tree?.addEventListener("click", (event) => {
    const row = event.target.closest(".row");
    if (!row || event.button !== 0 || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
    event.preventDefault();
    select(row).then(() => { if (!sideBySide()) panel.scrollIntoView({ block: "start" }); });
  });

  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.metaKey || event.ctrlKey || event.altKey || editing(event.target)) return;
    if (event.key === "/") {
      const search = document.querySelector("[data-key='/']");
      if (search) { event.preventDefault(); search.focus(); search.select(); }
      return;
    }
    if (rows.length === 0) return;
    const inTree = Boolean(tree) && !panel.contains(event.target);
    const here = rows.findIndex((row) => (tree ? row.hasAttribute("aria-current") : row === document.activeElement));
    let next = -1;
    if (event.key === "j" || (inTree && event.key === "ArrowDown")) next = Math.min(here + 1, rows.length - 1);
    else if (event.key === "k" || (inTree && event.key === "ArrowUp")) next = Math.max(here - 1, 0);
    else if (inTree && event.key === "Home") next = 0;
    else if (inTree && event.key === "End") next = rows.length - 1;
    if (next < 0) return;
    event.preventDefault();
    if (!tree) rows[next].focus();
    else if (next !== here) select(rows[next]);
  });
})();
