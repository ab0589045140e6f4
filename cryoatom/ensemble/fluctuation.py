"""How far each residue moves."""

from __future__ import annotations

import numpy as np
import torch

from cryoatom.ensemble.sampling import drawn_sample
from cryoatom.structure.superpose import superpose


def fluctuations(
    conformations: np.ndarray, mean: np.ndarray, *, rows: np.ndarray | None = None, sample: int = 2000
) -> np.ndarray:
    """Return the root mean square fluctuation (RMSF) of each C-alpha about the mean after superposition.

    Parameters
    ----------
    conformations : (images, residues, 3)
        Å; may be mapped into memory.
    mean : (residues, 3)
        Å; every conformation is superposed on it with equal weights.
    rows : (n,) int, optional
        Images that count; all by default.
    sample : int
        At most so many images, spread over the file.

    Returns
    -------
    (residues,) float64
        Å.
    """
    drawn = torch.from_numpy(drawn_sample(conformations, rows, sample))
    middle = torch.from_numpy(np.asarray(mean, dtype=np.float64))
    squares = torch.zeros(len(middle), dtype=torch.float64)
    at_once = max(1, 200_000 // max(1, len(middle)))
    for part in drawn.split(at_once):
        squares += (superpose(part, middle) - middle).square().sum(dim=(0, 2))
    return (squares / len(drawn)).sqrt().numpy()
