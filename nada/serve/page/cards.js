/* Kept domains as cards. The value is JSON, a list of {id, title, open, facts, faces}; all texts of
   it are shown as text. A button asks the server by the event "act" with {id, act}. */
const texts = props.texts[(navigator.language || "en").slice(0, 2)] || props.texts.en;

function make(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

function card(told) {
  const node = make("article", told.open ? "card open" : "card");
  const faces = make("div", "faces");
  for (const url of told.faces) {
    const face = make("img");
    face.src = url;
    face.alt = "";
    faces.append(face);
  }
  const facts = make("dl");
  for (const [name, value] of Object.entries(told.facts)) {
    if (name === "prompts") continue;
    facts.append(make("dt", "", texts[name] || name), make("dd", name, value));
  }
  const acts = make("div", "acts");
  for (const act of ["open", "on", "forget"]) {
    const button = make("button", act, texts[act]);
    button.type = "button";
    button.setAttribute("aria-label", `${texts[act]}: ${told.title}`);
    button.addEventListener("click", () => trigger("act", { id: told.id, act }));
    acts.append(button);
  }
  node.append(faces, make("h3", "", told.facts.prompts || told.title), facts, acts);
  return node;
}

function draw() {
  let told;
  try { told = JSON.parse(props.value || "[]"); } catch { told = []; }
  const list = element.querySelector(".cards");
  list.replaceChildren(...told.map(card));
  if (!told.length) list.append(make("p", "facts", texts.none));
}

watch("value", draw);
draw();
