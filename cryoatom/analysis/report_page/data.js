// The payload of the page: arrays in base64, and how they are read.

const ARRAY_TYPES = { f4: Float32Array, i4: Int32Array, i2: Int16Array, u2: Uint16Array, u1: Uint8Array };
const MISSING = 65535; // of quantised values, type u2

function bytesOf(base64) {
  const text = atob(base64);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes;
}

// Values of a stored array; quantised ones come back as float32, missing ones as NaN.
function valuesOf(stored) {
  const raw = new ARRAY_TYPES[stored.type](bytesOf(stored.data).buffer);
  if (stored.scale === undefined) return raw;
  const values = new Float32Array(raw.length);
  const hasMissing = stored.type === "u2";
  for (let i = 0; i < raw.length; i++) {
    values[i] = hasMissing && raw[i] === MISSING ? NaN : stored.offset + stored.scale * raw[i];
  }
  return values;
}

function namesOf(stored) {
  if (stored === null) return () => "";
  if (stored.list) return (image) => stored.list[image];
  const slice = valuesOf(stored.slice);
  const stack = valuesOf(stored.stack);
  return (image) => String(slice[image]).padStart(stored.width, "0") + "@" + stored.stacks[stack[image]];
}

// Images count from 0 in the run, rows from 0 in the particle file; they differ where the run has some rows only.
function rowsOf({ rows, images }) {
  if (rows === null) return { rowOf: (image) => image, imageOf: (row) => (row < images ? row : undefined), lastRow: images - 1 };
  const values = valuesOf(rows);
  const places = new Map(Array.from(values, (row, image) => [row, image]));
  const lastRow = values.reduce((last, row) => Math.max(last, row), 0);
  return { rowOf: (image) => values[image], imageOf: (row) => places.get(row), lastRow };
}

function readPayload() {
  const payload = JSON.parse(document.getElementById("payload").textContent);
  const template = payload.template;
  const withValues = (entry) => ({ ...entry, values: valuesOf(entry.values) });
  return {
    title: payload.title,
    images: payload.images,
    ...rowsOf(payload),
    residues: template.name.length,
    nameOf: namesOf(payload.names),
    template: { ...template, bonded: valuesOf(template.bonded), positions: valuesOf(template.positions) },
    maps: payload.maps.map((map) => ({ ...map, x: valuesOf(map.x), y: valuesOf(map.y) })),
    colours: payload.colours.map(withValues),
    mean: valuesOf(payload.motions.mean),
    axes: payload.motions.axes.map(valuesOf),
    amplitudes: payload.motions.amplitudes.map(valuesOf),
    series: payload.series.map((each) => ({ ...each, frames: each.frames.map(valuesOf) })),
    residueColours: payload.residueColours.map(withValues),
    pictures: payload.pictures.map((each) => ({
      ...each,
      panels: each.panels.map((panel) => valuesOf(panel)),
    })),
  };
}

// The value below which a part of the finite values lies.
function quantile(values, part) {
  const finite = Float32Array.from(values).filter(Number.isFinite).sort();
  if (!finite.length) return NaN;
  return finite[Math.min(finite.length - 1, Math.round(part * (finite.length - 1)))];
}

// A number as a person reads it.
function readable(value) {
  if (!Number.isFinite(value)) return "–";
  if (Number.isInteger(value)) return String(value);
  const size = Math.abs(value);
  return size >= 1000 ? value.toFixed(0) : size >= 0.01 ? String(Number(value.toPrecision(3))) : value.toExponential(1);
}
