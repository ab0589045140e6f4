"""The files of `cryoatom volume`: maps, their correlations, and which images they are of."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float
from matplotlib import rc_context
from matplotlib.figure import Figure
from torch import Tensor

from cryoatom.analysis.run import Run
from cryoatom.analysis.select import dead_images
from cryoatom.analysis.subset import write_rows
from cryoatom.analysis.volume_config import VolumeConfig
from cryoatom.analysis.volumes import in_box, map_grid, mean_density, reconstruct_images
from cryoatom.files.csv_table import write_csv
from cryoatom.files.density import write_map
from cryoatom.files.replacing import replacing
from cryoatom.imaging.grid import CropGrid
from cryoatom.plotting import BLUE, GREY, ORANGE, STYLE, VERMILION, figure, legend_above, save_png
from cryoatom.poses.reconstruct import THRESHOLD, Reconstruction, fsc, low_pass, resolution, soft_sphere
from cryoatom.training.stage import Stage, silent
from cryoatom.workers import Workers

_FEW = 100  # images of a map
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Volumes:
    """What was written, of which images, and the correlations of half maps where images were backprojected."""

    files: tuple[Path, ...]
    images: np.ndarray
    correlations: Correlations | None


def write_volumes(
    run: Run, images: np.ndarray, config: VolumeConfig, *, workers: Workers, stage: Stage = silent
) -> Volumes:
    """Write maps of images of a run to `config.outdir`; dead ones are left out.

    density.mrc: mean of the beads; map.mrc, half1.mrc, half2.mrc, fsc.csv, fsc.png with `config.backproject`;
    rows.txt: the images, as rows of the particle file.

    Raises
    ------
    FileNotFoundError, ValueError
        For images that are not found, or are all dead, or voxels finer than theirs.
    """
    grid = map_grid(run, config.pixel)
    images = np.setdiff1d(images, dead_images(run, images))
    if len(images) == 0:
        raise ValueError(f"none of these images could be used in the training, see {run.folder.image_report}")
    _warn(run, images, config, grid)
    density = mean_density(run, images, grid.side, grid.coarse_pixel, most=config.conformations)
    maps, correlations = {"density": density}, None
    if config.backproject:
        with stage(len(images), "Backprojecting") as advance:
            found = reconstruct_images(
                run,
                images,
                grid,
                datadir=config.datadir,
                workers=workers,
                progress=lambda done, total: advance(done, ""),
            )
        maps |= {"map": found.map, "half1": found.halves[0], "half2": found.halves[1]}
        correlations = correlate(found, density)
    config.outdir.mkdir(parents=True, exist_ok=True)
    files = []
    for name, values in maps.items():
        finest = config.resolution if name in ("density", "map") else None
        values = values if finest is None else low_pass(values, grid.coarse_pixel, finest)
        values = in_box(values, config.box or grid.side)
        files.append(config.outdir / f"{name}.mrc")
        write_map(files[-1], values.numpy(), grid.coarse_pixel, is_centered=config.origin == "model")
    if correlations is not None:
        files += _write_correlations(config.outdir, correlations)
    write_rows(config.outdir / "rows.txt", run.rows[images])
    return Volumes((*files, config.outdir / "rows.txt"), images, correlations)


def _warn(run: Run, images: np.ndarray, config: VolumeConfig, grid: CropGrid) -> None:
    """Say what a map will not show."""
    if config.backproject and len(images) < _FEW:
        _logger.warning("%d images are few for a map: its half maps, and their FSC, are mostly noise", len(images))
    if config.box is not None and config.box < grid.side:
        _logger.warning("--box %d cuts off what holds the particle: %d voxels", config.box, grid.side)
    if config.resolution is not None and config.resolution < 2 * grid.coarse_pixel:
        _logger.warning(
            "--resolution %g is finer than voxels of %.3g Å can hold: they end at %.3g Å",
            *(config.resolution, grid.coarse_pixel, 2 * grid.coarse_pixel),
        )


def _write_correlations(folder: Path, found: Correlations) -> list[Path]:
    table, picture = folder / "fsc.csv", folder / "fsc.png"
    columns = {"half_maps": found.halves, "half_maps_soft_sphere": found.masked, "map_and_beads": found.model}
    with np.errstate(divide="ignore"):
        write_csv(table, {"frequency": found.frequency, "resolution": 1 / found.frequency, **columns})
    with replacing(picture) as temporary:
        save_png(plot_correlations(found), temporary)
    return [table, picture]


@dataclass(frozen=True)
class Correlations:
    """Fourier shell correlations of a reconstruction.

    Parameters
    ----------
    frequency
        1/Å.
    halves, masked
        Of the half maps; within a soft sphere that fills the cube.
    model
        Of the map and the mean density of the beads.
    """

    frequency: np.ndarray
    halves: np.ndarray
    masked: np.ndarray
    model: np.ndarray

    @property
    def finest(self) -> float:
        """Of the unmasked half maps at 0.143, Å."""
        return resolution(self.frequency, self.halves)


def correlate(found: Reconstruction, density: Float[Tensor, "side side side"]) -> Correlations:
    """Compare half maps with each other, and the map with a density on the same grid."""
    side, pixel_size = len(density), found.pixel_size
    mask = soft_sphere(side, side / 2)
    frequency, halves = fsc(*found.halves, pixel_size)
    _, masked = fsc(found.halves[0] * mask, found.halves[1] * mask, pixel_size)
    _, model = fsc(found.map * mask, density * mask, pixel_size)
    return Correlations(frequency, halves, masked, model)


def plot_correlations(found: Correlations) -> Figure:
    """Draw the correlations of a reconstruction."""
    curves = {
        f"half maps: {found.finest:.1f} Å": (found.halves, BLUE, "-"),
        f"in a soft sphere: {resolution(found.frequency, found.masked):.1f} Å": (found.masked, ORANGE, "-"),
        "map and beads": (found.model, VERMILION, "--"),
    }
    with rc_context(STYLE):
        drawn, axes = figure()
        for label, (values, colour, style) in curves.items():
            axes.plot(found.frequency, values, color=colour, linestyle=style, linewidth=1.8, label=label)
        axes.axhline(0, color=GREY, linewidth=0.8)
        axes.axhline(THRESHOLD, color=GREY, linestyle=":", linewidth=1.2)
        axes.annotate(f"{THRESHOLD}", (0, THRESHOLD), (3, 3), textcoords="offset points", color="#555555")
        finest = found.frequency[-1]
        ticks = [1 / d for d in (40, 20, 10, 8, 6, 5, 4, 3.5, 3, 2.5, 2, 1.5, 1) if 1 / d <= finest * 1.001]
        kept = [tick for k, tick in enumerate(ticks) if k == 0 or tick - ticks[k - 1] > 0.03 * finest]
        axes.set_xticks(kept, [f"{1 / tick:g}" for tick in kept])
        axes.set(xlabel="resolution (Å)", ylabel="Fourier shell correlation", xlim=(0, finest))
        axes.set_ylim(min(-0.05, *(float(values.min()) for values, _, _ in curves.values())), 1.02)
        legend_above(axes, columns=3)
    return drawn
