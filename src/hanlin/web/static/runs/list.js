// The list of runs: the button compares once two runs are chosen.

const form = document.getElementById("compare-form");
if (form) {
  const button = document.getElementById("compare-button");
  const check = () => {
    button.disabled = form.querySelectorAll("input[name=run]:checked").length < 2;
  };
  form.addEventListener("change", check);
  check();
}
