// The sections that are drawn from the data: motions and images.

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

// One card a series, with how far each residue moves.
function drawMotions(container, data, onPlay) {
  data.series.forEach((series, index) => {
    const reach = reachOf(series.frames);
    const most = reach.indexOf(Math.max(...reach));
    const ends = rmsd(series.frames[0], series.frames[series.frames.length - 1]);
    const { chain, number, name } = data.template;
    const text =
      `${series.frames.length} conformations; the first and the last differ by ${ends.toFixed(1)} Å (RMSD after superposition). ` +
      `${name[most]} ${number[most]} of chain ${chain[most]} moves most, by ${reach[most].toFixed(1)} Å.`;
    const play = element("button", { type: "button", className: "primary", onclick: () => onPlay(index) }, "▶ Play");
    play.setAttribute("aria-label", "Play " + series.name);
    play.dataset.series = series.name;
    container.append(
      element("article", { className: "card" }, element("h3", {}, series.name, play), element("p", {}, text), profile(reach, data)),
    );
  });
}

// The largest distance between two places of each residue from the first frame, Å.
function reachOf(frames) {
  const reach = new Float32Array(frames[0].length / 3);
  for (const frame of frames) displacement(frame, frames[0]).forEach((value, i) => (reach[i] = Math.max(reach[i], value)));
  return Array.from(reach);
}

// A small plot of a value of each residue.
function profile(values, data) {
  const [width, height, left, bottom] = [420, 110, 34, 20];
  const high = Math.max(...values, 1e-3);
  const make = (tag, attributes, text) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    if (text !== undefined) node.textContent = text;
    return node;
  };
  const x = (i) => left + ((width - left - 6) * (i + 0.5)) / values.length;
  const y = (value) => 8 + (height - bottom - 8) * (1 - value / high);
  const plot = make("svg", { viewBox: `0 0 ${width} ${height}`, class: "profile", role: "img" });
  plot.append(make("title", {}, "How far each residue moves from the first conformation, Å"));
  plot.append(make("path", { d: `M${left},8V${y(0)}H${width - 6}`, class: "axis" }));
  for (const [first, last] of stretches(data.template.bonded)) {
    const places = Array.from({ length: last - first + 1 }, (_, i) => `${x(first + i).toFixed(1)},${y(values[first + i]).toFixed(1)}`);
    plot.append(make("path", { d: `M${x(first)},${y(0)}L${places.join("L")}L${x(last)},${y(0)}Z`, class: "area" }));
  }
  plot.append(make("text", { x: left - 4, y: 16, "text-anchor": "end" }, readable(high)));
  plot.append(make("text", { x: left - 4, y: y(0), "text-anchor": "end" }, "0 Å"));
  const { number, chain } = data.template;
  const end = number.length - 1;
  plot.append(make("text", { x: left, y: height - 5 }, `${chain[0]} ${number[0]}`));
  plot.append(make("text", { x: width - 6, y: height - 5, "text-anchor": "end" }, `${chain[end]} ${number[end]}`));
  plot.append(make("text", { x: (width + left) / 2, y: height - 5, "text-anchor": "middle" }, "residue"));
  return plot;
}

const PANELS = ["image", "model", "image − model"];

// One card a picture: image, model and what is left.
function drawPictures(container, data, onPick) {
  for (const picture of data.pictures) {
    const panels = picture.panels.map((pixels, i) =>
      element("figure", {}, canvasOf(pixels, picture.side), element("figcaption", {}, PANELS[i])),
    );
    const card = element(
      "button",
      { type: "button", className: "card picture", onclick: () => onPick(picture.index) },
      element("span", { className: "panels" }, ...panels),
      element("span", { className: "note" }, element("b", {}, `row ${data.rowOf(picture.index)}`), picture.note ? ` · ${picture.note}` : ""),
    );
    card.dataset.row = data.rowOf(picture.index);
    card.title = "Show its conformation";
    container.append(card);
  }
}

function canvasOf(pixels, side) {
  const canvas = element("canvas", { width: side, height: side });
  const context = canvas.getContext("2d");
  const image = context.createImageData(side, side);
  for (let i = 0; i < pixels.length; i++) {
    image.data[4 * i] = image.data[4 * i + 1] = image.data[4 * i + 2] = pixels[i];
    image.data[4 * i + 3] = 255;
  }
  context.putImageData(image, 0, 0);
  return canvas;
}
