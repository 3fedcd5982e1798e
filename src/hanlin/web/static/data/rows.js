// The rows of a dataset: a row is dropped with one press, and taken back with another on its own page.

import { notify, request, t } from "../frame/page.js";

const { name, part } = JSON.parse(document.getElementById("data-name").textContent);

document.querySelector(".rows").addEventListener("click", async (event) => {
  const button = event.target.closest("[data-drop]");
  if (!button) return;
  const item = button.closest("li");
  button.disabled = true;
  try {
    const body = { part, number: Number(item.dataset.number), id: item.dataset.id, action: "drop" };
    const { overlay } = await request("POST", `/ui/data/view/${encodeURIComponent(name)}/correct`, body);
    item.classList.add("corrected", "drop");
    notify(t("Written into {path}; the source is not changed.", { path: overlay }));
  } catch (error) {
    button.disabled = false;
    notify(error.message, true);
  }
});
