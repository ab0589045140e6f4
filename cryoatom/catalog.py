"""What `--decoder`, `--gnn-layer` and `--encoder` can be, and where: a new one is one file and one line here.

Only names: nothing is imported before it is asked for, so that the command line starts without torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

DECODERS = {
    "gnn": "cryoatom.decoders.gnn:build_gnn",
    "mlp": "cryoatom.decoders.mlp:build_mlp",
    "anm": "cryoatom.decoders.anm:build_anm",
    "constant": "cryoatom.decoders.constant:build_constant",
    "rigid": "cryoatom.decoders.rigid:build_rigid",
    "linear": "cryoatom.decoders.linear:build_linear",
}
ENCODERS = {
    "none": "",
    "mlp": "cryoatom.encoders.mlp:build_mlp",
    "cnn": "cryoatom.encoders.cnn:build_cnn",
}
GNN_LAYERS = {
    "gcn": "cryoatom.decoders.layers.gcn:build_gcn",
    "gat": "cryoatom.decoders.layers.gat:build_gat",
    "sage": "cryoatom.decoders.layers.sage:build_sage",
    "gin": "cryoatom.decoders.layers.gin:build_gin",
    "egnn": "cryoatom.decoders.layers.egnn:build_egnn",
}


def load(catalog: Mapping[str, str], name: str) -> Callable[..., Any]:
    """Return what a name of a catalog stands for."""
    module, function = catalog[name].split(":")
    return getattr(import_module(module), function)
