// A deployment's page: the answer of a try appears as it comes. Without a script the same form shows it at its end.
"use strict";

(() => {
  const form = document.querySelector("[data-run]");
  const answer = document.getElementById("answer");
  if (!form || !answer || !window.fetch) return;
  const button = form.querySelector("button[value=run]");

  const made = (name, className, text = "") => {
    const element = document.createElement(name);
    element.className = className;
    element.textContent = text;
    return element;
  };

  const box = (title, kind) => {
    const head = document.createElement("h3");
    head.append(made("span", `badge ${kind}`, title));
    const text = made("div", "text");
    const whole = made("div", kind === "error" ? "answer failed" : "answer");
    whole.append(head, text);
    answer.replaceChildren(whole);
    return text;
  };

  const fail = (title, detail) => { box(title, "error").textContent = detail; };

  const read = async (response, text) => {
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let waiting = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const events = (waiting + value).split("\r\n\r\n");
      waiting = events.pop();
      for (const event of events) {
        if (event.startsWith("data: ")) text.append(JSON.parse(event.slice(6)).chunk);
      }
    }
  };

  // The record of the completion has its figures; the page draws them.
  const figures = async (id) => {
    const address = new URL(form.dataset.page, location.href);
    address.searchParams.set("answer", id);
    const response = await fetch(address, { headers: { accept: "text/html" } });
    if (!response.ok || response.redirected) return false;
    const page = new DOMParser().parseFromString(await response.text(), "text/html");
    const found = page.getElementById("answer");
    const next = page.querySelector("[data-run] [name=inference_id]");
    if (!found || !next) return false;
    answer.replaceChildren(...[...found.childNodes].map((node) => document.adoptNode(node)));
    form.elements.inference_id.value = next.value;
    return true;
  };

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (button.disabled) return;
    const sent = new URLSearchParams(new FormData(form));
    const id = sent.get("inference_id");
    button.disabled = true;
    const text = box("running", "");
    try {
      const response = await fetch(form.dataset.run, { method: "POST", body: sent, headers: { accept: "text/event-stream" } });
      if (response.redirected || response.status === 401) return location.assign(form.dataset.page);
      if (response.ok) await read(response, text);
      else if (response.status !== 502) {
        const problem = await response.json();
        return fail(problem.title, problem.detail);
      }
      if (!(await figures(id))) fail("no answer", "The server did not give the record of this completion. Reload the page.");
    } catch (error) {
      // What had come stays to be seen; the record says how it ended.
      if (!(await figures(id).catch(() => false))) fail("broken off", "The connection to the server broke. Try again.");
    } finally {
      button.disabled = false;
    }
    return undefined;
  });
})();
