"use strict";
// The clocks of sleeping animals, and the live page's lines as the node changes.

const clocks = () => {
  const now = Date.now() / 1000;
  for (const cell of document.querySelectorAll(".clock[data-since]")) {
    const asleep = Math.max(0, Math.floor(now - Number(cell.dataset.since)));
    const two = (number) => String(number).padStart(2, "0"), minutes = Math.floor(asleep / 60), hours = Math.floor(minutes / 60);
    cell.textContent = hours ? `${hours}:${two(minutes % 60)}:${two(asleep % 60)}` : `${minutes}:${two(asleep % 60)}`;
    const limit = Number(cell.dataset.limit || Infinity);
    cell.classList.toggle("near", asleep >= 0.75 * limit && asleep < limit);
    cell.classList.toggle("over", asleep >= limit);
  }
  for (const each of document.querySelectorAll(".ends[data-ends]")) {
    const left = Math.round(Number(each.dataset.ends) - now), minutes = Math.floor(left / 60);
    const still = minutes >= 2 ? `${minutes} min` : `${left} s`;
    // By this browser's own clock, which hangs on the same wall.
    const at = new Date(1000 * each.dataset.ends).toTimeString().slice(0, 8);
    each.textContent = left > 0 ? `still about ${still}, contours at ${at}` : "contours at any moment";
  }
};

const ends = (lines) =>
  [...lines.querySelectorAll("tr.held, .done tbody tr")].map((row) => row.querySelector("th").textContent + row.className);

const ring = () => {
  const audio = new AudioContext();
  const tone = audio.createOscillator();
  tone.connect(audio.destination);
  tone.start();
  tone.stop(audio.currentTime + 0.4);
};

const follow = (lines) => {
  const lost = document.getElementById("lost");
  const source = new EventSource(lines.dataset.events);
  source.onmessage = (event) => {
    const before = new Set(ends(lines));
    // The board's own page, in which every text is escaped.
    lines.innerHTML = event.data;
    lost.hidden = true;
    clocks();
    const news = ends(lines).filter((each) => !before.has(each));
    if (news.length) {
      document.title = `(${news.length}) limn`;
      if (document.getElementById("sound").checked) ring();
    }
  };
  // The session is over: the page that comes is the one to sign in.
  source.addEventListener("ended", () => { source.close(); location.reload(); });
  source.onopen = () => { lost.hidden = true; };
  source.onerror = () => { lost.hidden = false; };
};

document.addEventListener("visibilitychange", () => { if (!document.hidden) document.title = document.title.replace(/^\(\d+\) /, ""); });
const lines = document.getElementById("lines");
clocks();
setInterval(clocks, 1000);
if (lines) follow(lines);
