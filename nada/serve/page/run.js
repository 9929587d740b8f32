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

function sentence(run) {
  if (run.state === "waiting") return `${texts.waiting} ${run.before_it}`;
  const count = run.state === "starting" ? "" : ` ${run.step}/${run.steps}.`;
  const over = ["finished", "stopped", "failed"].includes(run.state);
  const rest = over ? ` ${run.step ? texts.kept : texts.unchanged}` : "";
  const reason = run.reason ? `${run.reason} ` : "";
  return `${reason}${texts[run.state]}${count}${rest}`;
}

function bar(run) {
  const done = 100 * run.step / run.steps;
  const node = make("div", "bar"), inner = make("div");
  node.setAttribute("role", "progressbar");
  node.setAttribute("aria-label", texts.progress);
  node.setAttribute("aria-valuenow", done.toFixed(0));
  inner.style.width = `${done.toFixed(1)}%`;
  node.append(inner);
  return node;
}

function facts(run) {
  const parts = [`${run.seconds.toFixed(0)} s`];
  if (run.eta !== null) parts.push(`${texts.to_go} ${run.eta.toFixed(0)} s`);
  if (run.loss !== null) parts.push(`${texts.loss} ${run.loss.toFixed(3)}`);
  if (run.way !== null) parts.push(`${texts.way} ${Math.round(100 * run.way)} %`);
  if (run.collapsing) parts.push(texts.collapsing);
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
  let run;
  try { run = JSON.parse(props.value || "null"); } catch { run = null; }
  if (!run) {
    place.replaceChildren(make("p", "said", texts.welcome), make("p", "facts", texts.welcome_more));
    return;
  }
  place.className = `run ${run.state}`;
  const said = make("p", "said", sentence(run));
  said.setAttribute("aria-live", ["running", "waiting"].includes(run.state) ? "off" : "polite");
  const parts = [said, bar(run), facts(run)];
  for (const hint of run.hints) parts.push(make("p", "hint", hint));
  if (run.losses.length > 1) parts.push(curve(run.losses, run.steps));
  if (run.layers.length) {
    const layers = make("details"), list = make("ul", "chips");
    list.append(...run.layers.map((name) => make("li", "", name)));
    layers.open = place.querySelector("details")?.open ?? false;
    layers.append(make("summary", "", `${texts.layers}: ${run.layers.length}`), list);
    parts.push(layers);
  }
  place.replaceChildren(...parts);
}

watch("value", draw);
draw();
