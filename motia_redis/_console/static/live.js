// Follow changes. Each event carries the cursor from which the page goes on: after a pause, and after a lost connection.
"use strict";

const MOST_ROWS = 500;
const FIRST_PAUSE = 1000, LONGEST_PAUSE = 10000; // milliseconds between two attempts
const TEXTS = {
  live: "Following.",
  behind: "Behind: reading on from the history.",
  away: "Redis does not answer. Changes follow when it is back.",
  lost: "The console does not answer. Trying again. If your session has ended, load the page again.",
  paused: "Paused. Resume goes on from here.",
};

const log = document.getElementById("changes");
const standing = document.getElementById("standing");
const told = document.getElementById("told");
const pause = document.getElementById("pause");
const counter = document.getElementById("count");
const kept = document.getElementById("kept");
let source = null, timer = 0, cursor = "", count = 0, wait = FIRST_PAUSE;

function say(word, text) {
  if (standing.dataset.word === word) return;
  standing.dataset.word = word;
  told.textContent = text || TEXTS[word];
}

function add(html) {
  const made = document.createElement("template");
  made.innerHTML = html;
  log.prepend(...[...made.content.children].reverse());
  while (log.children.length > MOST_ROWS) log.lastElementChild.remove();
}

const on = {
  standing: (event) => say(event.data),
  position: () => {},
  change: (event) => {
    const before = log.querySelectorAll(".change").length;
    add(event.data);
    count += event.data.split('<article class="change"').length - 1;
    counter.textContent = count.toLocaleString("en");
    kept.textContent = count > MOST_ROWS && before ? `, the last ${MOST_ROWS} below` : "";
  },
  gap: (event) => add(event.data),
  failure: (event) => {
    stop();
    say("failure", event.data);
    pause.textContent = "Resume";
  },
};

function follow() {
  const url = new URL(log.dataset.events, location.href);
  if (cursor) url.searchParams.set("start", cursor);
  source = new EventSource(url);
  for (const [name, handle] of Object.entries(on)) {
    source.addEventListener(name, (event) => {
      cursor = event.lastEventId || cursor;
      wait = FIRST_PAUSE;
      handle(event);
    });
  }
  source.addEventListener("error", () => {
    say("lost");
    if (source.readyState !== EventSource.CLOSED) return; // the browser tries again by itself
    timer = setTimeout(follow, wait);
    wait = Math.min(wait * 2, LONGEST_PAUSE);
  });
}

function stop() {
  clearTimeout(timer);
  source?.close();
  source = null;
}

pause.addEventListener("click", () => {
  if (source) {
    stop();
    say("paused");
    pause.textContent = "Resume";
  } else {
    say("connecting", "Connecting…");
    pause.textContent = "Pause";
    follow();
  }
});
follow();
