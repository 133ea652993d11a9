// The page of a deployment: the answer appears while it is generated. Without a script the form shows it at the end.
"use strict";

(() => {
  const form = document.querySelector("[data-run]");
  const answer = document.getElementById("answer");
  if (!form || !answer || !window.fetch) return;
  const button = form.querySelector("button[value=run]");

  const element = (name, className, text = "") => {
    const created = document.createElement(name);
    created.className = className;
    created.textContent = text;
    return created;
  };

  const box = (title, kind) => {
    const head = document.createElement("h3");
    head.append(element("span", `badge ${kind}`, title));
    const text = element("div", "text");
    const whole = element("div", kind === "error" ? "answer failed" : "answer");
    whole.append(head, text);
    answer.replaceChildren(whole);
    return text;
  };

  const fail = (title, detail) => { box(title, "error").textContent = detail; };

  const read = async (response, text) => {
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let pending = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const events = (pending + value).split("\r\n\r\n");
      pending = events.pop();
      for (const event of events) {
        if (event.startsWith("data: ")) text.append(JSON.parse(event.slice(6)).chunk);
      }
    }
  };

  // Latency, tokens and cost are in the record of the completion; the server renders them.
  const figures = async (id) => {
    const address = new URL(form.dataset.page, location.href);
    address.searchParams.set("answer", id);
    const response = await fetch(address, { headers: { accept: "text/html" } });
    if (!response.ok || response.redirected) return false;
    const page = new DOMParser().parseFromString(await response.text(), "text/html");
    const rendered = page.getElementById("answer");
    const next = page.querySelector("[data-run] [name=inference_id]");
    if (!rendered || !next) return false;
    answer.replaceChildren(...[...rendered.childNodes].map((node) => document.adoptNode(node)));
    form.elements.inference_id.value = next.value;
    return true;
  };

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (button.disabled) return;
    const fields = new URLSearchParams(new FormData(form));
    const id = fields.get("inference_id");
    button.disabled = true;
    const text = box("running", "");
    try {
      const response = await fetch(form.dataset.run, { method: "POST", body: fields, headers: { accept: "text/event-stream" } });
      if (response.redirected || response.status === 401) return location.assign(form.dataset.page);
      if (response.ok) await read(response, text);
      else if (response.status !== 502) {
        const problem = await response.json();
        return fail(problem.title, problem.detail);
      }
      if (!(await figures(id))) fail("no answer", "The server did not return the record of this completion. Reload the page.");
    } catch (error) {
      // The text so far stays on the page; the record says how the completion ended.
      if (!(await figures(id).catch(() => false))) fail("interrupted", "The connection to the server was lost. Try again.");
    } finally {
      button.disabled = false;
    }
    return undefined;
  });
})();
