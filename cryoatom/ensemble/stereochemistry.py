"""Clashes, bonds and angles of an ensemble's C-alphas, beside those of a reference."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from cryoatom.particles.rows import spaced_rows
from cryoatom.structure.alpha_geometry import Geometry, chain_geometry

SAMPLE = 2000


def measure_geometry(
    conformations: Float[np.ndarray, "images residues 3"],
    template_positions: Float[np.ndarray, "residues 3"],
    chain_position: Int[np.ndarray, " residues"],
    *,
    rows: Int[np.ndarray, " rows"] | None = None,
    sample: int = SAMPLE,
) -> Geometry:
    """Measure at most `sample` evenly spaced conformations, a block at a time; `rows` of the result says which.

    Parameters
    ----------
    conformations : (images, residues, 3)
        C-alphas, Å; may be mapped into memory.
    template_positions, chain_position
        Of the template, as :func:`~cryoatom.structure.alpha_geometry.chain_geometry`.
    rows : (rows,), optional
        Choose from these; from all by default.
    sample : int
    """
    rows = np.arange(len(conformations)) if rows is None else rows
    chosen = rows[spaced_rows(len(rows), sample)]
    return chain_geometry(conformations, template_positions, chain_position, rows=chosen)


def geometry_of(positions: Float[np.ndarray, "residues 3"], chain_position: Int[np.ndarray, " residues"]) -> Geometry:
    """Measure one structure, its bonds against themselves: the template, as a reference."""
    return chain_geometry(positions[None], positions, chain_position)
