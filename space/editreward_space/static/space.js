// The views of a result: flicker, beside the source, and the slider. Results are replaced as a whole, so everything
// listens on the document.
(() => {
  const FLICKER_MS = 700;

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

  document.addEventListener("input", (event) => {
    if (!event.target.matches?.(".er-range input")) return;
    const slider = event.target.closest(".er-result").querySelector(".er-slider");
    slider.style.setProperty("--er-split", `${event.target.value}%`);
  });
})();
