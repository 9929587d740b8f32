/* Pairs of pictures by seed, and one of them large under a slider from before to after.
   The value is JSON {seeds, before, after}: URLs by seed; null keeps what is shown. */
const texts = props.texts[(navigator.language || "en").slice(0, 2)] || props.texts.en;
const shown = { seeds: [], before: [], after: [], at: 0 };
const find = (selector) => element.querySelector(selector);

function select(index) {
  shown.at = Math.max(0, Math.min(index, shown.seeds.length - 1));
  const before = shown.before[shown.at] || "", after = shown.after[shown.at] || before;
  const seed = shown.seeds[shown.at];
  find(".before").src = before;
  find(".after").src = after;
  find(".before").alt = `${texts.before}, ${texts.seed} ${seed}`;
  find(".after").alt = `${texts.after}, ${texts.seed} ${seed}`;
  find(".tag.left").textContent = texts.before;
  find(".tag.right").textContent = `${texts.after} · ${seed}`;
  find(".compare input").setAttribute("aria-label", texts.slide);
  element.querySelectorAll(".thumbs button").forEach((button, i) => {
    button.setAttribute("aria-pressed", String(i === shown.at));
  });
}

function thumb(seed, i) {
  const button = document.createElement("button");
  button.type = "button";
  button.setAttribute("aria-label", `${texts.seed} ${seed}`);
  for (const side of ["before", "after"]) {
    const picture = document.createElement("img");
    picture.alt = "";
    picture.className = side;
    button.append(picture);
  }
  const label = document.createElement("span");
  label.textContent = seed;
  button.append(label);
  button.addEventListener("click", () => { select(i); });
  return button;
}

function draw() {
  let value;
  try { value = JSON.parse(props.value || "null"); } catch { value = null; }
  if (!value || !value.seeds) return;
  const same = value.seeds.join() === shown.seeds.join() && find(".thumbs button");
  shown.seeds = value.seeds;
  if (value.before) shown.before = value.before;
  if (value.after) shown.after = value.after; else if (!same || value.before) shown.after = [];
  if (!same) find(".thumbs").replaceChildren(...value.seeds.map(thumb));
  element.querySelectorAll(".thumbs button").forEach((button, i) => {
    button.children[0].src = shown.before[i] || "";
    button.children[1].src = shown.after[i] || shown.before[i] || "";
  });
  find(".pairs").removeAttribute("data-empty");
  find(".pairs").toggleAttribute("data-alone", !shown.after.length);
  select(same ? shown.at : 0);
}

element.addEventListener("input", (event) => {
  if (event.target.type === "range") find(".compare").style.setProperty("--x", event.target.value);
});
element.addEventListener("keydown", (event) => {
  if (event.target.closest(".thumbs") && ["ArrowRight", "ArrowLeft"].includes(event.key)) {
    select(shown.at + (event.key === "ArrowRight" ? 1 : -1));
    element.querySelectorAll(".thumbs button")[shown.at].focus();
    event.preventDefault();
  }
});
watch("value", draw);
draw();
