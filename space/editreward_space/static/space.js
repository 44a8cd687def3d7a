// The views of a result: flicker, beside the source, and the slider. Results are replaced as a whole, so everything
// listens on the document.
(() => {
  const FLICKER_MS = 700;

  // Scrolls to a result, unless its beginning is in view: on wide screens it stands beside the inputs.
  window.erShow = (id) => {
    const result = document.getElementById(id);
    const top = result.getBoundingClientRect().top;
    if (top < 0 || top > window.innerHeight / 2) result.scrollIntoView({ block: "start" });
  };

  const release = (button) => {
    button.setAttribute("aria-pressed", "false");
    const card = button.closest(".er-card");
    clearInterval(card.timer);
    card.querySelector(".er-source").hidden = true;
    card.querySelector(".er-edit").hidden = false;
    card.querySelector(".er-view").classList.remove("er-side");
  };

  const press = (button) => {
    const card = button.closest(".er-card");
    const view = card.querySelector(".er-view");
    const [edit, source] = [card.querySelector(".er-edit"), card.querySelector(".er-source")];
    source.src = card.closest(".er-result").querySelector(".er-sources img").src;
    button.setAttribute("aria-pressed", "true");
    if (button.dataset.er === "side") {
      source.hidden = false;
      view.classList.add("er-side");
      return;
    }
    card.timer = setInterval(() => {
      if (!document.contains(card)) return clearInterval(card.timer);
      source.hidden = !source.hidden;
      edit.hidden = !edit.hidden;
    }, FLICKER_MS);
  };

  document.addEventListener("click", (event) => {
    const button = event.target.closest?.("button[data-er]");
    if (!button) return;
    const pressed = button.getAttribute("aria-pressed") === "true";
    button.parentElement.querySelectorAll("[aria-pressed=true]").forEach(release);
    if (!pressed) press(button);
  });

  // The picture itself can be dragged, too; the range below it is what keys and screen readers use.
  const drag = (event) => {
    const slider = event.target.closest?.(".er-slider");
    if (!slider || !(event.buttons & 1)) return;
    event.preventDefault();
    const box = slider.getBoundingClientRect();
    const range = slider.closest(".er-result").querySelector(".er-range input");
    range.value = (100 * (event.clientX - box.left)) / box.width;
    range.dispatchEvent(new Event("input", { bubbles: true }));
  };
  document.addEventListener("pointerdown", drag);
  document.addEventListener("pointermove", drag);
  document.addEventListener("dragstart", (event) => event.target.closest?.(".er-slider") && event.preventDefault());

  // The best edits of a batch: how many, and whether only those that lead their groups.
  document.addEventListener("input", (event) => {
    const best = event.target.closest?.(".er-best");
    if (!best) return;
    const wanted = Number(best.querySelector("input[type=number]").value) || 1;
    const leading = best.querySelector("input[type=checkbox]").checked;
    let shown = 0;
    for (const tile of best.querySelectorAll(".er-tile")) {
      tile.hidden = (leading && tile.dataset.leads !== "1") || shown >= wanted;
      if (!tile.hidden) shown += 1;
    }
  });

  document.addEventListener("input", (event) => {
    if (!event.target.matches?.(".er-range input")) return;
    const slider = event.target.closest(".er-result").querySelector(".er-slider");
    slider.style.setProperty("--er-split", `${event.target.value}%`);
  });
})();
