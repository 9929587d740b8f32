/* How a run stands: a sentence, a bar, the loss curve, the layers that train.
   The value is JSON, the status that /adapt tells and the losses so far; "" before the first run. */
const texts = props.texts[(navigator.language || "en").slice(0, 2)] || props.texts.en;
const SVG = "http://www.w3.org/2000/svg";

function make(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

function sentence(told) {
  const count = told.state === "starting" ? "" : ` ${told.step}/${told.steps}.`;
  const over = ["finished", "stopped", "failed"].includes(told.state);
  const rest = over ? ` ${told.step ? texts.kept : texts.unchanged}` : "";
  const reason = told.reason ? `${told.reason} ` : "";
  return `${reason}${texts[told.state]}${count}${rest}`;
}

function bar(told) {
  const done = 100 * told.step / told.steps;
  const node = make("div", "bar"), inner = make("div");
  node.setAttribute("role", "progressbar");
  node.setAttribute("aria-label", texts.progress);
  node.setAttribute("aria-valuenow", done.toFixed(0));
  inner.style.width = `${done.toFixed(1)}%`;
  node.append(inner);
  return node;
}

function facts(told) {
  const parts = [`${told.seconds.toFixed(0)} s`];
  if (told.eta !== null) parts.push(`${texts.to_go} ${told.eta.toFixed(0)} s`);
  if (told.loss !== null) parts.push(`${texts.loss} ${told.loss.toFixed(3)}`);
  return make("p", "facts", parts.join(" · "));
}

function curve(losses, steps) {
  const low = Math.min(...losses), high = Math.max(...losses), height = high - low || 1;
  const stride = Math.max(1, Math.floor(losses.length / 400));
  const points = losses.map((loss, i) => [600 * i / Math.max(1, steps - 1),
    4 + 82 * (high - loss) / height]).filter((_, i) => i % stride === 0 || i === losses.length - 1);
  const frame = make("div", "curve"), svg = document.createElementNS(SVG, "svg");
  const line = document.createElementNS(SVG, "polyline");
  line.setAttribute("points", points.map((p) => p.map((x) => x.toFixed(1)).join()).join(" "));
  svg.setAttribute("viewBox", "0 0 600 90");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("aria-hidden", "true");
  svg.append(line);
  frame.append(make("span", "", high.toFixed(2)), make("span", "", low.toFixed(2)), svg);
  return frame;
}

function draw() {
  const place = element.querySelector(".run");
  let told;
  try { told = JSON.parse(props.value || "null"); } catch { told = null; }
  if (!told) {
    place.replaceChildren(make("p", "said", texts.welcome), make("p", "facts", texts.welcome_more));
    return;
  }
  place.className = `run ${told.state}`;
  const said = make("p", "said", sentence(told));
  said.setAttribute("aria-live", told.state === "running" ? "off" : "polite");
  const parts = [said, bar(told), facts(told)];
  for (const hint of told.hints) parts.push(make("p", "hint", hint));
  if (told.losses.length > 1) parts.push(curve(told.losses, told.steps));
  if (told.layers.length) {
    const layers = make("details"), list = make("ul", "chips");
    list.append(...told.layers.map((name) => make("li", "", name)));
    layers.open = place.querySelector("details")?.open ?? false;
    layers.append(make("summary", "", `${texts.layers}: ${told.layers.length}`), list);
    parts.push(layers);
  }
  place.replaceChildren(...parts);
}

watch("value", draw);
draw();
