"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const COLOURS = ["#d55e00", "#0072b2", "#009e73", "#e69f00", "#cc79a7", "#56b4e9", "#8c6d31", "#7f5fc4"];

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

/* Sort every table whose titles are buttons; the third state restores the original order. */
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0], original = [...body.rows];
  for (const title of table.tHead.rows[0].cells) {
    title.querySelector("button").addEventListener("click", () => {
      const next = { none: "descending", descending: "ascending", ascending: "none" }[title.getAttribute("aria-sort")];
      for (const other of table.tHead.rows[0].cells) other.setAttribute("aria-sort", "none");
      title.setAttribute("aria-sort", next);
      const value = (row) => row.cells[title.cellIndex].dataset.value ?? "";
      const compare = (a, b) => {
        const x = value(a), y = value(b), numbers = x !== "" && y !== "" && !isNaN(x) && !isNaN(y);
        if (x === "" || y === "") return (x === "") - (y === ""); // rows that did not run stay last
        return (next === "descending" ? -1 : 1) * (numbers ? x - y : x.localeCompare(y));
      };
      body.append(...(next === "none" ? original : [...original].sort(compare)));
    });
  }
}

/* Provenance of a cell. */
function list(pairs) {
  return element("dl", {}, ...pairs.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, String(value))]));
}

function chain(title, seen) {
  if (seen.has(title)) return [];
  seen.add(title);
  return [...Object.values(data.stages[title].inputs).flatMap((needed) => chain(needed, seen)), title];
}

function stageDetails(title) {
  const stage = data.stages[title];
  const facts = [["commit", stage.commit], ["finished", `${stage.finished}, after ${stage.seconds} s`]];
  const outputs = Object.entries(stage.outputs).map(([name, sha]) => [name, `sha256 ${sha}`]);
  return element("details", {}, element("summary", {}, title), list([...facts, ...outputs]),
    element("pre", { tabindex: "0", "aria-label": `settings of ${title}` }, JSON.stringify(stage.settings, null, 1)));
}

for (const button of document.querySelectorAll("button.cell")) {
  button.addEventListener("click", () => {
    const [setting, name, column] = button.dataset.cell.split("/");
    const row = data.rows[setting].find((found) => found.name === name), cell = row.cells[column];
    $("provenance-title").textContent = `${row.label}, ${data.settings[setting]}, ${data.columns[column]}`;
    const numbers = Object.entries(cell).filter(([, value]) => value !== null && typeof value !== "object");
    const difference = cell.difference ? [["minus " + data.compare_label,
      `${cell.difference.value} [${cell.difference.low}, ${cell.difference.high}], p ${cell.difference.p}`]] : [];
    const seen = new Set(), titles = row.stages.flatMap((title) => chain(title, seen));
    $("provenance-body").replaceChildren(
      list([...numbers, ...difference, ["paper", row.paper[column] ?? "not under its protocol"], ["seeds", row.seeds.join(", ")]]),
      element("h3", {}, "Reproduce this cell"),
      element("pre", { tabindex: "0", "aria-label": "commands" }, row.commands.join("\n")),
      element("h3", {}, `The ${titles.length} stages behind it`), ...titles.map(stageDetails));
    $("provenance").showModal();
  });
}

/* Training curves. */
const SVG = "http://www.w3.org/2000/svg";
function svg(tag, attributes, text = "") {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.textContent = text;
  return made;
}

function ticks(low, high) {
  const rough = (high - low) / 5, unit = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((k) => k * unit).find((size) => size >= rough);
  const found = [];
  for (let k = Math.ceil(low / step); k * step <= high; k++) found.push(Number((k * step).toPrecision(6)));
  return found;
}

function drawCurves() {
  const setting = $("curve-setting").value, metric = $("curve-metric").value;
  const chosen = [...document.querySelectorAll("#curve-rows input:checked")].map((box) => box.value);
  const series = Object.entries(data.curves[setting]).filter(([, found]) => found[metric]);
  const coloured = series.filter(([row]) => chosen.includes(row));
  // Only the coloured rows set the scale: a loss of another magnitude would flatten all others.
  const all = (coloured.length ? coloured : series).flatMap(([, found]) => found[metric]);
  if (!all.length) return $("curve-plot").replaceChildren("No row of this setting has this metric.");
  const W = 900, H = 380, left = 60, right = 10, top = 10, bottom = 40;
  let low = Math.min(...all), high = Math.max(...all);
  if (low === high) { low -= 1; high += 1; }
  const last = Math.max(...series.map(([, found]) => found.step.at(-1)));
  const x = (step) => left + (W - left - right) * step / last;
  const y = (value) => H - bottom - (H - top - bottom) * (value - low) / (high - low);
  const plot = svg("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": `${data.metrics[metric]} over steps` });
  for (const tick of ticks(low, high)) {
    plot.append(svg("line", { x1: left, x2: W - right, y1: y(tick), y2: y(tick) }));
    plot.append(svg("text", { x: left - 6, y: y(tick) + 4, "text-anchor": "end" }, tick));
  }
  for (const tick of ticks(0, last)) plot.append(svg("text", { x: x(tick), y: H - 20, "text-anchor": "middle" }, tick));
  plot.append(svg("text", { x: W / 2, y: H - 4, "text-anchor": "middle" }, "step"));
  plot.append(svg("clipPath", { id: "curve-area" }));
  plot.lastChild.append(svg("rect", { x: left, y: top, width: W - left - right, height: H - top - bottom }));
  for (const front of [false, true]) for (const [row, found] of series) {
    if (chosen.includes(row) !== front) continue;
    const points = found[metric].map((value, place) => `${x(found.step[place])},${y(value)}`).join(" ");
    const line = svg("polyline", { points, fill: "none", stroke: front ? colourOf(row) : "#8c959f",
      "stroke-width": front ? 2 : 1, "stroke-opacity": front ? 1 : 0.45, "clip-path": "url(#curve-area)" });
    line.append(svg("title", {}, labelOf(setting, row)));
    plot.append(line);
  }
  $("curve-plot").replaceChildren(plot);
}

const trained = [...new Set(Object.values(data.curves).flatMap(Object.keys))]
  .sort((a, b) => (b === "focalpo") - (a === "focalpo") || (b === data.compare_with) - (a === data.compare_with));
const colourOf = (row) => COLOURS[trained.indexOf(row) % COLOURS.length];
const labelOf = (setting, row) => data.rows[setting].find((found) => found.name === row)?.label ?? row;
for (const row of trained) {
  const box = element("input", { type: "checkbox", value: row });
  box.checked = trained.indexOf(row) < 2;
  box.addEventListener("change", drawCurves);
  const swatch = element("span", { class: "swatch" });
  swatch.style.background = colourOf(row);
  $("curve-rows").append(element("label", {}, box, " ", swatch, labelOf(Object.keys(data.rows)[0], row)));
}
const metrics = [...new Set(Object.values(data.curves).flatMap((rows) => Object.values(rows).flatMap(Object.keys)))];
for (const name of metrics.filter((metric) => metric !== "step"))
  $("curve-metric").append(element("option", { value: name }, data.metrics[name] ?? name));
$("curve-setting").addEventListener("change", drawCurves);
$("curve-metric").addEventListener("change", drawCurves);
drawCurves();

/* Answers side by side. Their files are scripts, because a page opened from disk may not fetch anything else. */
const loaded = {};
window.answers = (name, content) => { loaded[name] = content; };
function load(name) {
  return name in loaded ? Promise.resolve(loaded[name]) : new Promise((resolve) => {
    const script = element("script", { src: `answers/${name}.js` });
    script.onload = () => resolve(loaded[name]);
    script.onerror = () => resolve(null);
    document.head.append(script);
  });
}

let place = 0;
function judged(answer) {
  if (answer.score === null) return "the judge gave no verdict";
  if (answer.games) return `Arena-Hard games: ${answer.games.join(", ")}; score ${(100 * answer.score).toFixed(0)}%`;
  if (answer.followed) return `instructions followed: ${answer.followed.join(", ") || "none"}` +
    (answer.missed.length ? `; not followed: ${answer.missed.join(", ")}` : "");
  return `judged better than the reference: ${(100 * answer.score).toFixed(0)}%`;
}

function side(label, answer) {
  return element("div", {}, element("h3", {}, label), element("p", { class: "text" }, answer.text || "(empty)"),
    element("p", { class: "quiet" }, judged(answer) + (answer.tokens ? `; ${answer.tokens} tokens` : "") + (answer.finished ? "" : ", unfinished")));
}

async function showAnswers(move = 0) {
  const [setting, benchmark] = [$("answer-setting").value, $("answer-benchmark").value];
  const names = [$("answer-left").value, $("answer-right").value];
  const [questions, ...files] = await Promise.all(["questions", ...names].map((name) => load(`${setting}-${name}`)));
  if (!questions || files.some((file) => !file)) {
    $("answer-place").textContent = "";
    $("answer-view").replaceChildren("The answers are in the folder answers/ beside this page, which is missing.");
    return;
  }
  const [left, right] = files.map((file) => file[benchmark]);
  const keep = { all: () => true, left: (k) => left[k].score > right[k].score, right: (k) => right[k].score > left[k].score,
    differ: (k) => left[k].text !== right[k].text }[$("answer-filter").value];
  const kept = questions[benchmark].map((_, k) => k).filter(keep);
  place = kept.length ? (place + move + kept.length) % kept.length : 0;
  if (move === 0) place = 0;
  $("answer-place").textContent = kept.length ? `prompt ${place + 1} of ${kept.length}` : "no matching prompt";
  if (!kept.length) return $("answer-view").replaceChildren();
  const k = kept[place], question = questions[benchmark][k];
  $("answer-view").replaceChildren(
    element("h3", {}, "Prompt"), element("p", { class: "text" }, question.prompt),
    ...(question.reference ? [element("h3", {}, "Reference"), element("p", { class: "text" }, question.reference)] : []),
    element("div", { class: "sides" }, side(labelOf(setting, names[0]), left[k]), side(labelOf(setting, names[1]), right[k])));
}

function fillRows() {
  const rows = data.rows[$("answer-setting").value].filter((row) => row.stages.length);
  for (const [id, first] of [["answer-left", data.compare_with], ["answer-right", "focalpo"]]) {
    $(id).replaceChildren(...rows.map((row) => element("option", { value: row.name }, row.label)));
    if (rows.some((row) => row.name === first)) $(id).value = first;
  }
  if (rows.length) showAnswers();
}
for (const id of ["answer-left", "answer-right", "answer-filter", "answer-benchmark"])
  $(id).addEventListener("change", () => showAnswers());
$("answer-setting").addEventListener("change", fillRows);
$("answer-previous").addEventListener("click", () => showAnswers(-1));
$("answer-next").addEventListener("click", () => showAnswers(1));
fillRows();
