// Conformations: those of images, their means, tubes along the chain, and PDB files.

// The conformation of amplitudes along the axes: mean + sum of amplitude times axis.
function conformationOf(data, amplitudes) {
  const result = new Float32Array(data.mean);
  data.axes.forEach((axis, k) => {
    for (let i = 0; i < result.length; i++) result[i] += amplitudes[k] * axis[i];
  });
  return result;
}

function conformationOfImage(data, image) {
  return conformationOf(data, data.amplitudes.map((values) => values[image]));
}

// The mean conformation of some images, and the standard deviation of each residue among them, Å.
function conformationOfImages(data, images) {
  const count = data.axes.length;
  const mean = data.amplitudes.map((values) => images.reduce((sum, image) => sum + values[image], 0) / images.length);
  const covariance = Array.from({ length: count }, () => new Float64Array(count));
  for (const image of images) {
    for (let k = 0; k < count; k++) {
      for (let l = 0; l <= k; l++) {
        covariance[k][l] += (data.amplitudes[k][image] - mean[k]) * (data.amplitudes[l][image] - mean[l]);
      }
    }
  }
  const spread = new Float32Array(data.residues);
  for (let i = 0; i < data.residues; i++) {
    let variance = 0;
    for (let k = 0; k < count; k++) {
      for (let l = 0; l <= k; l++) {
        let dot = 0;
        for (let c = 3 * i; c < 3 * i + 3; c++) dot += data.axes[k][c] * data.axes[l][c];
        variance += (k === l ? 1 : 2) * covariance[k][l] * dot;
      }
    }
    spread[i] = Math.sqrt(Math.max(variance, 0) / images.length);
  }
  return { coordinates: conformationOf(data, mean), spread };
}

// How far each residue lies from where it lies in another conformation, Å.
function displacement(coordinates, other) {
  const distances = new Float32Array(coordinates.length / 3);
  for (let i = 0; i < distances.length; i++) {
    distances[i] = Math.hypot(...[0, 1, 2].map((c) => coordinates[3 * i + c] - other[3 * i + c]));
  }
  return distances;
}

function rootMeanSquare(values) {
  return Math.sqrt(values.reduce((sum, value) => sum + value * value, 0) / values.length);
}

// [first, last] residue of each stretch without a chain break.
function stretches(bonded) {
  const result = [];
  let start = 0;
  for (let i = 0; i <= bonded.length; i++) {
    if (i === bonded.length || !bonded[i]) {
      result.push([start, i]);
      start = i + 1;
    }
  }
  return result;
}

const SIDES = 8; // of a tube
const RINGS_IN_PIECE = 4000; // the renderer holds 65,536 vertices in a piece

// Meshes of a tube through the residues of one stretch; radius and colour of each residue.
function tubePieces(coordinates, [first, last], radius, colours, steps) {
  const at = (i, c) => coordinates[3 * Math.min(Math.max(i, first), last) + c];
  const points = [];
  for (let i = first; i <= last; i++) {
    for (let step = 0; step < (i < last ? steps : 1); step++) {
      const t = step / steps;
      const place = [0, 1, 2].map((c) => spline(at(i - 1, c), at(i, c), at(i + 1, c), at(i + 2, c), t));
      const next = Math.min(i + 1, last);
      points.push({ place, radius: radius[i] + t * (radius[next] - radius[i]), colour: colours[t < 0.5 ? i : next] });
    }
  }
  const rings = ringsAround(points);
  const pieces = [];
  for (let start = 0; start < rings.length - 1; start += RINGS_IN_PIECE) {
    pieces.push(meshOf(rings.slice(start, start + RINGS_IN_PIECE + 1)));
  }
  return pieces;
}

// Catmull and Rom's spline through b (t = 0) and c (t = 1).
function spline(a, b, c, d, t) {
  return 0.5 * (2 * b + t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * b - a - 3 * c + d))));
}

// Rings of points around a curve; each ring's normal is the one before, turned as little as may be.
function ringsAround(points) {
  let normal = null;
  return points.map((point, i) => {
    const [before, after] = [points[Math.max(i - 1, 0)].place, points[Math.min(i + 1, points.length - 1)].place];
    const along = unit(after.map((value, c) => value - before[c]));
    const start = normal ?? (Math.abs(along[0]) < 0.8 ? [1, 0, 0] : [0, 1, 0]);
    const part = start[0] * along[0] + start[1] * along[1] + start[2] * along[2];
    normal = unit(start.map((value, c) => value - part * along[c]));
    const other = [
      along[1] * normal[2] - along[2] * normal[1],
      along[2] * normal[0] - along[0] * normal[2],
      along[0] * normal[1] - along[1] * normal[0],
    ];
    const directions = Array.from({ length: SIDES }, (_, side) => {
      const [cos, sin] = [Math.cos((2 * Math.PI * side) / SIDES), Math.sin((2 * Math.PI * side) / SIDES)];
      return normal.map((value, c) => cos * value + sin * other[c]);
    });
    return { ...point, directions };
  });
}

function unit(vector) {
  const length = Math.hypot(...vector) || 1;
  return vector.map((value) => value / length);
}

function meshOf(rings) {
  const mesh = { vertexArr: [], normalArr: [], faceArr: [], color: [] };
  for (const { place, radius, colour, directions } of rings) {
    for (const n of directions) {
      mesh.vertexArr.push({ x: place[0] + radius * n[0], y: place[1] + radius * n[1], z: place[2] + radius * n[2] });
      mesh.normalArr.push({ x: n[0], y: n[1], z: n[2] });
      mesh.color.push(colour);
    }
  }
  for (let ring = 0; ring < rings.length - 1; ring++) {
    for (let side = 0; side < SIDES; side++) {
      const [a, b] = [ring * SIDES + side, ring * SIDES + ((side + 1) % SIDES)];
      mesh.faceArr.push(a, b, a + SIDES, b, b + SIDES, a + SIDES);
    }
  }
  for (const [ring, turn] of [[0, 1], [rings.length - 1, -1]]) {
    for (let side = 1; side < SIDES - 1; side++) {
      const corners = [ring * SIDES, ring * SIDES + side + 1, ring * SIDES + side];
      mesh.faceArr.push(...(turn > 0 ? corners : corners.reverse()));
    }
  }
  return mesh;
}

const CHAIN_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

// The PDB format has one letter for a chain: names of several become a free letter.
function chainLetters(chains) {
  const letters = new Map();
  for (const chain of chains) if (chain.length === 1) letters.set(chain, chain);
  for (const chain of chains) {
    if (letters.has(chain)) continue;
    const free = [...(chain + CHAIN_LETTERS)].find((c) => CHAIN_LETTERS.includes(c) && ![...letters.values()].includes(c));
    letters.set(chain, free ?? " ");
  }
  return letters;
}

// A PDB file of C-alphas; `spread` goes into the B column.
function pdbOf(template, coordinates, remarks, spread) {
  const letters = chainLetters(template.chain);
  const lines = remarks.map((text) => ("REMARK   3 " + text.replace(/[^ -~]/g, "?")).slice(0, 80));
  const atoms = template.name.length;
  for (let i = 0; i < atoms; i++) {
    const place = [0, 1, 2].map((c) => coordinates[3 * i + c].toFixed(3).padStart(8)).join("");
    const value = Math.min(spread ? spread[i] : 0, 999.99).toFixed(2).padStart(6);
    const serial = String((i + 1) % 100000).padStart(5);
    const number = String(template.number[i] % 10000).padStart(4);
    const chain = letters.get(template.chain[i]);
    lines.push(
      `ATOM  ${serial}  CA  ${template.name[i].slice(0, 3).padStart(3)} ${chain}${number}` +
        `${(template.code[i] || " ").slice(0, 1)}   ${place}  1.00${value}           C`,
    );
    if (i === atoms - 1 || template.chain[i + 1] !== template.chain[i]) lines.push("TER");
  }
  return lines.join("\n") + "\nEND\n";
}
