// The first view: buttons that start something and go to where it is shown.
import { notify, request, url } from "../frame/page.js";

for (const button of document.querySelectorAll("[data-post]")) {
  button.addEventListener("click", async () => {
    button.disabled = true;
    try {
      const { path } = button.dataset;
      const { go } = await request("POST", button.dataset.post, path === undefined ? undefined : { path });
      location.assign(url(go));
    } catch (error) {
      notify(error.message, true);
      button.disabled = false;
    }
  });
}
