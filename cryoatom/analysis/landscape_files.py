"""The files of a landscape: arrays for programs, series of structures for viewers, plots for people."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cryoatom.analysis.landscape import Landscape, Traversal
from cryoatom.analysis.report_data import Plot
from cryoatom.analysis.run import Run
from cryoatom.analysis.series import write_series
from cryoatom.ensemble.along_path import free_energy
from cryoatom.ensemble.motion_plots import plot_latents, plot_motions, plot_path, plot_umap
from cryoatom.files.csv_table import write_csv
from cryoatom.files.npy import npy_writer
from cryoatom.files.replacing import replacing
from cryoatom.run_folder import AnalysisFolder


def write_landscape(folder: AnalysisFolder, run: Run, landscape: Landscape, series: dict[str, Traversal]) -> None:
    """Write the arrays, and a folder for each series."""
    folder.path.mkdir(parents=True, exist_ok=True)
    _save(folder, "latent_components", landscape.components.coordinates)
    _save(folder, "motions", landscape.motions.amplitudes)
    motions = landscape.motions
    _save(folder, "motion_axes", np.concatenate([motions.mean[None], motions.axes]))
    if landscape.embedding is not None:
        _save(folder, "embedding", landscape.embedding)
    for name, traversal in series.items():
        write_series(folder.series(name), run.template, traversal.positions, name=name, latents=traversal.latents)
        if traversal.images is not None:
            _write_images(folder.series(name) / "centers_ind.txt", run, traversal.images)
    _write_clusters(folder, landscape, next(name for name in series if name.startswith("kmeans")))
    if landscape.path is not None:
        _write_images(folder.series("path") / "path_ind.txt", run, landscape.path.images)
        _save(folder, "path_position", landscape.path.position.astype(np.float32))
        edges, density = landscape.path.edges, landscape.path.density
        energy = free_energy(density)
        table = {"from": edges[:-1], "to": edges[1:], "density": density, "minus_ln_density": energy}
        write_csv(folder.path_density, table)


def _write_clusters(folder: AnalysisFolder, landscape: Landscape, name: str) -> None:
    wanted = int(name.removeprefix("kmeans"))
    with npy_writer(folder.labels(wanted), landscape.clusters.labels.shape, np.int64) as write:
        write(landscape.clusters.labels)
    with replacing(folder.centers(wanted)) as temporary:
        np.savetxt(temporary, landscape.clusters.centers)


def _write_images(path: Path, run: Run, images: np.ndarray) -> None:
    """Write images of the run, which is how arrays beside them count, and their rows of the particle file."""
    for file, numbers in ((path, images), (path.with_name("rows.txt"), run.rows[images])):
        with replacing(file) as temporary:
            np.savetxt(temporary, numbers, fmt="%d")


def _save(folder: AnalysisFolder, name: str, array: np.ndarray) -> None:
    with npy_writer(getattr(folder, name), array.shape, array.dtype) as write:
        write(array)


def landscape_plots(landscape: Landscape) -> list[Plot]:
    """Return the plots of a landscape."""
    labels = landscape.clusters.labels
    plots = [
        Plot(
            "Landscape",
            "Latents",
            "The images by the first two principal components of their latents; numbers are clusters.",
            plot_latents(landscape.components, labels),
            "latents.png",
        ),
        Plot(
            "Landscape",
            "Motions",
            "Principal components of the superposed conformations: what moves most. Left, where the images lie; right, "
            "how much of all motion each component holds.",
            plot_motions(landscape.motions),
            "motions.png",
        ),
    ]
    path = landscape.path
    if path is not None:
        caption = (
            "How many images lie where on the path through the ensemble. The density is that of the images as they "
            "were picked and aligned, blurred by what each leaves uncertain; it is a free energy only if the specimen "
            "was in equilibrium and no state was lost on the way."
        )
        drawn = plot_path(path.position, path.distance, path.edges, path.density, unit="Å r.m.s.")
        plots.append(Plot("Landscape", "Density along the path", caption, drawn, "path.png"))
    if landscape.embedding is not None:
        caption = "UMAP of the latents: neighbours stay neighbours; distances and densities mean nothing."
        plots.append(Plot("Landscape", "UMAP", caption, plot_umap(landscape.embedding, labels), "umap.png"))
    return plots
