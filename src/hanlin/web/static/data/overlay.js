// The corrections of a dataset: each can be taken back.

import { notify, request } from "../frame/page.js";

const { name } = JSON.parse(document.getElementById("overlay-data").textContent);

document.querySelector(".rows").addEventListener("click", async (event) => {
  const button = event.target.closest("[data-undo]");
  if (!button) return;
  try {
    await request("POST", `/ui/data/view/${encodeURIComponent(name)}/undo`, { sha256: button.dataset.undo });
    button.closest("li").remove();
  } catch (error) {
    notify(error.message, true);
  }
});
