"""Text of ChimeraX command scripts (.cxc). ChimeraX runs them in their own folder: file names are relative to it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_PALETTE = "lightgray:orange:firebrick"  # told apart by all common kinds of colour vision, and when printed in grey
_TUBE = 0.9  # Å
_IMAGES_A_FRAME = 6


def quoted(text: str) -> str:
    """Return a file name, or any text, as one word of a command."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def series_script(structure: str, frames: int, *, label: str, highest: float) -> str:
    """Return a script that opens a multi-model file as a trajectory, colours residues by their B column and plays it.

    Where only C-alphas are given, ChimeraX joins those of consecutive residues and draws the cartoon as a tube.
    The lines that an old ChimeraX may refuse come last, as it stops at the first error.

    Parameters
    ----------
    structure : str
        The .pdb or .cif file, relative to the script.
    frames : int
        Models in it.
    label : str
        What the B column holds, with its unit.
    highest : float
        The value of the last colour; the first stands for 0.
    """
    scale = f"palette {_PALETTE} range 0,{highest:.2f}"
    lines = [
        f"# Colours: {label}, 0 to {highest:.2f}. Drag the slider, or type: coordset #1 1,{frames}",
        "close session",
        f"open {quoted(structure)} coordsets true",
        "hide #1 atoms",
        "show #1 cartoons",
        f"color bfactor #1 {scale}",
        "view #1",
    ]
    if frames > 1:
        lines.append(f"coordset #1 1,{frames} pauseFrames {_IMAGES_A_FRAME} bounce true loop 5")
    lines += [
        "set bgColor white",
        "lighting soft",
        "graphics silhouettes true",
        f"cartoon style #1 arrows false width {_TUBE} thickness {_TUBE} xsection round",
        f"2dlabels text {quoted(label)} xpos 0.05 ypos 0.05 size 18 color black",
        f"color bfactor #1 {scale} key true",
    ]
    return "\n".join(lines) + "\n"


def domain_script(
    structure: str,
    domains: list[list[str]],
    axes: list[tuple[np.ndarray, np.ndarray]],
    colours: Sequence[str],
) -> str:
    """Return a script that opens a structure, colours its rigid domains, and draws the axes that they turn about.

    Parameters
    ----------
    structure : str
        The .pdb or .cif file, relative to the script.
    domains : list of list of str
        The stretches of each domain, as 'A:1-30'.
    axes : list of two (3,) arrays
        Both ends of each axis, Å, in the frame of the structure: of the second domain, the third, ...
    colours : sequence of str
        Of the domains, as #0072B2.
    """
    lines = ["close session", f"open {quoted(structure)}", "hide #1 atoms", "show #1 cartoons", "color #1 lightgray"]
    for number, parts in enumerate(domains):
        colour = colours[number % len(colours)]
        lines += [f"color #1/{part} {colour}" for part in parts]
    lines += ["view #1", "set bgColor white", "lighting soft", "graphics silhouettes true"]
    for number, ends in enumerate(axes, start=1):
        first, last = (",".join(f"{value:.2f}" for value in end) for end in ends)
        colour = colours[number % len(colours)]
        lines.append(f"shape cylinder radius 0.4 fromPoint {first} toPoint {last} color {colour}")
    return "\n".join(lines) + "\n"
