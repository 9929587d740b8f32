/* What was taken of the generator's file, and what is unusual there. The value is JSON, {used, unusual}:
   lists of {key, values}, whose words are texts["remark_…"]; shown as text. */
const texts = props.texts[(navigator.language || "en").slice(0, 2)] || props.texts.en;

function words(remark) {
  return texts[`remark_${remark.key}`].replace(/\{(\w+)\}/g, (_, name) => remark.values[name]);
}

function line(title, remarks, joint) {
  const node = document.createElement("p");
  node.className = "facts";
  node.textContent = `${title}: ${remarks.map(words).join(joint)}.`;
  return node;
}

function draw() {
  let file;
  try { file = JSON.parse(props.value || "null"); } catch { file = null; }
  const lines = file ? [line(texts.taken, file.used, " ")] : [];
  if (file && file.unusual.length) lines.push(line(texts.unusual, file.unusual, "; "));
  element.querySelector(".taken").replaceChildren(...lines);
}

watch("value", draw);
draw();
