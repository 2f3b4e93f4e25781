"use strict";
// Reads out what a token's title says: pointed at, tapped, or reached with the arrow keys inside a program.
const values = document.getElementById("values");
let current = null;

function read(token) {
  if (current) current.classList.remove("at");
  current = token;
  token.classList.add("at");
  values.textContent = `${token.textContent.trim() || "space"} — ${token.title}`;
}

for (const code of document.querySelectorAll(".tokens")) {
  const tokens = [...code.querySelectorAll(".t")];
  code.addEventListener("click", (event) => {
    const token = event.target.closest(".t");
    if (token) read(token);
  });
  code.addEventListener("keydown", (event) => {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!by || !tokens.length) return;
    event.preventDefault();
    const next = tokens.indexOf(current) + by;
    read(tokens[Math.min(Math.max(next, 0), tokens.length - 1)]);
    current.scrollIntoView({ block: "nearest", inline: "nearest" });
  });
}
