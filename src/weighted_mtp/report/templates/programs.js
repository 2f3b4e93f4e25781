"use strict";
// Every text is set as textContent: what a program says is shown, never read as HTML.
const PER_PAGE = 20;
const programs = JSON.parse(document.getElementById("data").textContent);
const statements = JSON.parse(document.getElementById("statements").textContent);
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
  if (statements[program.task]) {
    const asked = element("details");
    asked.append(element("summary", "problem"), element("pre", statements[program.task], "asked"));
    article.append(asked);
  }
  if (program.detail) article.append(element("p", program.detail, "detail"));
  const code = element("pre", program.program || "");
  Object.assign(code, { tabIndex: 0, role: "group", ariaLabel: "program" }); // so that the keyboard scrolls it, too
  article.append(code);
  const facts = element("dl");
  const test = program.number ? `input of test ${program.number}` : "input";
  const labels = { input: test, expected: "expected", actual: "actual", output: "last output" };
  for (const [key, label] of Object.entries(labels)) {
    if (program[key] === undefined) continue;
    const [fact, value] = [element("div"), element("dd")];
    value.append(element("pre", program[key]));
    fact.append(element("dt", label), value);
    facts.append(fact);
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
  find("where").textContent =
    found.length ? `programs ${first + 1}–${first + shown.length} of ${found.length}` : "no program";
  find("page").value = page + 1;
  find("page").max = pages;
  find("pages").textContent = `of ${pages}`;
  find("previous").disabled = page === 0;
  find("next").disabled = page === pages - 1;
}

// What is looked for stands in the address, so that a link can say it: page.html#search=sorted&status=failed&page=2
function restore() {
  const wanted = new URLSearchParams(location.hash.slice(1));
  for (const id of ["search", "status"]) find(id).value = wanted.get(id) || "";
  page = Number(wanted.get("page") || 1) - 1;
  show();
}

function turn(to) {
  page = to;
  show();
  const wanted = { search: find("search").value, status: find("status").value, page: page + 1 };
  history.replaceState(null, "", `#${new URLSearchParams(wanted)}`);
}

function leaf(to) {
  turn(to);
  find("controls").scrollIntoView();
}

find("controls").addEventListener("submit", (event) => event.preventDefault());
for (const id of ["search", "status"]) find(id).addEventListener("input", () => turn(0));
find("previous").addEventListener("click", () => leaf(page - 1));
find("next").addEventListener("click", () => leaf(page + 1));
find("page").addEventListener("change", (event) => leaf(Number(event.target.value) - 1));
addEventListener("hashchange", restore);
restore();
