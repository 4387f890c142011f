// Sends the page's forms and shows what comes back. Text of documents is only ever set as text, never as markup.
"use strict";

const one = (selector, inside = document) => inside.querySelector(selector);

/** The problem that a response tells of, as one sentence. */
async function problem(response) {
  try {
    const told = await response.json();
    return told.detail || told.title || `The service answered ${response.status}.`;
  } catch {
    return `The service answered ${response.status}.`;
  }
}

function show(element, text) {
  element.textContent = text;
  element.hidden = !text;
}

function make(name, classes, text) {
  const element = document.createElement(name);
  element.className = classes;
  if (text !== undefined) element.textContent = text;
  return element;
}

const lost = "The service does not answer; try again in a moment.";

/* Log in and out */

const login = one("#login");
if (login) {
  login.addEventListener("submit", async (event) => {
    event.preventDefault();
    const note = one(".problem", login);
    const button = one("button", login);
    button.disabled = true;
    try {
      const response = await fetch("/v1/sessions", {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify({ key: login.key.value.trim() }),
      });
      if (!response.ok) show(note, await problem(response));
      else if ((await fetch("/v1/sessions/current")).status !== 401) location.reload();
      else show(note, "The browser did not keep the cookie: use https, or set sessions.secure_cookie = false.");
    } catch {
      show(note, lost);
    }
    button.disabled = false;
  });
}

one("#logout")?.addEventListener("click", async () => {
  await fetch("/v1/sessions/current", { method: "DELETE" }).catch(() => {});
  location.reload();
});

/* Ask */

const ask = one("#ask");
if (ask) {
  let running = null;
  ask.question.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      ask.requestSubmit();
    }
  });
  ask.addEventListener("submit", async (event) => {
    event.preventDefault();
    running?.abort();
    running = new AbortController();
    const mine = running;
    const answer = new Answer();
    try {
      const response = await fetch("/v1/ask", {
        method: "POST",
        headers: { "content-type": "application/json", accept: "text/event-stream" },
        body: JSON.stringify({ question: ask.question.value, corpus: ask.corpus.value }),
        signal: mine.signal,
      });
      if (response.status === 401) return location.reload();
      if (!response.ok) answer.fail(await problem(response));
      else await events(response.body, (name, data) => answer.take(name, data));
    } catch {
      if (mine.signal.aborted) return;
      answer.fail(lost);
    }
    answer.end();
  });
}

/** Reads server-sent events; they are framed by empty lines. */
async function events(body, take) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    rest += value;
    const blocks = rest.split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      let name = "message";
      const data = [];
      for (const line of block.split("\n")) {
        if (line.startsWith("event:")) name = line.slice(6).trim();
        if (line.startsWith("data:")) data.push(line.slice(5).trimStart());
      }
      if (data.length) take(name, JSON.parse(data.join("\n")));
    }
  }
}

class Answer {
  constructor() {
    this.text = "";
    this.known = new Set();
    one("#result").hidden = false;
    this.box = one("#answer .text");
    this.box.replaceChildren();
    this.box.classList.add("waiting");
    show(one("#answer .note"), "");
    show(one("#answer .problem"), "");
    one("#cited ol").replaceChildren();
    one("#cited").hidden = true;
  }

  take(name, data) {
    if (name === "passages") this.passages(data.passages ?? data);
    if (name === "token") this.write(data.text ?? data);
    if (name === "citation") one(`#passage-${Number(data.n)}`)?.classList.add("cited");
    if (name === "error") this.fail((data.problem ?? data).detail);
    if (name === "done") {
      const said = [data.reason, data.degraded];
      if (data.unsupported) said.push("No passage supports this answer; do not rely on it.");
      // What the answer itself says need not be said twice.
      const news = said.filter((text) => text && !this.text.includes(text));
      show(one("#answer .note"), news.join(" "));
    }
  }

  passages(list) {
    const items = list.map((passage) => {
      const item = make("li", "");
      item.id = `passage-${Number(passage.n)}`;
      const where = make("p", "where");
      where.append(make("span", "n", `[${Number(passage.n)}]`), make("span", "", passage.title || passage.source));
      item.append(where);
      const place = [passage.title ? passage.source : "", passage.heading].filter(Boolean).join(" › ");
      if (place) item.append(make("p", "dim small", place));
      item.append(make("p", "content", passage.content));
      this.known.add(Number(passage.n));
      return item;
    });
    one("#cited ol").replaceChildren(...items);
    one("#cited").hidden = items.length === 0;
  }

  /** `[n]` becomes a link to its passage; everything else stays text. */
  write(text) {
    this.text += text;
    const parts = this.text.split(/(\[\d{1,3}\])/).map((part) => {
      const number = /^\[(\d+)\]$/.exec(part)?.[1];
      if (!number || !this.known.has(Number(number))) return part;
      const link = make("a", "cite", part);
      link.href = `#passage-${Number(number)}`;
      return link;
    });
    this.box.replaceChildren(...parts);
  }

  fail(text) {
    show(one("#answer .problem"), text);
  }

  end() {
    this.box.classList.remove("waiting");
  }
}

/* Documents */

const upload = one("#upload");
if (upload) {
  const files = one("#files");
  files.addEventListener("change", () => send([...files.files]).then(() => (files.value = "")));
  for (const name of ["dragover", "dragleave", "drop"]) {
    upload.addEventListener(name, (event) => {
      event.preventDefault();
      upload.classList.toggle("over", name === "dragover");
      if (name === "drop") send([...event.dataTransfer.files]);
    });
  }
  upload.addEventListener("submit", (event) => event.preventDefault());
}

async function send(list) {
  const shown = one(".sending", upload);
  shown.replaceChildren();
  for (const file of list) {
    const line = make("li", "", `${file.name}: sending …`);
    shown.append(line);
    const form = new FormData();
    form.append("corpus", upload.corpus.value || "default");
    form.append("file", file);
    try {
      const response = await fetch("/v1/documents", { method: "POST", body: form });
      if (response.status === 401) return location.reload();
      if (response.ok) {
        const unchanged = (await response.json()).outcome === "unchanged";
        line.textContent = `${file.name}: ${unchanged ? "is here already" : "accepted"}`;
      } else {
        line.className = "problem";
        line.textContent = `${file.name}: ${await problem(response)}`;
      }
    } catch {
      line.className = "problem";
      line.textContent = `${file.name}: ${lost}`;
    }
    await refresh();
  }
}

one("#list")?.addEventListener("click", async (event) => {
  if (!event.target.matches(".remove")) return;
  const item = event.target.closest("li");
  if (!confirm(`Delete ${one(".name", item).textContent}?`)) return;
  event.target.disabled = true;
  let refused = "";
  try {
    const response = await fetch(`/v1/documents/${item.dataset.id}`, { method: "DELETE" });
    if (response.status === 401) return location.reload();
    // Somebody else may have deleted it: then it goes from the list.
    if (!response.ok && response.status !== 404) refused = await problem(response);
  } catch {
    refused = lost;
  }
  show(one("#refused"), refused && `${one(".name", item).textContent}: ${refused}`);
  event.target.disabled = false;
  await refresh();
});

/** Takes the list anew from the server, which renders it. */
async function refresh() {
  try {
    const response = await fetch("/");
    const page = new DOMParser().parseFromString(await response.text(), "text/html");
    const fresh = one("#list", page);
    if (!fresh) return location.reload();
    const rows = one(".rows");
    const top = rows ? rows.scrollTop : 0;
    one("#list").replaceChildren(...fresh.childNodes);
    if (one(".rows")) one(".rows").scrollTop = top;
  } catch {
    // The next round tries again.
  }
}

if (one("#list")) {
  const busy = "li[data-state=received], li[data-state=chunked], li[data-state=embedded]";
  setInterval(() => {
    if (!document.hidden && one(busy, one("#list"))) refresh();
  }, 1500);
}
