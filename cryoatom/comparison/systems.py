"""The systems that can be compared: each a name, a sentence, and settings of `cryoatom train`. A new one is one line.

Weights of regularisers are in nats; the papers' own have another normalisation (docs/decisions.md).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryoatom.config import read_mapping
from cryoatom.train_config import TrainConfig

_EXPECTED = r"names, and below each settings of `cryoatom train`, as in 'mine:\n  lr: 0.01'"
_OF_ALL = ("ind", "train_on")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")  # it becomes the name of a folder


@dataclass(frozen=True)
class System:
    """A way to fit conformations.

    Parameters
    ----------
    name : str
        As the user types it.
    text : str
        What it is, in one sentence.
    settings : mapping
        Of :class:`~cryoatom.train_config.TrainConfig`, where they are not the defaults.
    """

    name: str
    text: str
    settings: Mapping[str, Any] = field(default_factory=dict)


# The paper warms up for 20 of 200 epochs; a comparison has 20, of which its systems warm up for 3 as the others do.
SYSTEMS = {
    system.name: system
    for system in (
        System("gnn", "Graph network over the residues; a latent for each image. The default of `train`."),
        System("gnn-no-r2", "The same without R2, the rigidity along the chain.", {"r2": 0.0}),
        System("mlp", "Multilayer perceptron in the graph network's place.", {"decoder": "mlp"}),
        System("mlp-no-r2", "The same without R2.", {"decoder": "mlp", "r2": 0.0}),
        System("gat", "Graph network with attention.", {"gnn_layer": "gat"}),
        System("sage", "Graph network of GraphSAGE layers.", {"gnn_layer": "sage"}),
        System("gin", "Graph network of GIN layers that know the kinds of bonds.", {"gnn_layer": "gin"}),
        System("egnn", "Graph network equivariant to rotations and translations.", {"gnn_layer": "egnn"}),
        System("gnn-ca", "The graph network, one bead for each residue.", {"beads": "ca"}),
        System("linear", "Linear: eight motions that are learned.", {"decoder": "linear", "zdim": 8}),
        System("gnn-no-denoising", "The graph network, latents as single images have them.", {"z_components": 0}),
        System("anm", "Linear: eight modes of an elastic network of the template.", {"decoder": "anm", "zdim": 8}),
        System("paper-gnn", "The GNN paper's graph network with its hyperparameters, but a short warm-up.",
               {"preset": "paper", "warmup": 3}),
        System("paper-mlp", "The GNN paper's perceptron with its hyperparameters, but a short warm-up.",
               {"preset": "paper", "decoder": "mlp", "warmup": 3}),
        System("prins", "Prins et al.: convolutional encoder, perceptron, geometry loss.", {"preset": "prins"}),
        System("prins-no-geometry", "The same without the geometry loss.", {"preset": "prins", "geometry": 0.0}),
        System("cryosphere", "cryoSPHERE: segments move rigidly; variational encoder, correlation loss.",
               {"preset": "cryosphere"}),
        System("cryosphere-autodecoder", "The same segments; a latent for each image.",
               {"preset": "cryosphere", "encoder": "none", "variational": False}),
        System("cryofold", "Cryofold: backbone and side-chain beads, variational encoder, one latent.",
               {"preset": "cryofold", "restarts": 1}),  # the same epochs for all
    )
}  # fmt: skip


def choose_systems(names: Iterable[str], file: Path | None = None) -> list[System]:
    """Return the systems with some names, and all of a file.

    Parameters
    ----------
    names : iterable of str
    file : Path, optional
        YAML: a name, and below it settings of `cryoatom train`.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        For an unknown name or setting (the nearest known one is suggested), or a file that is none of systems.
    """
    own = {} if file is None else {system.name: system for system in read_systems(file)}
    known = {**SYSTEMS, **own}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"unknown system {unknown[0]!r}; {suggestion(unknown[0], known)}")
    return [known[name] for name in dict.fromkeys((*names, *own))]


def read_systems(file: Path) -> list[System]:
    """Read systems from a YAML file; errors as :func:`choose_systems`."""
    content = read_mapping(file, kind="file of systems", expected=_EXPECTED)
    if not content or not all(isinstance(each, dict | None) for each in content.values()):
        raise ValueError(f"{file} must hold {_EXPECTED}")
    return [_own_system(str(name), settings or {}, file) for name, settings in content.items()]


def _own_system(name: str, settings: Mapping[str, Any], file: Path) -> System:
    if name in SYSTEMS:
        raise ValueError(f"{file}: there is a system {name!r} already; give yours another name")
    if not _NAME.fullmatch(name):
        raise ValueError(f"{file}: {name!r} becomes the name of a folder: use letters, digits, '.', '_' and '-'")
    settings = {str(key).replace("-", "_"): value for key, value in settings.items()}
    for key in settings:
        if key not in TrainConfig.model_fields:
            known = suggestion(key, TrainConfig.model_fields)
            raise ValueError(f"unknown setting {key!r} of system {name!r} in {file}; {known}")
        if key in _OF_ALL:
            raise ValueError(
                f"{file}: {key} of system {name!r} chooses its images, and figures over other images do not compare: "
                f"give it for all systems, after --, as in -- --{key.replace('_', '-')} {settings[key]}"
            )
    return System(name, f"From {file.name}.", settings)


def suggestion(name: str, known: Collection[str]) -> str:
    """Say which known name is meant, or which there are."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
