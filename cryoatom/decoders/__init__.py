"""Decoders map `(batch, latent)` to displacements `(batch, residues, 3)`; a new system is one file and one entry."""

from cryoatom.decoders.gcn import build_gcn
from cryoatom.decoders.mlp import build_mlp

DECODERS = {"gcn": build_gcn, "mlp": build_mlp}
