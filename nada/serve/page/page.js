/* When the page opens: Escape stops a run, and the link's texts and seed fill the form. */
(source, target, seed) => {
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") document.querySelector("#stop")?.click();
  });
  const asked = new URL(location).searchParams;
  const number = Number(asked.get("seed") ?? NaN);
  return [
    (asked.get("source") ?? source).slice(0, 1000),
    (asked.get("target") ?? target).slice(0, 1000),
    Number.isInteger(number) && number >= 0 ? number : seed,
  ];
}
