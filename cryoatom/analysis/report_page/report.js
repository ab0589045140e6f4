// What the page shows now, and what happens when a person asks for something else.

const data = readPayload();
const find = (id) => document.getElementById(id);
const FRAMES_PER_SECOND = 6;
const state = { ready: false, kind: "mean", row: null, rows: [], series: null, frame: 0, playing: false };
let shown = { coordinates: data.mean, spread: null, title: "Mean of all images", remarks: [], name: "mean" };
let timer = null;

const isFast = hasWebGL();
const viewer = isFast ? new Viewer(find("viewer"), data) : null;
const scatter = data.maps.length ? new Scatter(find("scatter"), data, isFast, { onPick: showRow, onSelect: selectRows, onHover: tell }) : null;
find("no-webgl").hidden = isFast;
find("viewer").hidden = !isFast;

const overlays = { none: () => null, template: () => data.template.positions, mean: () => data.mean, pinned: () => state.pinned ?? null };
const live = [
  { name: "from N to C terminus", values: () => Float32Array.from({ length: data.residues }, (_, i) => i + 1), low: 1, high: data.residues },
  { name: "chain", kind: "classes", ...classesOf(data.template.chain) },
  { name: "distance from the mean (Å)", values: () => displacement(shown.coordinates, data.mean), low: 0 },
  { name: "distance from the template (Å)", values: () => displacement(shown.coordinates, data.template.positions), low: 0 },
  { name: "spread of the selected images (Å)", values: () => shown.spread ?? new Float32Array(data.residues).fill(NaN), low: 0 },
];
const paints = [...data.residueColours, ...live];

function classesOf(labels) {
  const classes = [...new Set(labels)];
  return { classes, values: () => Uint16Array.from(labels, (label) => classes.indexOf(label)) };
}

// The 3-D view

function show(next) {
  shown = next;
  find("shown-title").textContent = next.title;
  find("shown-detail").textContent = next.detail ?? "";
  find("save-rows").disabled = !state.rows.length;
  document.body.dataset.kind = state.kind;
  document.body.dataset.row = state.row ?? "";
  document.body.dataset.selected = state.rows.length;
  paint();
}

function paint() {
  const entry = paints[find("residue-colour").value];
  const values = typeof entry.values === "function" ? entry.values() : entry.values;
  const { colours, legend } = residuePaint({ ...entry, values });
  drawLegend(find("residue-legend"), legend);
  viewer?.show(shown.coordinates, colours, shown.spread);
  const moved = rootMeanSquare(displacement(shown.coordinates, data.template.positions));
  find("rmsd").textContent = `RMSD from the template ${moved.toFixed(2)} Å`;
}

function compare() {
  viewer?.compare(overlays[find("overlay").value]());
}

// Images

function showRow(row) {
  stop();
  Object.assign(state, { kind: "image", row, series: null });
  scatter?.mark(row);
  find("row").value = row;
  const name = data.nameOf(row);
  show({
    coordinates: conformationOfRow(data, row), spread: null, name: `image_${row}`, title: `Image, row ${row}`, detail: name,
    remarks: [`conformation of the image in row ${row} (from 0) of the particle file`, name],
  });
  find("values").replaceChildren(
    ...data.colours.flatMap((entry) => [element("dt", {}, entry.name), element("dd", {}, valueOf(entry, row))]),
  );
}

function valueOf(entry, row) {
  return entry.kind === "classes" ? String(entry.classes[entry.values[row]] ?? "–") : readable(entry.values[row]);
}

function tell(row) {
  const entry = data.colours[scatter.colour];
  const value = row === null || !entry ? "" : ` · ${entry.name}: ${valueOf(entry, row)}`;
  find("hover").textContent = row === null ? "" : `row ${row} · ${data.nameOf(row)}${value}`;
}

function selectRows(rows, { isDrawn = false } = {}) {
  stop();
  state.rows = rows;
  if (!isDrawn) scatter?.highlight(rows);
  find("row").value = "";
  find("values").replaceChildren();
  if (!rows.length) return showMean();
  Object.assign(state, { kind: "selection", row: null, series: null });
  scatter?.mark(null);
  const { coordinates, spread } = conformationOfRows(data, rows);
  const percent = ((100 * rows.length) / data.images).toFixed(1);
  show({
    coordinates, spread, name: `mean_of_${rows.length}`, title: `Mean of ${rows.length} selected images`,
    detail: `${percent} % of all; they spread by ${rootMeanSquare(spread).toFixed(2)} Å (r.m.s.), most where the tube is thick`,
    remarks: [`mean conformation of ${rows.length} images; B column: their standard deviation in Angstrom`],
  });
}

function showMean() {
  Object.assign(state, { kind: "mean", row: null, series: null });
  scatter?.mark(null);
  show({ coordinates: data.mean, spread: null, name: "mean", title: "Mean of all images", remarks: ["mean conformation of all images"] });
}

// Series

function showFrame(index, frame) {
  const series = data.series[index];
  Object.assign(state, { kind: "series", series: index, frame, row: null });
  find("frame").max = series.frames.length - 1;
  find("frame").value = frame;
  find("series").value = index;
  find("frame-text").textContent = `${frame + 1} / ${series.frames.length}`;
  document.body.dataset.frame = frame;
  show({
    coordinates: series.frames[frame], spread: null, name: `${series.name}_${frame + 1}`, title: series.name,
    detail: series.notes[frame] ?? `conformation ${frame + 1} of ${series.frames.length}`,
    remarks: [`${series.name}, conformation ${frame + 1} of ${series.frames.length}`],
  });
}

function play(index) {
  stop();
  const count = data.series[index].frames.length;
  let step = state.kind === "series" && state.series === index ? state.frame : 0;
  if (state.kind !== "series" || state.series !== index) {
    scatter?.mark(null);
    find("values").replaceChildren();
    showFrame(index, 0);
  }
  state.playing = true;
  find("play").textContent = "❚❚ Pause";
  timer = setInterval(() => {
    step = (step + 1) % Math.max(2 * count - 2, 1); // there and back again
    showFrame(index, step < count ? step : 2 * count - 2 - step);
  }, 1000 / FRAMES_PER_SECOND);
}

function stop() {
  clearInterval(timer);
  state.playing = false;
  find("play").textContent = "▶ Play";
}

// Files

function save(name, text) {
  const link = element("a", { href: URL.createObjectURL(new Blob([text], { type: "text/plain" })), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

function saveConformation() {
  const remarks = [data.title, ...shown.remarks, "written by cryoatom's report.html; C-alphas"];
  save(shown.name.replace(/[^\w.-]+/g, "_") + ".pdb", pdbOf(data.template, shown.coordinates, remarks, shown.spread));
}

// Controls

function fill(select, entries) {
  select.append(...entries.map((entry, i) => element("option", { value: i }, entry.name)));
  select.disabled = !entries.length;
}

function drawClasses() {
  const entry = data.colours[scatter?.colour];
  const chips = entry?.kind === "classes" ? entry.classes : [];
  const counts = new Array(chips.length).fill(0);
  if (chips.length) entry.values.forEach((code) => counts[code]++);
  find("classes").replaceChildren(
    ...chips.map((label, code) => {
      const swatch = element("i");
      swatch.style.background = classColour(code);
      const rows = () => Array.from(entry.values.keys()).filter((row) => entry.values[row] === code);
      const chip = element("button", { type: "button", className: "chip", onclick: () => selectRows(rows()) }, swatch, label, element("small", {}, String(counts[code])));
      chip.setAttribute("aria-label", `Select the ${counts[code]} images of ${entry.name} ${label}`);
      return chip;
    }),
  );
  find("classes-hint").hidden = !chips.length;
}

function wire() {
  fill(find("map"), data.maps);
  fill(find("colour"), data.colours);
  fill(find("residue-colour"), paints);
  fill(find("series"), data.series);
  find("map").onchange = (event) => scatter.chooseMap(Number(event.target.value));
  find("colour").onchange = (event) => (scatter.chooseColour(Number(event.target.value)), drawClasses());
  find("residue-colour").onchange = paint;
  find("overlay").onchange = compare;
  find("row").max = data.images - 1;
  find("row").onchange = (event) => event.target.checkValidity() && event.target.value !== "" && showRow(Number(event.target.value));
  find("clear").onclick = () => selectRows([]);
  find("pin").onclick = () => {
    state.pinned = shown.coordinates;
    find("overlay").value = "pinned";
    compare();
  };
  find("reset").onclick = () => viewer?.reset();
  find("save-rows").onclick = () => save(`rows_${state.rows.length}.txt`, state.rows.join("\n") + "\n");
  find("save-pdb").onclick = saveConformation;
  find("series").onchange = (event) => (stop(), showFrame(Number(event.target.value), 0));
  find("frame").oninput = (event) => (stop(), showFrame(Number(find("series").value), Number(event.target.value)));
  find("play").onclick = () => (state.playing ? stop() : play(Number(find("series").value)));
  for (const id of ["series", "frame", "play"]) find(id).disabled = !data.series.length;
  if (data.series.length) find("frame").max = data.series[0].frames.length - 1;
}

function explore(action) {
  find("explore").scrollIntoView({ behavior: "smooth" });
  action();
}

wire();
drawClasses();
drawMotions(find("motion-cards"), data, (index) => explore(() => play(index)));
drawPictures(find("picture-cards"), data, (row) => explore(() => showRow(row)));
find("overlay").value = "template";
compare();
showMean();
state.ready = true;
window.cryoatom = {
  state, data, viewer, scatter, showRow, selectRows, play, stop,
  shown: () => Array.from(shown.coordinates),
  coordinates: () => viewer?.coordinates() ?? Array.from(shown.coordinates),
};
document.body.dataset.ready = "true";
