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
    "constant": "cryoatom.decoders.constant:build_constant",
}
ENCODERS = {
    "none": "",
    "mlp": "cryoatom.encoders.mlp:build_mlp",
}
GNN_LAYERS = {
    "gcn": "cryoatom.decoders.gnn:GCNLayer",
}


def load(catalog: Mapping[str, str], name: str) -> Callable[..., Any]:
    """Return what a name of a catalog stands for."""
    module, function = catalog[name].split(":")
    return getattr(import_module(module), function)
