"""Settings of `cryoatom train`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import PositiveInt, model_validator

from cryoatom.catalog import DECODERS, ENCODERS, GNN_LAYERS
from cryoatom.config import Settings, setting


class TrainConfig(Settings):
    """Settings of `cryoatom train`."""

    # The paper weighs its regularisers beside a squared error whose normalisation it does not give. Here weights are in
    # nats; the preset keeps the paper's ratios and our size of r2 (docs/decisions.md).
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {
            "beads": "ca",
            "zdim": 8,
            "batch_size": 256,
            "lr": 1e-3,
            "z_lr": 1e-3,
            "wd": 0.0,
            "r0": 0.1,
            "r1": 2.0,
            "r2": 2.0,
            "omega": 0.25,
            "z_prior": 0.0,
            "z_components": 0,
            "warmup": 20,
            "decay": 0.0,
            "held_out": 0.0,
            "patience": 0,
            "z_passes": 0,
            "r2_tolerance": 0.0,
            "num_epochs": 200,
            "fit_beads": False,
            "pose_loss": "expected",
        },
        "prins": {
            "encoder": "cnn",
            "decoder": "mlp",
            "dec_layers": 5,
            "dec_dim": 350,
            "activation": "silu",
            "beads": "ca",
            "fit_beads": False,
            "regularizer": "geometry",
            "output_norm": "mlp",
            "bond_length": 3.8,
            "zdim": 8,
            "lr": 1e-3,
        },
        "cryosphere": {
            "encoder": "mlp",
            "variational": True,
            "decoder": "rigid",
            "segments": "6",
            "tau": 20.0,
            "likelihood": "profiled",
            "beads": "ca",
            "r2": 0.0,
            "zdim": 8,
        },
        "cryofold": {
            "encoder": "mlp",
            "variational": True,
            "decoder": "mlp",
            "dec_layers": 3,
            "dec_dim": 256,
            "residual": True,
            "beads": "cryofold",
            "bond_length": 3.8,
            "r0": 0.0,
            "r2": 0.0,
            "zdim": 1,
            "lr": 1e-3,
            "margin": 25.0,
            "robust": False,
            "restarts": 3,
        },
    }
    sections: ClassVar[dict[str, str]] = {
        "template": "Input and output",
        "uninvert_data": "Images",
        "decoder": "Model",
        "search_epochs": "Search of poses, with --poses esl",
        "num_epochs": "Training",
        "likelihood": "Objective",
        "seed": "Running",
        "dcd": "What is written",
    }

    particles: Path = setting(
        ..., "Particle file: RELION .star, cryoSPARC .cs, or a stack or .txt list of stacks.", argument=True
    )
    template: Path = setting(
        ..., "Structure to start from: mmCIF or PDB, in the frame of the poses where these are known."
    )
    outdir: Path = setting(..., "Folder to write the run to.", flags=("-o", "--outdir"))
    preset: Literal["default", "paper", "prins", "cryosphere", "cryofold"] = setting(
        "default",
        "Whose system to start from: this program's, or that of the paper: of the graph network, Prins et al., "
        "cryoSPHERE, Cryofold.",
    )
    graph: Path | None = setting(None, "Protein graph of `cryoatom graph`; made from the template where absent.")
    poses: Literal["known", "esl"] | Path = setting(
        "known",
        "Where poses come from: known = the particle file; esl = estimated, none of the file's is used; or a file of "
        "them, .star, .cs or cryoDRGN's .pkl.",
        union_mode="left_to_right",
    )
    ctf: Path | None = setting(
        None, "CTF parameters from this file, .star, .cs or cryoDRGN's .pkl [default: the particle file]."
    )
    amp_contrast: float | None = setting(
        None, "Amplitude contrast, where no file has it (or another one than the file's).", ge=0, le=1
    )
    datadir: Path | None = setting(None, "Folder that image names in the particle file are relative to.")
    ind: Path | None = setting(None, "Use only these particles: .npy, .txt or .pkl of zero-based rows.")
    uninvert_data: bool = setting(False, "The protein is bright in the images (else dark, as in raw data).")
    noise: Literal["radial", "white"] = setting(
        "radial", "The noise's power: radial = measured around the particles, for each optics group; white = flat."
    )
    background_radius: float | None = setting(
        None, "The background, for normalisation, lies farther out than this, Å [default: 0.4 of the box].", gt=0
    )

    cache: Path | None = setting(
        None, "Folder for the images in the form that training reads; several runs may share it [default: in --outdir]."
    )

    decoder: Literal[tuple(DECODERS)] = setting(  # pyright: ignore
        "gnn",
        "From latent to conformation: gnn = graph network; mlp = multilayer perceptron; rigid = segments that move "
        "rigidly; linear = motions that are learned; anm = modes of an elastic network; constant = --homogeneous.",
    )
    gnn_layer: Literal[tuple(GNN_LAYERS)] = setting(  # pyright: ignore
        "gcn", "With --decoder gnn: kind of its layers."
    )
    dec_layers: PositiveInt | None = setting(
        None, "Hidden layers of the decoder [default: 16 gcn, 12 gat, 8 sage, gin and mlp, 3 egnn and rigid]."
    )
    dec_dim: PositiveInt | None = setting(
        None, "Their width; a multiple of 4 for gat [default: about 35k weights for ADK, as in the paper]."
    )
    activation: Literal["relu", "silu"] = setting(
        "relu", "Between the layers of --decoder mlp and rigid, and of encoders."
    )
    residual: bool = setting(False, "With --decoder mlp or rigid: skip connections around hidden layers.")
    segments: str = setting(
        "6",
        "With --decoder rigid: how many segments at most; chain:N = N in each chain; A:1-120=3,B:5-90=2 = so many in "
        "these residues, the rest stays in one piece.",
    )
    tau: float = setting(20.0, "With --decoder rigid: how sharply segments part.", gt=0)
    homogeneous: bool = setting(
        False, "One conformation for all images: --decoder constant, and no latents to look at."
    )
    encoder: Literal[tuple(ENCODERS)] = setting(  # pyright: ignore
        "none", "Where latents come from: none = each image has its own; else a network reads them off the image."
    )
    enc_layers: PositiveInt | None = setting(None, "Hidden layers of the encoder [default: 3 mlp, 4 cnn].")
    enc_dim: PositiveInt | None = setting(None, "Width of its last hidden layers [default: 256].")
    variational: bool = setting(False, "With an encoder: latents are random, with a standard normal prior (VAE).")
    beads: Literal["atoms", "two", "ca", "cryofold"] = setting(
        "atoms",
        "How a residue scatters: its atoms; two beads; C-alpha; or Cryofold's free backbone and side chain.",
    )
    start: Literal["template", "random"] | float = setting(
        "template",
        "Where residues start: at the template; that many Å from it, at random along each axis; or anywhere in a cube "
        "of its size.",
        union_mode="left_to_right",
    )
    blur: float = setting(
        0.0, "Beads start wider by this, Å, and narrow over the first half of the run: for starts far off.", ge=0
    )
    output_norm: Literal["scale", "mlp"] = setting(
        "scale", "The scale from electrons to image units: a number, or Prins' network of no input."
    )
    fit_beads: bool = setting(True, "Fit bead masses and widths per residue type (the overall scale is always fitted).")
    crop_pixel: float = setting(
        1.25,
        "Pixel of the crops that training works on, Å; beads are at least 0.98 of it wide. 2 is twice as fast.",
        gt=0,
    )
    diameter: float | None = setting(None, "Diameter of the crops, Å [default: the template's and --margin].", gt=0)
    margin: float = setting(14.0, "Room around the template for motion and for the tails of beads, Å.", ge=0)
    zdim: PositiveInt = setting(8, "Latent dimension.")

    search_epochs: PositiveInt = setting(6, "With --poses esl: first epochs, of classes of conformations and searches.")
    search_images: PositiveInt = setting(10_000, "Images that take part in the search epochs, at most.")
    search_every: int = setting(5, "Then search all poses again every so many epochs; 0: never.", ge=0)
    classes: PositiveInt = setting(12, "Conformations that a search compares with each image.")
    rotations: int = setting(14761, "Rotations of the search's grid.", ge=100)
    search_resolution: float = setting(8.0, "Resolution of the search, Å.", gt=0)
    max_shift: float = setting(
        5.0, "With --poses esl: particles are sought up to so far from the centre of their images, Å.", ge=0
    )
    support: PositiveInt = setting(15, "J0 of ESL: rotations that the measure of an image aims at.")
    eta: float = setting(2 / 3, "η of ESL: how fast that measure shrinks on finer grids.", ge=1 / 4, le=2 / 3)
    esl_order: Literal["next", "last"] = setting(
        "next", "Order statistic that sets ESL's temperature: the cost after the J-th, or the J-th."
    )
    pose_loss: Literal["refined", "expected"] = setting(
        "refined",
        "With --poses esl: refined = searched with shifts and classes, then moved along the gradient; expected = the "
        "papers' way, the cost expected under the measure that ESL finds for each image at each step. Then there are "
        "no shifts: --max-shift is not used and particles must be centred.",
    )
    esl_attached: bool = setting(
        False, "With --pose-loss expected: the gradient runs through ESL's weights too, as in the GNN paper's code."
    )
    pose_lr: float | None = setting(
        None, "Learning rate of poses, degrees; 0: they stay [default: 0 for known poses, 0.6 for esl].", ge=0
    )

    num_epochs: PositiveInt = setting(20, "Passes over the images, at most.", flags=("-n", "--num-epochs"))
    restarts: PositiveInt = setting(
        1,
        "Starting weights to try, 4 epochs each; the run begins at those with the lowest training loss then.",
    )
    batch_size: PositiveInt = setting(64, "Images in a step.", flags=("-b", "--batch-size"))
    lr: float = setting(5e-3, "Learning rate of the network.", gt=0)
    bead_lr: float = setting(1e-2, "Learning rate of bead masses and widths.", gt=0)
    z_lr: float = setting(0.3, "Learning rate of the latents.", gt=0)
    wd: float = setting(0.0, "Weight decay of the network.", ge=0)
    warmup: int = setting(3, "Epochs over which the learning rates rise.", ge=0)
    decay: float = setting(0.4, "Part of the run, at its end, over which the learning rates fall.", ge=0, le=1)
    z_passes: int = setting(
        2,
        "Passes over the latents alone after the last epoch, with an encoder (not --variational) or --z-components 0.",
        ge=0,
    )

    likelihood: Literal["gaussian", "profiled"] = setting(
        "gaussian", "One scale for all images, or each image's own (correlation loss)."
    )
    scale: Literal["dataset", "group"] = setting(
        "dataset", "With --likelihood gaussian: one scale for all images, or one for each optics group."
    )
    robust: bool = setting(True, "Let images that do not fit, junk or wrongly posed ones, weigh less.")
    r0: float = setting(16.0, "Weight of R0, nats/Å²: the conformation stays centred.", ge=0)
    r1: float = setting(330.0, "Weight of R1, nats/Å²: bonded C-alphas keep their distance.", ge=0)
    r2: float = setting(2.0, "Weight of R2, nats: log-distances along the chain.", ge=0)
    regularizer: Literal["rigidity", "geometry"] = setting(
        "rigidity", "R2 of the GNN paper, or Prins' geometry degradation loss in its place."
    )
    geometry: float = setting(100.0, "Weight of the geometry degradation loss, nats: mean over pairs.", ge=0)
    geometry_pairs: Literal["all", "nearest", "subset"] = setting(
        "all", "Its pairs: all; each residue and its nearest ones; or all of some residues, spread over the chain."
    )
    geometry_count: PositiveInt = setting(32, "How many nearest ones, or residues of the subset.")
    bond_length: float | None = setting(None, "Length of bonds in R1, Å [default: each one's in the template].", gt=0)
    clash: float = setting(0.0, "Weight of clashes, nats/Å²: residues apart in the chain come nearer than 4 Å.", ge=0)
    kl: float = setting(1.0, "With --variational: weight of the latents' divergence from their prior.", ge=0)
    omega: float = setting(0.25, "Decay of R2 along the chain, per residue.", ge=0)
    r2_tolerance: float = setting(1e-3, "Pairs of R2 with less weight than this are left out.", ge=0, lt=1)
    z_prior: float = setting(0.0, "Precision of the latents' Gaussian prior, nats.", ge=0)
    z_components: int = setting(
        16,
        "Gaussians that model how all images' latents are distributed, by which each is brought to its posterior mean, "
        "while learning rates fall and at the end; 0: an image's latent is that which fits it best, noise and all.",
        ge=0,
    )
    held_out: float = setting(0.02, "Fraction of images held out to watch for overfitting.", ge=0, le=0.5)
    train_on: Literal["all", "odd", "even"] = setting(
        "all",
        "Images that train the decoder: all, or every other one; all get latents (`analyze --half-sets` uses it).",
    )
    patience: int = setting(
        8, "Let the rates fall and end after so many epochs without gain on held-out images; 0: never.", ge=0
    )

    seed: int = setting(0, "Seed of every random number.", ge=0)
    threads: PositiveInt | None = setting(None, "CPU threads [default: what SLURM and the machine grant].")
    chunk: PositiveInt | None = setting(
        None, "Images that a CPU thread works on at once [default: 32, fewer beyond 2,000 residues]."
    )
    device: str = setting("auto", "auto, cpu, or cuda[:N].")
    amp: bool = setting(False, "Hidden layers of networks in bfloat16; coordinates and likelihood stay in float32.")

    force: bool = setting(False, "Go on although the checks of poses, hand and contrast say that they are wrong.")
    load: Literal["latest"] | Path | None = setting(
        None, "Go on from a checkpoint: a file, or 'latest' in --outdir.", union_mode="left_to_right"
    )
    overwrite: bool = setting(False, "Replace the run that is in the folder.")
    checkpoint: PositiveInt = setting(1, "Save every so many epochs.")
    dcd: bool = setting(True, "Also write the conformations as conformations.dcd.")
    uncertainty: bool = setting(True, "Measure how well each image's conformation is known (uncertainty.npy).")
    analysis: bool = setting(True, "Analyse the run at its end, as `cryoatom analyze` does.")
    pdb: Literal["none", "all"] | PositiveInt | Path = setting(
        "none", "Also write single PDB files: none, all, the first N, or a file of rows.", union_mode="left_to_right"
    )

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if self.overwrite and self.load is not None:
            raise ValueError("--overwrite replaces a run and --load goes on with one: give one of them")
        if self.variational and self.encoder == "none":
            raise ValueError("--variational needs an --encoder: without one latents are points")
        if self.decoder == "constant" and not self.homogeneous:
            raise ValueError("--decoder constant has one conformation for all images: give --homogeneous instead")
        if isinstance(self.start, float) and self.start <= 0:
            raise ValueError(f"--start: a distance in Å is more than 0, found {self.start:g}")
        if self.start != "template" and self.beads in ("atoms", "two"):
            raise ValueError(
                f"--start {self.start} leaves the template behind, and --beads {self.beads} are placed as in it: give "
                "--beads cryofold or --beads ca"
            )
        if self.start != "template" and self.regularizer == "geometry":
            raise ValueError(f"--start {self.start} leaves the template behind: not with --regularizer geometry")
        if self.start != "template" and self.decoder == "anm":
            raise ValueError(f"--start {self.start} leaves the template behind, whose modes --decoder anm moves along")
        if self.decoder == "gnn" and self.gnn_layer == "gat" and (self.dec_dim or 16) % 4:
            raise ValueError(f"--dec-dim: --gnn-layer gat has four heads, so a multiple of 4, found {self.dec_dim}")
        if self.encoder != "none" and self.poses == "esl":
            raise ValueError(
                "--encoder needs known poses, or those of an earlier run: first train with --poses esl, then give its "
                "poses.star with --poses"
            )
        if self.restarts > 1 and self.poses == "esl" and not self.homogeneous:
            raise ValueError(
                f"--restarts {self.restarts} tells starts apart by their first epochs, which --poses esl spends on "
                "poses: give --restarts 1, or first train with --poses esl, then give its poses.star with --poses"
            )
        if self.scale == "group" and self.likelihood == "profiled":
            raise ValueError("--scale group has no meaning with --likelihood profiled: each image has its own scale")
        if self.scale == "group" and self.poses == "esl" and self.pose_loss == "expected":
            raise ValueError("--scale group needs a pose for each image: not with --pose-loss expected")
        return self
