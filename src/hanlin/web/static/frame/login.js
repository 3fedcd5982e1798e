// The form that asks for the key of the server: opens a session, and keeps the key for requests of this tab.
import { keepKey, request, url } from "./page.js";

const form = document.getElementById("login");
form.addEventListener("submit", async (event) => {
  event.preventDefault();
  keepKey(form.elements.key.value.trim());
  try {
    await request("POST", "/ui/login");
    location.assign(url("/ui/"));
  } catch (error) {
    keepKey("");
    form.querySelector(".problem").textContent = error.message;
    form.elements.key.select();
  }
});
