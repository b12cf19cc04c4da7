// Beside htmx: questions before what cannot be undone, and a line while the console or Redis does not answer.
"use strict";

document.addEventListener("submit", (event) => {
  const question = event.target.dataset.confirm;
  if (question && !window.confirm(question)) event.preventDefault();
});

const notice = document.createElement("p");
notice.className = "offline";
notice.setAttribute("role", "alert");

function say(text) {
  if (!text) return notice.remove();
  notice.textContent = text;
  if (!notice.isConnected) document.body.prepend(notice);
}

// What is on the page stays while nothing newer can be had.
document.addEventListener("htmx:beforeSwap", (event) => {
  const status = event.detail.xhr.status;
  if (status < 400) return say("");
  event.detail.shouldSwap = false;
  say(status === 503 ? "Redis does not answer. What you see is old." : `The page cannot be renewed (${status}). Load it again.`);
});
document.addEventListener("htmx:sendError", () => say("The console does not answer. What you see is old."));
