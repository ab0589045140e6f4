// Colours of points and residues.

const WARMTH = ["#3b6fb6", "#8fc1d9", "#f4eac2", "#f0a04b", "#c8321e"]; // of residues, light enough to be shaded
const CLASS_COLOURS = [
  "#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#8c6d00", "#7b4fa3", "#a6d854", "#e7298a",
  "#1b6b5a", "#b3722b", "#4d6fff", "#f2a7a0", "#6b6b6b", "#9b1c31", "#2fd0c8", "#c9b700", "#5a3d2b", "#b79cff",
];
const UNKNOWN = "#c4c8ce";

function classColour(index) {
  if (index < CLASS_COLOURS.length) return CLASS_COLOURS[index];
  return hslToHex((index * 137.508) % 360, index % 2 ? 0.45 : 0.65, index % 3 ? 0.42 : 0.62);
}

function hslToHex(hue, saturation, lightness) {
  const channel = (n) => {
    const k = (n + hue / 30) % 12;
    const value = lightness - saturation * Math.min(lightness, 1 - lightness) * Math.max(-1, Math.min(k - 3, 9 - k, 1));
    return Math.round(255 * value).toString(16).padStart(2, "0");
  };
  return "#" + channel(0) + channel(8) + channel(4);
}

function rgbOf(hex) {
  return { r: parseInt(hex.slice(1, 3), 16) / 255, g: parseInt(hex.slice(3, 5), 16) / 255, b: parseInt(hex.slice(5, 7), 16) / 255 };
}

const WARMTH_RGB = WARMTH.map(rgbOf);

// From blue (0) to red (1).
function warmth(part) {
  if (!Number.isFinite(part)) return rgbOf(UNKNOWN);
  const place = Math.min(Math.max(part, 0), 1) * (WARMTH_RGB.length - 1);
  const i = Math.min(Math.floor(place), WARMTH_RGB.length - 2);
  const [a, b, mix] = [WARMTH_RGB[i], WARMTH_RGB[i + 1], place - i];
  return { r: a.r + mix * (b.r - a.r), g: a.g + mix * (b.g - a.g), b: a.b + mix * (b.b - a.b) };
}

// Colours of residues, and their legend: {classes: [[label, colour]]} or {low, high}.
function residuePaint(entry) {
  if (entry.kind === "classes") {
    const colours = entry.classes.map((_, index) => rgbOf(classColour(index)));
    const used = new Set(entry.values);
    return {
      colours: Array.from(entry.values, (code) => colours[code]),
      legend: { classes: entry.classes.map((label, i) => [label, classColour(i)]).filter((_, i) => used.has(i)) },
    };
  }
  const low = entry.low ?? quantile(entry.values, 0);
  const high = Math.max(entry.high ?? quantile(entry.values, 1), low + 1e-6);
  return { colours: Array.from(entry.values, (v) => warmth((v - low) / (high - low))), legend: { low, high } };
}

// Write a legend of residues into an element.
function drawLegend(element, legend) {
  element.replaceChildren();
  if (legend.classes) {
    for (const [label, colour] of legend.classes) {
      const chip = document.createElement("span");
      chip.className = "chip";
      const swatch = document.createElement("i");
      swatch.style.background = colour;
      chip.append(swatch, label);
      element.append(chip);
    }
    return;
  }
  const [low, bar, high] = ["span", "i", "span"].map((tag) => document.createElement(tag));
  bar.className = "gradient";
  bar.style.background = "linear-gradient(90deg," + WARMTH.join(",") + ")";
  low.textContent = readable(legend.low);
  high.textContent = readable(legend.high);
  element.append(low, bar, high);
}
