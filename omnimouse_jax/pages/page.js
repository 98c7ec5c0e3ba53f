"use strict";
const tip = document.getElementById("tip");
const voice = document.getElementById("voice");
let ring = null;

function hide() {
  tip.classList.remove("on");
  if (ring) { ring.remove(); ring = null; }
}

function show(svg, mark, speak) {
  hide();
  ring = document.createElementNS("http://www.w3.org/2000/svg", "circle");
  ring.setAttribute("class", "ring");
  const drawn = mark.getBBox();
  ring.setAttribute("cx", mark.dataset.x ?? drawn.x + drawn.width / 2);
  ring.setAttribute("cy", mark.dataset.y ?? drawn.y + drawn.height / 2);
  ring.setAttribute("r", 8);
  svg.appendChild(ring);
  tip.textContent = mark.dataset.tip;
  const box = mark.getBoundingClientRect();
  const width = Math.min(300, tip.offsetWidth);
  const x = Math.max(8, Math.min(innerWidth - width - 8, box.left + box.width / 2 - width / 2));
  const above = box.top - tip.offsetHeight - 12;
  tip.style.left = x + "px";
  tip.style.top = (above > 4 ? above : box.bottom + 12) + "px";
  tip.classList.add("on");
  if (speak) voice.textContent = mark.dataset.tip;
}

function visible(svg) {
  return [...svg.querySelectorAll(".mark")].filter((m) => !m.closest(".off"));
}

for (const svg of document.querySelectorAll("svg.chart")) {
  const near = (event) => {
    const scale = svg.viewBox.baseVal.width / svg.getBoundingClientRect().width;
    let best = null, least = 22;
    for (const mark of visible(svg)) {
      const box = mark.getBoundingClientRect();
      const away = Math.hypot(box.left + box.width / 2 - event.clientX, box.top + box.height / 2 - event.clientY);
      if (away < least) { least = away; best = mark; }
    }
    if (best && scale > 0) show(svg, best, false); else hide();
  };
  svg.addEventListener("pointermove", near);
  svg.addEventListener("pointerdown", near);
  svg.addEventListener("pointerleave", (event) => { if (event.pointerType !== "touch") hide(); });  // a lifted finger may read on
  svg.addEventListener("blur", hide);
  let at = -1;
  svg.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (event.key === "Escape") { hide(); at = -1; return; }
    if (!step) return;
    event.preventDefault();
    const marks = visible(svg);
    if (!marks.length) return;
    at = at < 0 ? (step > 0 ? 0 : marks.length - 1) : (at + step + marks.length) % marks.length;
    show(svg, marks[at], true);
  });
}

for (const button of document.querySelectorAll(".legend button")) {
  button.addEventListener("click", () => {
    const on = button.getAttribute("aria-pressed") === "true";
    button.setAttribute("aria-pressed", String(!on));
    for (const group of button.closest("figure").querySelectorAll('g[data-series="' + button.dataset.series + '"]')) {
      group.classList.toggle("off", on);
    }
    hide();
  });
}
addEventListener("scroll", hide, { passive: true });
addEventListener("beforeprint", () => { for (const d of document.querySelectorAll("details:not(.long)")) d.open = true; });
