// Least-squares superposition by quaternions: Horn, J. Opt. Soc. Am. A 4 (1987) 629.

const SQUARINGS = 40; // of the matrix: what is left is its largest eigenvector, unless others are as large

// Coordinates, moved onto others by the best rigid motion.
function superposed(coordinates, target) {
  const [from, to] = [centreOf(coordinates), centreOf(target)];
  const rotation = rotationOf(largestEigenvector(hornMatrix(coordinates, from, target, to)));
  const moved = new Float32Array(coordinates.length);
  for (let i = 0; i < moved.length; i += 3) {
    for (let c = 0; c < 3; c++) {
      moved[i + c] = to[c] + rotation[c].reduce((sum, value, k) => sum + value * (coordinates[i + k] - from[k]), 0);
    }
  }
  return moved;
}

// How far each residue lies from where it lies in another conformation, after superposition, Å.
function deviation(coordinates, target) {
  return displacement(superposed(coordinates, target), target);
}

// Root mean square deviation after superposition, Å.
function rmsd(coordinates, target) {
  return rootMeanSquare(deviation(coordinates, target));
}

function centreOf(coordinates) {
  const sum = [0, 0, 0];
  coordinates.forEach((value, i) => (sum[i % 3] += value));
  return sum.map((value) => (3 * value) / coordinates.length);
}

// The symmetric matrix whose largest eigenvector is the quaternion of the best rotation.
function hornMatrix(coordinates, from, target, to) {
  const s = [0, 1, 2].map(() => [0, 0, 0]);
  for (let i = 0; i < coordinates.length; i += 3) {
    for (let a = 0; a < 3; a++) {
      for (let b = 0; b < 3; b++) s[a][b] += (coordinates[i + a] - from[a]) * (target[i + b] - to[b]);
    }
  }
  const [[xx, xy, xz], [yx, yy, yz], [zx, zy, zz]] = s;
  return [
    [xx + yy + zz, yz - zy, zx - xz, xy - yx],
    [yz - zy, xx - yy - zz, xy + yx, zx + xz],
    [zx - xz, xy + yx, yy - xx - zz, yz + zy],
    [xy - yx, zx + xz, yz + zy, zz - xx - yy],
  ];
}

function largestEigenvector(symmetric) {
  const shift = Math.hypot(...symmetric.flat()) || 1; // no eigenvalue is negative then
  let power = symmetric.map((row, i) => row.map((value, j) => value + (i === j ? shift : 0)));
  for (let step = 0; step < SQUARINGS; step++) {
    const trace = power.reduce((sum, row, i) => sum + row[i], 0);
    const scaled = power.map((row) => row.map((value) => value / trace));
    power = scaled.map((row) => scaled.map((other) => row.reduce((sum, value, k) => sum + value * other[k], 0)));
  }
  const diagonal = power.map((row, i) => row[i]);
  return unit(power[diagonal.indexOf(Math.max(...diagonal))]);
}

function rotationOf([w, x, y, z]) {
  return [
    [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
    [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
    [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
  ];
}
