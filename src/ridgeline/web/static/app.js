"use strict";
// The page works without this file: it answers while a form changes, and keeps the link in step.
(() => {
  const form = document.getElementById("form");
  const answer = document.getElementById("answer");
  const said = document.getElementById("said");
  const peek = document.getElementById("peek");
  const PAUSE_MS = 250;
  let timer = 0;
  let asking = null;

  document.documentElement.classList.add("js");

  const draw = async () => {
    for (const carried of answer.querySelectorAll("script.figures")) {
      await window.ridgeline.drawAll(JSON.parse(carried.textContent), carried.parentElement);
    }
    document.documentElement.dataset.drawn = "yes";
  };

  // Empty boxes say nothing, and a link is shorter without them.
  const query = () => {
    const pairs = [...new FormData(form)].filter(([, text]) => text.trim() !== "");
    return new URLSearchParams(pairs).toString();
  };

  const markFlaws = () => {
    for (const box of form.querySelectorAll("[aria-invalid]")) box.removeAttribute("aria-invalid");
    for (const flaw of form.querySelectorAll(".flaw")) flaw.textContent = "";
    for (const line of answer.querySelectorAll("[data-field]")) {
      const box = document.getElementById(line.dataset.field);
      const flaw = document.getElementById(line.dataset.field + "-flaw");
      box?.setAttribute("aria-invalid", "true");
      const notes = [box?.id + "-hint", box?.id + "-flaw"].filter((id) => document.getElementById(id));
      box?.setAttribute("aria-describedby", notes.join(" "));
      if (flaw) flaw.textContent = line.textContent;
    }
  };

  const verdicts = () =>
    [...answer.querySelectorAll(".one")].map((one) => one.dataset.said).filter(Boolean);

  const say = () => {
    said.textContent = verdicts().join(" ");
    peek.firstElementChild.textContent = "↓ " + verdicts().join(" · ");
  };

  // On a phone the answer is below the form: its first line stays in sight until it is there.
  new IntersectionObserver(([seen]) => {
    peek.hidden = seen.isIntersecting || seen.boundingClientRect.top < 0;
  }).observe(answer);

  const showTools = () => {
    for (const button of answer.querySelectorAll(".copy")) button.hidden = false;
    for (const link of answer.querySelectorAll(".share")) link.hidden = true;
  };

  const trouble = (text) => {
    const box = document.createElement("div");
    box.className = "problems";
    box.setAttribute("role", "alert");
    box.textContent = text;
    answer.replaceChildren(box);
  };

  const ask = async () => {
    asking?.abort();
    const mine = (asking = new AbortController());
    const wanted = query();
    const opened = new Set([...answer.querySelectorAll("details[open]")].map(place));
    answer.setAttribute("aria-busy", "true");
    delete document.documentElement.dataset.drawn;
    try {
      const response = await fetch(`${form.getAttribute("action")}/answer?${wanted}`, { signal: mine.signal });
      const html = await response.text();
      if (mine !== asking) return;
      if (response.headers.get("Content-Type")?.startsWith("text/html")) {
        answer.innerHTML = html;
      } else {
        trouble(html);
      }
    } catch (error) {
      if (error.name === "AbortError") return;
      trouble("error: the server does not answer; is ridgeline web still running?");
    }
    answer.removeAttribute("aria-busy");
    for (const fold of answer.querySelectorAll("details")) if (opened.has(place(fold))) fold.open = true;
    const result = answer.querySelector(".result");
    const link = result?.dataset.link || `${form.getAttribute("action")}?${wanted}`;
    if (link !== location.pathname + location.search) history.pushState(null, "", link);
    markFlaws();
    showTools();
    say();
    await draw();
  };

  const place = (fold) => fold.closest("[id]").id + fold.querySelector("summary").textContent;

  const soon = (pause) => {
    clearTimeout(timer);
    timer = setTimeout(ask, pause);
  };

  const copyLink = async (button) => {
    const link = new URL(button.dataset.copyLink, location.href).href;
    const before = button.textContent;
    try {
      await navigator.clipboard.writeText(link);
      button.textContent = "Copied";
      said.textContent = "The link is copied.";
    } catch {
      button.textContent = "Copy it from the address bar";
    }
    setTimeout(() => { button.textContent = before; }, 1500);
  };

  form.addEventListener("input", (event) => soon(event.target.type === "text" ? PAUSE_MS : 0));
  form.addEventListener("submit", (event) => {
    if (event.submitter?.hasAttribute("data-best")) return;
    event.preventDefault();
    soon(0);
  });
  document.addEventListener("click", (event) => {
    const button = event.target.closest?.("[data-copy-link]");
    if (button) copyLink(button);
  });
  // The form of another link is another page.
  addEventListener("popstate", () => location.reload());

  // One of the three kinds of traffic takes the place of the others.
  const rivals = ["serving.request_rate", "serving.concurrency", "serving.batch"];
  form.addEventListener("input", (event) => {
    const prefix = event.target.name.startsWith("b.") ? "b." : "";
    if (!rivals.includes(event.target.name.slice(prefix.length)) || !event.target.value.trim()) return;
    for (const rival of rivals) {
      const box = form.elements[prefix + rival];
      if (box !== event.target) box.value = "";
    }
  });

  showTools();
  peek.firstElementChild.textContent = "↓ " + verdicts().join(" · ");
  draw();
})();
