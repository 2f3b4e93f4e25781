"use strict";
// Every text is set as textContent: what a program says is shown, never read as HTML.
const PER_PAGE = 20;
const programs = JSON.parse(document.getElementById("data").textContent);
const searched = programs.map((p) => Object.values(p).join("\n").toLowerCase());
const find = (id) => document.getElementById(id);
let page = 0;

function element(name, text, kind) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (kind) made.className = kind;
  return made;
}

function card(program) {
  const passed = program.status === "passed";
  const article = element("article");
  const title = element("h3", `${program.task}, sample ${program.sample} `);
  title.prepend(element("b", `${passed ? "✓" : "✗"} ${program.status}`, passed ? "passed" : "failed"), " ");
  article.append(title);
  if (program.detail) article.append(element("p", program.detail, "detail"));
  article.append(element("pre", program.program || ""));
  const facts = element("dl");
  const test = program.number ? `test ${program.number}: ` : "";
  for (const [key, label] of [["input", `${test}input`], ["expected", "expected"], ["output", "output"]]) {
    if (program[key] === undefined) continue;
    const value = element("dd");
    value.append(element("pre", program[key]));
    facts.append(element("dt", label), value);
  }
  article.append(facts);
  return article;
}

function matches() {
  const wanted = find("search").value.toLowerCase();
  const status = find("status").value;
  return programs.filter((p, n) => searched[n].includes(wanted) &&
    (!status || (status === "!passed" ? p.status !== "passed" : p.status === status)));
}

function show() {
  const found = matches();
  const pages = Math.max(1, Math.ceil(found.length / PER_PAGE));
  page = Math.min(Math.max(page, 0), pages - 1);
  const first = page * PER_PAGE;
  const shown = found.slice(first, first + PER_PAGE);
  find("programs").replaceChildren(...shown.map(card));
  find("where").textContent = found.length ? `${first + 1}–${first + shown.length} of ${found.length}` : "none";
  find("previous").disabled = page === 0;
  find("next").disabled = page === pages - 1;
}

function turn(by) {
  page += by;
  show();
  find("controls").scrollIntoView();
}

find("controls").addEventListener("submit", (event) => event.preventDefault());
for (const id of ["search", "status"]) find(id).addEventListener("input", () => { page = 0; show(); });
find("previous").addEventListener("click", () => turn(-1));
find("next").addEventListener("click", () => turn(1));
show();
