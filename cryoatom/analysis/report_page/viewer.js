// The 3-D viewer: a tube along the C-alphas, and a grey one to compare it with.

const THIN = 0.5; // radius of a tube, Å
const GREY = { r: 0.72, g: 0.74, b: 0.77 };

function hasWebGL() {
  const context = ["webgl2", "webgl"].map((name) => document.createElement("canvas").getContext(name)).find(Boolean);
  context?.getExtension("WEBGL_lose_context")?.loseContext();
  return Boolean(context);
}

class Viewer {
  constructor(element, data) {
    this.data = data;
    this.element = element;
    this.parts = stretches(data.template.bonded);
    this.steps = data.residues <= 600 ? 5 : data.residues <= 2000 ? 3 : 1;
    this.shapes = { main: [], grey: [] };
    this.viewer = $3Dmol.createViewer(element, { backgroundColor: "white", antialias: true });
    this.viewer.setHoverDuration(80);
    this.model = this.viewer.addModel();
    this.model.addAtoms(
      data.template.name.map((resn, i) => ({
        elem: "C", atom: "CA", resn, chain: data.template.chain[i], resi: data.template.number[i],
        x: data.mean[3 * i], y: data.mean[3 * i + 1], z: data.mean[3 * i + 2], index: i, bonds: [], bondOrder: [],
      })),
    );
    this.atoms = this.model.selectedAtoms({});
    this.model.setHoverable({}, true, (atom) => this.nameAtom(atom), () => this.viewer.removeAllLabels());
    this.isZoomed = false;
  }

  nameAtom(atom) {
    const text = `${atom.resn} ${atom.resi}${this.data.template.code[atom.index] ?? ""} · chain ${atom.chain}`;
    this.viewer.removeAllLabels();
    this.viewer.addLabel(text, { position: atom, fontSize: 13, backgroundColor: "#1f2a37", inFront: true });
  }

  // Show a conformation; the tube is as thick as `spread` says.
  show(coordinates, colours, spread) {
    this.atoms.forEach((atom, i) => ([atom.x, atom.y, atom.z] = coordinates.subarray(3 * i, 3 * i + 3)));
    this.model.setStyle({}, { clicksphere: { radius: 1.6 } });
    const radius = new Float32Array(this.data.residues).fill(THIN);
    if (spread) spread.forEach((value, i) => (radius[i] = THIN + Math.min(value, 4) / 2));
    this.redraw("main", coordinates, radius, colours);
    if (!this.isZoomed) this.reset();
    this.viewer.render();
  }

  // Show a grey conformation behind it; none without coordinates.
  compare(coordinates) {
    const radius = new Float32Array(this.data.residues).fill(0.6 * THIN);
    this.redraw("grey", coordinates, radius, Array(this.data.residues).fill(GREY));
    this.viewer.render();
  }

  redraw(name, coordinates, radius, colours) {
    this.shapes[name].forEach((shape) => this.viewer.removeShape(shape));
    this.shapes[name] = coordinates ? this.parts.flatMap((part) => this.draw(coordinates, part, radius, colours)) : [];
  }

  draw(coordinates, part, radius, colours) {
    const [first, last] = part;
    if (first === last) {
      const [x, y, z] = coordinates.subarray(3 * first, 3 * first + 3);
      return [this.viewer.addSphere({ center: { x, y, z }, radius: 1.5 * radius[first], color: colours[first] })];
    }
    return tubePieces(coordinates, part, radius, colours, this.steps).map((mesh) => this.viewer.addCustom(mesh));
  }

  // Show the whole molecule.
  reset() {
    this.isZoomed = true;
    this.viewer.zoomTo({}, 0);
    const { clientWidth, clientHeight } = this.element;
    this.viewer.zoom(1.25 * Math.min(1, clientWidth / Math.max(clientHeight, 1))); // 3Dmol fits the height alone
    this.viewer.render();
  }

  coordinates() {
    return this.atoms.flatMap(({ x, y, z }) => [x, y, z]);
  }
}
