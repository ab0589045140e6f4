// The map of images: one point an image.

const MOST_WITHOUT_WEBGL = 4000; // points that SVG can hold and stay fluid

class Scatter {
  // `onPick(image)` and `onSelect(images)` are called when a person clicks a point or draws around some.
  constructor(element, data, isFast, { onPick, onSelect, onHover }) {
    Object.assign(this, { element, data, isFast, onPick, onSelect });
    this.images = this.shownImages();
    this.map = 0;
    this.colour = 0;
    this.marked = null;
    Plotly.newPlot(element, [this.trace()], this.layout(), {
      displaylogo: false, displayModeBar: true, responsive: true, scrollZoom: true,
      modeBarButtons: [["lasso2d", "select2d", "pan2d", "zoom2d", "resetScale2d", "toImage"]],
    });
    this.ring = Object.assign(document.createElement("div"), { className: "ring", hidden: true });
    element.append(this.ring);
    for (const change of ["plotly_afterplot", "plotly_relayouting", "plotly_relayout"]) element.on(change, () => this.placeRing());
    element.on("plotly_click", (event) => onPick(this.images[event.points[0].pointIndex]));
    // later, since a change of the plot from inside of its event undoes the selection
    element.on("plotly_selected", (event) => event && setTimeout(() => this.select(event)));
    element.on("plotly_deselect", () => setTimeout(() => onSelect([], { isDrawn: true })));
    element.on("plotly_hover", (event) => onHover(this.images[event.points[0].pointIndex]));
    element.on("plotly_unhover", () => onHover(null));
  }

  shownImages() {
    const step = this.isFast ? 1 : Math.ceil(this.data.images / MOST_WITHOUT_WEBGL);
    return Int32Array.from({ length: Math.ceil(this.data.images / step) }, (_, i) => i * step);
  }

  shown(values) {
    return this.images.length === values.length ? values : Float32Array.from(this.images, (image) => values[image]);
  }

  trace() {
    const map = this.data.maps[this.map];
    return {
      type: this.isFast ? "scattergl" : "scatter", mode: "markers", hoverinfo: "none",
      x: this.shown(map.x), y: this.shown(map.y), marker: this.marker(),
      selected: { marker: { opacity: 1 } }, unselected: { marker: { opacity: 0.08 } },
    };
  }

  marker() {
    const count = this.images.length;
    const look = {
      size: count > 30000 ? 3 : count > 3000 ? 4.5 : 7,
      opacity: count > 30000 ? 0.5 : count > 3000 ? 0.7 : 0.85,
    };
    const entry = this.data.colours[this.colour];
    if (!entry) return { ...look, color: CLASS_COLOURS[0] };
    const color = this.shown(entry.values);
    if (entry.kind === "classes") {
      const last = Math.max(entry.classes.length - 1, 1);
      const colorscale = Array.from({ length: last + 1 }, (_, i) => [i / last, classColour(i)]);
      return { ...look, color, colorscale, cmin: 0, cmax: last, showscale: false };
    }
    const [cmin, cmax] = this.limits(entry);
    const colorbar = { title: { text: entry.name, side: "right" }, thickness: 12, outlinewidth: 0, len: 0.9 };
    return { ...look, color, colorscale: "Viridis", cmin, cmax, showscale: true, colorbar };
  }

  // Colours span what 98 of 100 images have: a few odd ones shall not make all others look alike.
  limits(entry) {
    entry.limits ??= [quantile(entry.values, 0.01), quantile(entry.values, 0.99)];
    const [low, high] = entry.limits;
    return [low, high > low ? high : low + 1];
  }

  layout() {
    const map = this.data.maps[this.map];
    const axis = (text) => ({ title: { text, standoff: 8 }, zeroline: false, gridcolor: "#edf0f3", linecolor: "#9aa4b1", ticks: "outside", tickcolor: "#9aa4b1" });
    return {
      xaxis: axis(map.xLabel), yaxis: axis(map.yLabel),
      margin: { l: 62, r: 16, t: 34, b: 52 }, hovermode: "closest", dragmode: this.element.layout?.dragmode ?? "lasso",
      font: { family: "system-ui, sans-serif", size: 13, color: "#1f2a37" }, showlegend: false,
      paper_bgcolor: "white", plot_bgcolor: "white", uirevision: map.name,
      newselection: { line: { color: "#1f2a37", width: 1.5, dash: "dot" } },
    };
  }

  mark(image) {
    this.marked = image;
    this.placeRing();
  }

  // The ring around the marked point is no part of the plot: a change of the plot's shapes undoes a selection.
  placeRing() {
    const map = this.data.maps[this.map];
    const { xaxis, yaxis } = this.element._fullLayout;
    const [x, y] = this.marked === null ? [NaN, NaN] : [xaxis.l2p(map.x[this.marked]), yaxis.l2p(map.y[this.marked])];
    this.ring.hidden = !(x >= 0 && x <= xaxis._length && y >= 0 && y <= yaxis._length);
    this.ring.style.left = `${xaxis._offset + x}px`;
    this.ring.style.top = `${yaxis._offset + y}px`;
  }

  chooseColour(index) {
    this.colour = index;
    return Plotly.restyle(this.element, { marker: [this.marker()] }, [0]);
  }

  chooseMap(index) {
    this.map = index;
    const { x, y } = this.trace();
    return Plotly.update(this.element, { x: [x], y: [y] }, { ...this.layout(), selections: [] }, [0]);
  }

  // All images inside of what was drawn, also those that are not shown.
  select(event) {
    const { x, y } = this.data.maps[this.map];
    const outline = event.lassoPoints ?? corners(event.range);
    const drawn = outline ? insideOutline(x, y, outline) : [];
    const shown = event.points.map((point) => this.images[point.pointIndex]); // with shift, those of before too
    this.onSelect([...new Set([...drawn, ...shown])].sort((a, b) => a - b), { isDrawn: true });
  }

  // Lift some images out of the others, where they were not drawn around; all are alike again without any.
  async highlight(images) {
    const chosen = images.length ? new Set(images) : null;
    const selectedpoints = chosen ? Array.from(this.images.keys()).filter((i) => chosen.has(this.images[i])) : null;
    if (this.element.layout.selections?.length) await Plotly.relayout(this.element, { selections: [] });
    return Plotly.restyle(this.element, { selectedpoints: [selectedpoints] }, [0]);
  }
}

function corners(range) {
  if (!range) return null;
  const [[left, right], [bottom, top]] = [range.x, range.y];
  return { x: [left, right, right, left], y: [bottom, bottom, top, top] };
}

// Indices of points inside of a polygon (a ray from each crosses its sides an odd number of times).
function insideOutline(x, y, outline) {
  const images = [];
  const count = outline.x.length;
  const bounds = [outline.x, outline.y].map((values) => [Math.min(...values), Math.max(...values)]);
  for (let image = 0; image < x.length; image++) {
    const [px, py] = [x[image], y[image]];
    if (!(px >= bounds[0][0] && px <= bounds[0][1] && py >= bounds[1][0] && py <= bounds[1][1])) continue;
    let isInside = false;
    for (let i = 0, j = count - 1; i < count; j = i++) {
      const [ax, ay, bx, by] = [outline.x[i], outline.y[i], outline.x[j], outline.y[j]];
      if (ay > py !== by > py && px < ((bx - ax) * (py - ay)) / (by - ay) + ax) isInside = !isInside;
    }
    if (isInside) images.push(image);
  }
  return images;
}
