"""Settings: one field is one option. Defaults < preset < configuration file < command line."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, model_validator

from cryoatom import __version__

_NOT_YAML = (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, OverflowError, RecursionError)
_SHOWN = 300  # characters of a wrong value in an error message

RECORDED = ("cmd", "version", "time")  # what a run's file says about the run: ignored when read


def setting(default: Any, text: str, *, flags: tuple[str, ...] = (), argument: bool = False, **bounds: Any) -> Any:
    """Describe one setting.

    Parameters
    ----------
    default : object
        The default, or ``...`` for a setting that must be given.
    text : str
        The help text, for the command line and the documentation.
    flags : tuple of str
        Option names where the field's own (``--num-epochs``) is not enough.
    argument : bool
        Whether the command line takes it as a positional argument.
    **bounds
        pydantic's ``ge``, ``gt``, ``le``, ``lt``, ``union_mode``.
    """
    extra = {"flags": list(flags), "argument": argument}
    return Field(default, description=text, json_schema_extra=extra, **bounds)


class Settings(BaseModel):
    """Base of every command's settings: frozen, and unknown names are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True)
    presets: ClassVar[dict[str, dict[str, Any]]] = {}
    sections: ClassVar[dict[str, str]] = {}  # first field of each part of the help -> its heading

    @classmethod
    def merge(cls, flags: Mapping[str, Any], config: Path | None = None) -> Self:
        """Build the settings from the preset, a configuration file and the flags that were given.

        Parameters
        ----------
        flags : mapping
            Field name -> value, only for the options that the user gave.
        config : Path, optional
            A YAML file, for instance a run's config.yaml.

        Raises
        ------
        ValueError
            For an unknown or missing setting, or a value out of bounds; says which, and in which file.
        """
        from_file = {} if config is None else load_config(config, cls)
        given = {**from_file, **flags}
        name = given.get("preset", "default")
        merged = {**cls.presets.get(name, {}), **given}
        try:
            return cls.model_validate(merged)
        except ValidationError as error:
            in_file = config if _blames_file(error, from_file, flags) else None
            raise ValueError(_explain(error, cls, in_file)) from None

    def to_yaml(self, command: list[str]) -> str:
        """Return the settings as YAML, with the command line, version and time; `merge` reads it back.

        Paths are absolute, so that the file means the same from every folder.
        """
        record = {"cmd": command, "version": __version__, "time": datetime.now().isoformat(timespec="seconds")}
        settings = {name: _plain(getattr(self, name)) for name in type(self).model_fields}
        return yaml.safe_dump({**record, **settings}, sort_keys=False)


def load_config(path: Path, model: type[Settings]) -> dict[str, Any]:
    """Read a YAML file of settings of `model`, unvalidated but with every name known.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not a YAML mapping, or has an unknown name (the nearest known one is suggested).
    """
    content = _read_mapping(path)
    settings = {str(name): value for name, value in content.items() if name not in RECORDED}
    for name in settings:
        if name not in model.model_fields:
            near = difflib.get_close_matches(name.replace("-", "_"), list(model.model_fields), n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(model.model_fields)}"
            raise ValueError(f"unknown setting {_shortened(name)} in {path}; {hint}")
    return settings


def recorded_command(path: Path) -> list[object]:
    """Return the command line that a run's configuration file tells of."""
    command = _read_mapping(path).get("cmd")
    return command if isinstance(command, list) else []


def _read_mapping(path: Path) -> dict[Any, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"no configuration file {path}")
    try:
        content = _PlainLoader(path.read_text(encoding="utf-8")).get_single_data()
    except _NOT_YAML as error:
        raise ValueError(f"{path} is not a YAML file: {_yaml_problem(error)}") from None
    if not isinstance(content, dict | None):
        raise ValueError(f"{path} must hold lines like 'batch_size: 256', found a {type(content).__name__}")
    return content or {}


def _yaml_problem(error: Exception) -> str:
    """Say what is wrong and in which line, without the parser's drawing of the place."""
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    if mark is None or problem is None:
        return " ".join(str(error).split())[:_SHOWN]
    return f"{problem[:_SHOWN]} in line {mark.line + 1}"


class _PlainLoader(yaml.SafeLoader):
    """Reads plain values: nothing is run, and a few lines of aliases cannot unfold to gigabytes."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("settings have no aliases (*name)")
        return super().compose_node(parent, index)


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value.absolute())
    return list(value) if isinstance(value, tuple) else value


def _blames_file(error: ValidationError, from_file: Mapping[str, Any], flags: Mapping[str, Any]) -> bool:
    names = [issue["loc"][0] for issue in error.errors() if issue["loc"]]
    return any(name in from_file and name not in flags for name in names)


def _explain(error: ValidationError, model: type[Settings], config: Path | None) -> str:
    """Turn pydantic's report into one line."""
    missing = [_option(str(issue["loc"][0]), model) for issue in error.errors() if issue["type"] == "missing"]
    reasons: dict[str, str] = {}  # a union reports once for each of its types: the first is enough
    for issue in error.errors():
        if issue["type"] != "missing":
            reason = issue["msg"].removeprefix("Value error, ")
            if not issue["loc"]:  # of several settings together
                return reason
            name = str(issue["loc"][0])
            reasons.setdefault(name, f"{name}: {reason[0].lower()}{reason[1:]}, found {_shortened(issue['input'])}")
    if missing:
        return f"not given, on the command line or by --config: {', '.join(missing)}"
    return "; ".join(reasons.values()) + (f" (in {config})" if config else "")


def _option(name: str, model: type[Settings]) -> str:
    extra = model.model_fields[name].json_schema_extra
    is_argument = isinstance(extra, dict) and extra.get("argument")
    return name.upper() if is_argument else f"--{name.replace('_', '-')}"


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
            "warmup": 20,
            "decay": 0.0,
            "held_out": 0.0,
            "patience": 0,
            "z_passes": 0,
            "r2_tolerance": 0.0,
            "num_epochs": 200,
            "fit_beads": False,
            "pose_loss": "expected",
        }
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
    preset: Literal["default", "paper"] = setting("default", "Whose hyperparameters to start from.")
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

    decoder: Literal["gcn", "mlp"] = setting("gcn", "Network from latent to conformation.")
    beads: Literal["atoms", "two", "ca"] = setting("atoms", "How a residue scatters: its atoms, two beads, C-alpha.")
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
    batch_size: PositiveInt = setting(64, "Images in a step.", flags=("-b", "--batch-size"))
    lr: float = setting(5e-3, "Learning rate of the network.", gt=0)
    bead_lr: float = setting(1e-2, "Learning rate of bead masses and widths.", gt=0)
    z_lr: float = setting(0.3, "Learning rate of the latents.", gt=0)
    wd: float = setting(0.0, "Weight decay of the network.", ge=0)
    warmup: int = setting(3, "Epochs over which the learning rates rise.", ge=0)
    decay: float = setting(0.4, "Part of the run, at its end, over which the learning rates fall.", ge=0, le=1)
    z_passes: int = setting(2, "Passes over the latents alone after the last epoch.", ge=0)

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
    omega: float = setting(0.25, "Decay of R2 along the chain, per residue.", ge=0)
    r2_tolerance: float = setting(1e-3, "Pairs of R2 with less weight than this are left out.", ge=0, lt=1)
    z_prior: float = setting(0.0, "Precision of the latents' Gaussian prior, nats.", ge=0)
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
    chunk: PositiveInt = setting(32, "Images that a CPU thread works on at once.")
    device: str = setting("auto", "auto, cpu, or cuda[:N].")

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
        if self.scale == "group" and self.likelihood == "profiled":
            raise ValueError("--scale group has no meaning with --likelihood profiled: each image has its own scale")
        if self.scale == "group" and self.poses == "esl" and self.pose_loss == "expected":
            raise ValueError("--scale group needs a pose for each image: not with --pose-loss expected")
        return self
