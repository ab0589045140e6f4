"""What the report page shows, apart from how."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from matplotlib.figure import Figure

from cryoatom.ensemble.motions import Motions
from cryoatom.structure.template import Template


@dataclass(frozen=True)
class Picture:
    """An image beside its model.

    Parameters
    ----------
    index : int
        Of the image in the run, from 0.
    note : str
        Why it is shown ("centre of cluster 3", "fits worst").
    image, model, residual : (side, side) float32
        In units of the noise; smoothed alike.
    """

    index: int
    note: str
    image: np.ndarray
    model: np.ndarray
    residual: np.ndarray


@dataclass(frozen=True)
class Plot:
    """A figure with what it shows."""

    section: str
    title: str
    caption: str
    figure: Figure
    name: str  # of its .png in the analysis folder


@dataclass(frozen=True)
class Check:
    """One line of the trust page.

    Parameters
    ----------
    name, value, reference : str
        What is measured, what was found, and what to compare it with (of the template, by chance, ...).
    verdict : str
        'good', 'look', 'bad' or '' where it is only told.
    meaning : str
        What it says, in one or two sentences for a biologist.
    """

    name: str
    value: str
    reference: str
    verdict: str
    meaning: str


@dataclass(frozen=True)
class ReportData:
    """Everything that the report page shows.

    Parameters
    ----------
    title : str
    facts : dict of str to str
        Command, version, time, images, residues, epochs, ...
    notes : tuple of str
        What the user should look at first.
    template : Template
        Of the conformations' residues.
    rows : (images,) int64
        Of the particle file, from 0: what the page calls the images by.
    maps : dict of str to (images, 2) float32
        Places of images, by the name of the map: "latent PC 1, 2", "motion 1, 2", "UMAP". Names of the axes:
        "name|x label|y label".
    colours : dict of str to (images,) float or int
        Values that points may be coloured by: cluster, uncertainty, gain, collective variables. Integers are classes.
    motions : Motions
        The conformation of every image, superposed on their mean, and the mean on the template.
    series : dict of str to (frames, residues, 3) float
        Morphs: "latent PC 1", "motion 1", "path", "clusters".
    series_notes : dict of str to tuple of str
        A label for each frame of a series, where there is one.
    residue_colours : dict of str to (residues,) float or int
        Values that residues may be coloured by: fluctuation, uncertainty, domain.
    pictures : tuple of Picture
    plots : tuple of Plot
    checks : tuple of Check
    image_names : (images,) str
    """

    title: str
    facts: dict[str, str]
    notes: tuple[str, ...]
    template: Template
    rows: np.ndarray
    maps: dict[str, np.ndarray]
    colours: dict[str, np.ndarray]
    motions: Motions
    series: dict[str, np.ndarray]
    residue_colours: dict[str, np.ndarray]
    series_notes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    pictures: tuple[Picture, ...] = ()
    plots: tuple[Plot, ...] = ()
    checks: tuple[Check, ...] = ()
    image_names: np.ndarray | None = None
