/* Kept domains as cards. The value is JSON, a list of {id, title, open, holds, facts, thumbnails}; all texts
   of it are shown as text. A button asks the server by the event "act" with {id, act}. */
const texts = props.texts[(navigator.language || "en").slice(0, 2)] || props.texts.en;

function make(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

/* What the file holds: "19 KB, styles of 6 layers". */
function held({ size, kind, layers }) {
  const words = (layers === 1 && texts[`${kind}_1`]) || texts[kind] || kind;
  return `${size}, ${words.replace("{n}", layers)}`;
}

function card(domain) {
  const node = make("article", domain.open ? "card open" : "card");
  const thumbnails = make("div", "thumbnails");
  for (const url of domain.thumbnails) {
    const image = make("img");
    image.src = url;
    image.alt = "";
    thumbnails.append(image);
  }
  const facts = make("dl");
  for (const [name, value] of Object.entries(domain.facts)) {
    if (name === "prompts") continue;
    facts.append(make("dt", "", texts[name] || name), make("dd", name, value));
  }
  facts.append(make("dt", "", texts.holds), make("dd", "holds", held(domain.holds)));
  const acts = make("div", "acts");
  for (const act of ["open", "on", "forget"]) {
    const button = make("button", act, texts[act]);
    button.type = "button";
    button.setAttribute("aria-label", `${texts[act]}: ${domain.title}`);
    button.addEventListener("click", () => trigger("act", { id: domain.id, act }));
    acts.append(button);
  }
  node.append(thumbnails, make("h3", "", domain.facts.prompts || domain.title), facts, acts);
  return node;
}

function draw() {
  let domains;
  try { domains = JSON.parse(props.value || "[]"); } catch { domains = []; }
  const list = element.querySelector(".cards");
  list.replaceChildren(...domains.map(card));
  if (!domains.length) list.append(make("p", "facts", texts.none));
}

watch("value", draw);
draw();
