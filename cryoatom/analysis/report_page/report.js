// What the page shows now, and what happens when a person asks for something else.

const data = readPayload();
const find = (id) => document.getElementById(id);
const FRAMES_PER_SECOND = 6;
const state = { ready: false, kind: "mean", image: null, images: [], series: null, frame: 0, playing: false };
let shown = { coordinates: data.mean, spread: null, title: "", remarks: [], name: "" };
let timer = null;

const isFast = hasWebGL();
const viewer = isFast ? new Viewer(find("viewer"), data) : null;
const scatter = data.maps.length ? new Scatter(find("scatter"), data, isFast, { onPick: showImage, onSelect: selectImages, onHover: tell }) : null;
find("no-webgl").hidden = isFast;
find("viewer").hidden = !isFast;

const overlays = { none: () => null, template: () => data.template.positions, mean: () => data.mean, pinned: () => state.pinned ?? null };
const live = [
  { name: "from N to C terminus", values: () => Float32Array.from({ length: data.residues }, (_, i) => i + 1), low: 1, high: data.residues },
  { name: "chain", kind: "classes", ...classesOf(data.template.chain) },
  { name: "distance from the mean structure (Å)", values: () => deviation(shown.coordinates, data.mean), low: 0 },
  { name: "distance from the template (Å)", values: () => deviation(shown.coordinates, data.template.positions), low: 0 },
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
  find("save-rows").disabled = !state.images.length;
  document.body.dataset.kind = state.kind;
  document.body.dataset.row = state.image === null ? "" : data.rowOf(state.image);
  document.body.dataset.selected = state.images.length;
  paint();
}

function paint() {
  const entry = paints[find("residue-colour").value];
  const values = typeof entry.values === "function" ? entry.values() : entry.values;
  const { colours, legend } = residuePaint({ ...entry, values });
  drawLegend(find("residue-legend"), legend);
  viewer?.show(shown.coordinates, colours, shown.spread);
  const moved = rmsd(shown.coordinates, data.template.positions);
  find("rmsd").textContent = `RMSD from the template ${moved.toFixed(2)} Å, after superposition`;
}

function compare() {
  viewer?.compare(overlays[find("overlay").value]());
}

// Images

function showImage(image) {
  stop();
  Object.assign(state, { kind: "image", image, series: null });
  scatter?.mark(image);
  const [row, name] = [data.rowOf(image), data.nameOf(image)];
  find("row").value = row;
  const place = row === image ? "" : `image ${image} of this run`;
  show({
    coordinates: conformationOfImage(data, image), spread: null, name: `row_${row}`, title: `Image, row ${row}`,
    detail: [name, place].filter(Boolean).join(" · "),
    remarks: [`image in row ${row} (from 0) of the particle file`, name, `the exact one: image ${image} of the run's conformations`],
  });
  find("values").replaceChildren(
    ...data.colours.flatMap((entry) => [element("dt", {}, entry.name), element("dd", {}, valueOf(entry, image))]),
  );
}

function showRow(row) {
  const image = data.imageOf(row);
  find("row").setCustomValidity(image === undefined ? `this run has no image of row ${row}` : "");
  if (find("row").reportValidity()) showImage(image);
}

function valueOf(entry, image) {
  return entry.kind === "classes" ? String(entry.classes[entry.values[image]] ?? "–") : readable(entry.values[image]);
}

function tell(image) {
  const entry = data.colours[scatter.colour];
  const value = image === null || !entry ? "" : ` · ${entry.name}: ${valueOf(entry, image)}`;
  find("hover").textContent = image === null ? "" : `row ${data.rowOf(image)} · ${data.nameOf(image)}${value}`;
}

function selectImages(images, { isDrawn = false } = {}) {
  stop();
  state.images = images;
  if (!isDrawn) scatter?.highlight(images);
  find("row").value = "";
  find("values").replaceChildren();
  if (!images.length) return showMean();
  Object.assign(state, { kind: "selection", image: null, series: null });
  scatter?.mark(null);
  const { coordinates, spread } = conformationOfImages(data, images);
  const percent = ((100 * images.length) / data.images).toFixed(1);
  show({
    coordinates, spread, name: `mean_of_${images.length}`, title: `Mean of ${images.length} selected images`,
    detail: `${percent} % of all; they spread by ${rootMeanSquare(spread).toFixed(2)} Å (r.m.s.), most where the tube is thick`,
    remarks: [`mean conformation of ${images.length} images; B column: their standard deviation in Angstrom`],
  });
}

function showMean() {
  Object.assign(state, { kind: "mean", image: null, series: null });
  scatter?.mark(null);
  show({
    coordinates: data.mean, spread: null, name: "mean_structure", title: "Mean structure",
    detail: "of at most 2,000 images that fit, superposed on one another (Procrustes)",
    remarks: ["Procrustes mean of at most 2,000 images that fit"],
  });
}

// Series

function showFrame(index, frame) {
  const series = data.series[index];
  Object.assign(state, { kind: "series", series: index, frame, image: null });
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
  const place = state.kind === "series" ? "as the decoder has it" : "superposed on the mean structure, which lies on the template";
  const remarks = [data.title, ...shown.remarks, place, "written by cryoatom's report.html; C-alphas"];
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
      const images = () => Array.from(entry.values.keys()).filter((image) => entry.values[image] === code);
      const chip = element("button", { type: "button", className: "chip", onclick: () => selectImages(images()) }, swatch, label, element("small", {}, String(counts[code])));
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
  find("row").max = data.lastRow;
  find("row").oninput = (event) => event.target.setCustomValidity("");
  find("row").onchange = (event) => event.target.reportValidity() && event.target.value !== "" && showRow(Number(event.target.value));
  find("clear").onclick = () => selectImages([]);
  find("pin").onclick = () => {
    state.pinned = shown.coordinates;
    find("overlay").value = "pinned";
    compare();
  };
  find("reset").onclick = () => viewer?.reset();
  find("save-rows").onclick = () => save(`rows_${state.images.length}.txt`, state.images.map(data.rowOf).join("\n") + "\n");
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
drawPictures(find("picture-cards"), data, (image) => explore(() => showImage(image)));
find("overlay").value = "template";
compare();
showMean();
state.ready = true;
window.cryoatom = {
  state, data, viewer, scatter, showImage, selectImages, play, stop, rmsd,
  shown: () => Array.from(shown.coordinates),
  coordinates: () => viewer?.coordinates() ?? Array.from(shown.coordinates),
};
document.body.dataset.ready = "true";
