// Keys, the large view and the flicker comparison of the annotation app. All state that matters is in the form.
(() => {
  "use strict";
  const FLICKER_MILLISECONDS = 500; // two changes a second: well below what may harm photosensitive people
  let place = 0; // the candidate that keys act on
  let row = 0; // the dimension (or the ranking) that keys act on
  let reference = 0; // the source image that candidates are compared with
  let key = null;
  let timer = null;

  const cards = () => [...document.querySelectorAll(".candidate-card")].filter((card) => card.offsetParent !== null);
  const rows = (card) => [...card.querySelectorAll(".rating")];
  const choices = (rating) => [...rating.querySelectorAll("input[type=radio]")];
  const press = (id) => {
    const button = document.getElementById(id);
    if (button && button.offsetParent !== null && !button.disabled) button.click();
  };

  function mark(scroll) {
    const all = cards();
    place = Math.max(0, Math.min(place, all.length - 1));
    all.forEach((card, number) => {
      const ratings = rows(card);
      row = Math.max(0, Math.min(row, ratings.length - 1));
      card.classList.toggle("current", number === place);
      ratings.forEach((rating, index) => rating.classList.toggle("current", number === place && index === row));
    });
    if (scroll && all[place]) all[place].scrollIntoView({ block: "nearest" });
  }

  function move(candidates, dimensions) {
    place += candidates;
    row += dimensions;
    mark(true);
    if (viewer.open) show();
  }

  // A score, or a rank, by its number; and on to the next.
  function score(number) {
    const card = cards()[place];
    const rating = card && rows(card)[row];
    const choice = rating && choices(rating)[number - 1];
    if (!choice || choice.disabled) return;
    choice.click();
    if (row + 1 < rows(card).length) move(0, 1);
    else if (place + 1 < cards().length) {
      row = 0;
      move(1, 0);
    }
    if (viewer.open) setTimeout(show, 50); // the caption shows the mark, once Gradio has made it
  }

  // The large view: source and candidate lie on top of each other.
  const viewer = document.createElement("dialog");
  viewer.id = "viewer";
  viewer.setAttribute("aria-label", "Large view");
  viewer.innerHTML =
    '<div class="stage"><img class="before" alt=""><img class="after" alt=""></div>' +
    '<div class="caption"><button type="button" class="close">Close (V)</button>' +
    '<button type="button" class="flicker">Flicker (F)</button><span></span></div>';

  const sources = () => [...document.querySelectorAll("img.source")];

  function caption() {
    const card = cards()[place];
    const marks = rows(card).map((rating) => {
      const chosen = choices(rating).find((choice) => choice.checked);
      const label = rating.querySelector("[data-testid=block-info]") || rating.querySelector("span");
      return `${label ? label.textContent.trim() : ""}: ${chosen ? chosen.parentElement.textContent.trim() : "–"}`;
    });
    const compared = sources().length > 1 ? ` · compared with source ${reference + 1}` : "";
    return `${card.querySelector("h2").textContent} · ${marks.join(" · ")}${compared}`;
  }

  function show() {
    const card = cards()[place];
    const source = sources()[reference];
    if (!card || !source) return;
    viewer.querySelector(".before").src = source.src;
    viewer.querySelector(".after").src = card.querySelector("img.candidate").src;
    viewer.querySelector(".caption span").textContent = caption();
    if (!viewer.open) viewer.showModal();
  }

  function showSource(yes) {
    viewer.querySelector(".before").classList.toggle("hidden", !yes);
    viewer.querySelector(".after").classList.toggle("hidden", yes);
    viewer.dataset.showing = yes ? "source" : "candidate";
  }

  function flicker(on) {
    clearInterval(timer);
    timer = null;
    showSource(false);
    if (on) timer = setInterval(() => showSource(viewer.dataset.showing === "candidate"), FLICKER_MILLISECONDS);
    viewer.dataset.flicker = on ? "on" : "off";
  }

  function close() {
    flicker(false);
    if (viewer.open) viewer.close();
  }

  viewer.addEventListener("close", () => flicker(false));
  viewer.addEventListener("click", (event) => {
    if (event.target.closest(".flicker")) flicker(timer === null);
    else close();
  });

  document.addEventListener("click", (event) => {
    const button = event.target.closest(".view");
    const card = event.target.closest(".candidate-card");
    if (card) {
      place = cards().indexOf(card);
      const rating = event.target.closest(".rating");
      if (rating) row = rows(card).indexOf(rating);
      mark(false);
    }
    if (!button) return;
    if (button.dataset.view === "source") reference = Number(button.dataset.number);
    show();
    flicker(false);
    showSource(button.dataset.view === "source");
  });

  document.addEventListener("focusin", (event) => {
    const rating = event.target.closest && event.target.closest(".candidate-card .rating");
    if (!rating) return;
    const card = rating.closest(".candidate-card");
    place = cards().indexOf(card);
    row = rows(card).indexOf(rating);
    mark(false);
  });

  const keys = {
    ArrowLeft: () => move(-1, 0),
    ArrowRight: () => move(1, 0),
    ArrowUp: () => move(0, -1),
    ArrowDown: () => move(0, 1),
    v: () => (viewer.open ? close() : (show(), flicker(false))),
    f: () => (show(), flicker(timer === null)),
    r: () => {
      if (!viewer.open || sources().length < 2) return;
      reference = (reference + 1) % sources().length;
      show();
    },
    b: () => (close(), press("back")),
    n: () => (close(), press("forward")),
    s: () => {
      close();
      const reason = document.querySelector("#skip-area input");
      if (reason && reason.offsetParent !== null) reason.focus();
    },
  };

  document.addEventListener(
    "keydown",
    (event) => {
      const target = event.target instanceof Element ? event.target : document.body;
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
        event.preventDefault();
        event.stopPropagation();
        close();
        press("save");
        return;
      }
      const typing = target.closest("textarea, [contenteditable], select, #skip-area") ||
        (target.matches("input") && target.type !== "radio");
      if (event.ctrlKey || event.metaKey || event.altKey || typing) return;
      if (event.key === " " && viewer.open) {
        event.preventDefault();
        flicker(false);
        showSource(true);
        return;
      }
      const digit = /^[1-9]$/.test(event.key);
      const action = digit ? () => score(Number(event.key)) : keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
      if (!action) return;
      event.preventDefault();
      event.stopPropagation();
      action();
    },
    true,
  );
  document.addEventListener("keyup", (event) => {
    if (event.key === " " && viewer.open) {
      event.preventDefault();
      showSource(false);
    }
  });

  // Another page: start at its first candidate, and put the focus on the only button there may be.
  function refresh() {
    const current = document.getElementById("page-key");
    if (!current || current.dataset.key === key) return;
    key = current.dataset.key;
    place = row = reference = 0;
    close();
    setTimeout(() => {
      mark(false);
      window.scrollTo(0, 0);
      const start = document.getElementById("start");
      if (start && start.offsetParent !== null) start.focus();
    }, 100);
  }
  function begin() {
    document.body.append(viewer);
    new MutationObserver(refresh).observe(document.body, { childList: true, subtree: true, attributes: true, attributeFilter: ["data-key"] });
    refresh();
  }
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", begin);
  else begin();
})();
