"use strict";
(() => {
  const at = id => document.getElementById(id);
  const data = JSON.parse(at("data").textContent);
  const total = data.trials.length, storageKey = "qdit-ab-" + data.digest;
  let votes = [], voter = "", position = 0, shown = "intro", keeps = true;

  const load = () => {
    try {
      const kept = JSON.parse(localStorage.getItem(storageKey) || "null");
      if (kept && Array.isArray(kept.votes)) { votes = kept.votes.slice(0, total); voter = kept.voter || ""; }
    } catch { keeps = false; }
  };
  const keep = () => {
    try { localStorage.setItem(storageKey, JSON.stringify({ votes, voter })); } catch { keeps = false; }
  };
  const show = id => {
    shown = id;
    for (const name of ["intro", "trial", "end"]) at(name).hidden = name !== id;
  };
  const source = index => "data:image/png;base64," + data.images[index];

  const ask = () => {
    if (position >= total) { finish(); return; }
    const [left, right, label] = data.trials[position];
    at("left").src = source(left);
    at("right").src = source(right);
    at("class").textContent = "Class: " + label;
    at("count").textContent = (position + 1) + " of " + total;
    at("bar").value = position;
    at("back").hidden = position === 0;
    for (const button of document.querySelectorAll("[data-choice]"))
      button.classList.toggle("chosen", button.dataset.choice === votes[position]);
    show("trial");
  };
  const choose = choice => {
    votes[position] = choice;
    keep();
    position += 1;
    if (document.activeElement) document.activeElement.blur();
    ask();
  };
  const back = () => { if (position > 0) { position -= 1; ask(); } };

  const reveal = () => {
    const mask = data.digest.match(/../g).map(pair => parseInt(pair, 16));
    const bytes = Uint8Array.from(atob(data.key), (char, index) => char.charCodeAt(0) ^ mask[index % mask.length]);
    return JSON.parse(new TextDecoder().decode(bytes));
  };
  const finish = () => {
    const done = votes.length;
    at("thanks").textContent = done === total ? "Done. Thank you!" : done + " of " + total + " done";
    at("on").hidden = done === total;
    at("result").replaceChildren();
    at("caught").textContent = done === total ? "" : "The page shows the methods when all pairs are done.";
    if (done === total) tell(reveal());
    show("end");
  };
  const tell = key => {
    const counts = new Map(), caught = { same: [0, 0], control: [0, 0] };
    const count = (name, which) => {
      if (!counts.has(name)) counts.set(name, [0, 0, 0]);
      counts.get(name)[which] += 1;
    };
    key.questions.forEach(([kind, contest, left, right, answer], index) => {
      const vote = votes[index];
      if (kind === "pair") {
        count(left, vote === "left" ? 0 : vote === "tie" ? 1 : 2);
        count(right, vote === "right" ? 0 : vote === "tie" ? 1 : 2);
      } else {
        caught[kind][1] += 1;
        if (vote === answer) caught[kind][0] += 1;
      }
    });
    at("caught").textContent = "Pairs of identical images that you called equal: " + caught.same.join(" of ")
      + ". Pairs with a destroyed image in which you chose full precision: " + caught.control.join(" of ") + ".";
    const row = (cells, tag) => {
      const line = document.createElement("tr");
      cells.forEach((cell, index) => {
        const element = document.createElement(index && tag === "td" ? "td" : "th");
        element.textContent = cell;
        line.append(element);
      });
      return line;
    };
    const head = document.createElement("thead"), body = document.createElement("tbody");
    head.append(row(["Method", "better", "equal", "worse"], "th"));
    head.rows[0].cells[0].className = "first";
    const rows = [...counts].sort((a, b) => b[1][0] - b[1][2] - a[1][0] + a[1][2] || (a[0] < b[0] ? -1 : 1));
    for (const [name, numbers] of rows) body.append(row([key.names[name] || name, ...numbers], "td"));
    at("result").append(head, body);
  };

  const save = () => {
    const file = { format: "qdit-votes-1", page: data.digest, voter,
      votes: votes.map((choice, trial) => ({ trial, choice })) };
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([JSON.stringify(file, null, 1) + "\n"], { type: "application/json" }));
    const name = voter.replace(/[^A-Za-z0-9-]+/g, "-").replace(/^-+|-+$/g, "");
    link.download = "votes-" + data.digest.slice(0, 8) + (name ? "-" + name : "") + ".json";
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  };
  const begin = () => {
    voter = at("voter").value.trim();
    position = votes.length;
    keep();
    ask();
  };

  load();
  at("voter").value = voter;
  for (const image of document.querySelectorAll(".pair")) image.classList.toggle("small", data.small);
  at("start").textContent = votes.length ? "Continue (" + votes.length + " of " + total + " done)" : "Start";
  at("kept").textContent = keeps ? "This browser stores your votes; you can close the page and continue later."
    : "This browser cannot store your votes: finish before you close the page.";
  at("start").addEventListener("click", begin);
  at("back").addEventListener("click", back);
  at("stop").addEventListener("click", finish);
  at("save").addEventListener("click", save);
  at("on").addEventListener("click", () => { position = votes.length; ask(); });
  at("again").addEventListener("click", () => {
    if (confirm("Delete all votes on this page?")) { votes = []; position = 0; keep(); location.reload(); }
  });
  for (const button of document.querySelectorAll("[data-choice]"))
    button.addEventListener("click", () => choose(button.dataset.choice));
  const keys = { ArrowLeft: "left", ArrowRight: "right", " ": "tie" };
  const pressed = event => {
    if (shown !== "trial" || event.altKey || event.ctrlKey || event.metaKey) return;
    if (!(event.key in keys) && event.key !== "Backspace") return;
    event.preventDefault();
    if (event.type !== "keydown" || event.repeat) return;
    if (event.key === "Backspace") back(); else choose(keys[event.key]);
  };
  document.addEventListener("keydown", pressed);
  document.addEventListener("keyup", pressed);
})();
