"""What a run of `--decoder rigid` writes about its segments: a table, colours for ChimeraX, and G."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float

from cryoatom.decoders.decoder import Decoder
from cryoatom.decoders.rigid import RigidDecoder
from cryoatom.files.chimerax import domain_script
from cryoatom.files.csv_table import write_csv
from cryoatom.plotting import BLUE, GREEN, ORANGE, VERMILION
from cryoatom.run_folder import RunFolder
from cryoatom.structure.template import Template

_COLOURS = (BLUE, ORANGE, GREEN, "#CC79A7", "#56B4E9", VERMILION, "#F0E442", "#000000")  # of Okabe and Ito


def write_segments(folder: RunFolder, template: Template, decoder: Decoder) -> None:
    """Write segments.csv, segments.cxc and segments.npy."""
    assert isinstance(decoder, RigidDecoder)
    decoder.draw(None)
    with torch.no_grad():
        share = kept_segments(decoder.segmentation().cpu().numpy())
    labels = share.argmax(axis=1)
    folder.save_array(folder.segments, share)
    columns = {
        "residue": np.arange(len(template)),
        "chain": template.chain_ids,
        "number": template.residue_numbers,
        "insertion_code": template.insertion_codes,
        "segment": labels + 1,
        "probability": share.max(axis=1),
    }
    write_csv(folder.segment_table, columns)
    script = domain_script(folder.template.name, segment_parts(labels, template), [], _COLOURS)
    folder.save_text(folder.segment_script, script)


def kept_segments(share: Float[np.ndarray, "residues segments"]) -> Float[np.ndarray, "residues kept"]:
    """Return the columns of G whose segments own a residue, in the order of their first ones (paper, B.1)."""
    return share[:, list(dict.fromkeys(share.argmax(axis=1).tolist()))]


def segment_parts(labels: np.ndarray, template: Template) -> list[list[str]]:
    """Return the stretches of each segment, as A:1-30; labels count from 0."""
    is_end = (np.diff(labels) != 0) | (np.diff(template.chain_position) != 1)
    parts: list[list[str]] = [[] for _ in range(int(labels.max()) + 1)]
    for part in np.split(np.arange(len(template)), np.flatnonzero(is_end) + 1):
        first, last = (f"{template.residue_numbers[i]}{template.insertion_codes[i]}" for i in part[[0, -1]])
        parts[labels[part[0]]].append(f"{template.chain_ids[part[0]]}:{first}" + (f"-{last}" if len(part) > 1 else ""))
    return parts
