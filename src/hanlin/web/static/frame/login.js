// The form that asks for the key of the server, and opens a session with it; the key itself is not kept.
import { request, t, url } from "./page.js";

const form = document.getElementById("login");
form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const problem = form.querySelector(".problem");
  problem.textContent = "";
  const key = form.elements.key.value.trim();
  try {
    if (!/^[\x21-\x7e]+$/.test(key)) throw new Error(t("wrong or missing API key")); // what no header can carry
    await request("POST", "/ui/login", undefined, { Authorization: `Bearer ${key}` });
    location.assign(url("/ui/"));
  } catch (error) {
    problem.textContent = error.message;
    form.elements.key.select();
  }
});
