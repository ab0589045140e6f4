"""The run folder: the only place that knows its file names. Every file appears whole or not at all."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cryoatom.files.lock import locked
from cryoatom.files.npy import save_npy
from cryoatom.files.replacing import are_files_written, remove_leftovers, replacing


@dataclass(frozen=True)
class RunFolder:
    """A folder that `cryoatom train` writes and the later commands read.

    N counts epochs from 1; files without N are the final ones.
    """

    path: Path

    @property
    def config(self) -> Path:
        """Settings, command line, version, time."""
        return self.path / "config.yaml"

    @property
    def log(self) -> Path:
        """Messages, with times and tracebacks; appended."""
        return self.path / "run.log"

    @property
    def metrics(self) -> Path:
        """One row an epoch."""
        return self.path / "metrics.csv"

    @property
    def template(self) -> Path:
        """The template as it was used."""
        return self.path / "template.cif"

    @property
    def graph(self) -> Path:
        """The protein graph as it was used."""
        return self.path / "graph.npz"

    @property
    def matched(self) -> Path:
        """Folder of the matched crops (a cache: may be deleted)."""
        return self.path / "matched"

    @property
    def conformations(self) -> Path:
        """Float32 (images, residues, 3), Å, template frame, in the order of the particle file."""
        return self.path / "conformations.npy"

    @property
    def trajectory(self) -> Path:
        """The same for viewers."""
        return self.path / "conformations.dcd"

    @property
    def topology(self) -> Path:
        """C-alpha topology of the trajectory."""
        return self.path / "topology.cif"

    @property
    def homogeneous(self) -> Path:
        """C-alphas of the one conformation of a run with --homogeneous."""
        return self.path / "homogeneous.cif"

    @property
    def pdb(self) -> Path:
        """Folder of per-image PDB files."""
        return self.path / "pdb"

    @property
    def evaluation(self) -> Path:
        """Folder of `cryoatom eval`."""
        return self.path / "eval"

    def analysis(self, epoch: int | None = None) -> AnalysisFolder:
        """Return what `cryoatom analyze` writes, of an epoch or of the end."""
        return AnalysisFolder(self.path / ("analyze" if epoch is None else f"analyze.{epoch}"))

    @property
    def halves(self) -> tuple[Path, Path]:
        """Run folders of decoders that saw one half of the images each (`cryoatom analyze --half-sets`)."""
        return self.path / "half1", self.path / "half2"

    def weights(self, epoch: int | None = None) -> Path:
        """Checkpoint after an epoch, or the final one."""
        return self.path / _numbered("weights", epoch, "pt")

    @property
    def stopped(self) -> Path:
        """Checkpoint within an epoch, of a run that was asked to stop there."""
        return self.path / "weights.stopped.pt"

    def latents(self, epoch: int | None = None) -> Path:
        """Latents of all images, float32 (images, latent)."""
        return self.path / _numbered("z", epoch, "npy")

    @property
    def poses(self) -> Path:
        """Poses as a RELION star file."""
        return self.path / "poses.star"

    @property
    def pose_report(self) -> Path:
        """How sure the estimated poses are, one row an image."""
        return self.path / "poses.csv"

    @property
    def rows(self) -> Path:
        """Row of the particle file of each image, int64 (images,)."""
        return self.path / "rows.npy"

    @property
    def uncertainty(self) -> Path:
        """Standard deviation of each residue of each image's conformation, float16 (images, residues), Å."""
        return self.path / "uncertainty.npy"

    @property
    def latent_covariance(self) -> Path:
        """Posterior covariance of each image's latent, float32 (images, latent, latent)."""
        return self.path / "z_covariance.npy"

    @property
    def lock(self) -> Path:
        """There while a run writes; who it is."""
        return self.path / ".lock"

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Make the folder if need be, keep other runs out of it, and clear what killed ones left half-written.

        Raises
        ------
        ValueError
            If another run writes there; says which.
        """
        if not are_files_written():
            yield
            return
        self.path.mkdir(parents=True, exist_ok=True)
        with locked(self.lock):
            for folder in (self.path, self.pdb):
                remove_leftovers(folder)
            yield

    @property
    def image_report(self) -> Path:
        """How well each image fits, and whether it may be junk; one row an image."""
        return self.path / "images.csv"

    @property
    def good_rows(self) -> Path:
        """Rows of the particle file whose images fit."""
        return self.path / "good.npy"

    @property
    def segments(self) -> Path:
        """How much of each residue belongs to each segment of `--decoder rigid`, float32 (residues, segments)."""
        return self.path / "segments.npy"

    @property
    def segment_table(self) -> Path:
        """The segment of each residue."""
        return self.path / "segments.csv"

    @property
    def segment_script(self) -> Path:
        """ChimeraX script of the segments in colours."""
        return self.path / "segments.cxc"

    def outputs(self) -> list[Path]:
        """Return the files and folders of a run that are there, but for images in matched form, settings and log."""
        numbered = [*self.path.glob("weights*.pt"), *self.path.glob("z*.npy")]
        tables = [self.rows, self.poses, self.pose_report, self.image_report, self.good_rows, self.metrics]
        structures = [self.uncertainty, self.conformations, self.trajectory, self.topology, self.pdb, self.evaluation]
        structures.append(self.homogeneous)
        structures += [self.segments, self.segment_table, self.segment_script]
        later = [*self.path.glob("analyze*"), *self.halves]
        return [path for path in (*numbered, *tables, *structures, *later) if path.exists()]

    def check_vacant(self, *, overwrite: bool) -> None:
        """Ask now, before time is spent, whether a run may write here later; nothing is left behind.

        Raises
        ------
        ValueError
            If there is a run that may not be replaced, or another one writes there.
        """
        self._check_empty(overwrite=overwrite)
        if self.path.is_dir():
            with locked(self.lock):
                pass

    def _check_empty(self, *, overwrite: bool) -> None:
        old = self.outputs()
        if old and not overwrite:
            raise ValueError(
                f"{self.path} holds a run ({old[0].name}): go on with --load latest, replace it with --overwrite, "
                "or choose another --outdir"
            )

    def start_anew(self, *, overwrite: bool) -> None:
        """Make room for a new run: a run that is in the folder is removed, images in matched form and the log stay.

        Raises
        ------
        ValueError
            If there is one and it may not be replaced.
        """
        self._check_empty(overwrite=overwrite)
        for path in self.outputs():
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def checkpoints(self) -> list[Path]:
        """Return the checkpoints of epochs, the last one first."""
        numbered = [p for p in self.path.glob("weights.*.pt") if p.name.split(".")[1].isdigit()]
        return sorted(numbered, key=lambda p: int(p.name.split(".")[1]), reverse=True)

    def resumable(self) -> list[Path]:
        """Return the checkpoints to go on from: that of a stop, if there is one, and those of epochs before it."""
        return [self.stopped, *self.checkpoints()] if self.stopped.exists() else self.checkpoints()

    def forget_stop(self) -> None:
        """Remove the checkpoint of a stop, which a later one has made old."""
        if are_files_written():
            self.stopped.unlink(missing_ok=True)

    def latest_checkpoint(self) -> Path | None:
        """Return the checkpoint of the highest epoch, or None."""
        return next(iter(self.checkpoints()), None)

    def save_array(self, path: Path, array: np.ndarray) -> None:
        """Write an array as .npy."""
        save_npy(path, array)

    def save_text(self, path: Path, text: str) -> None:
        """Write a text file."""
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")

    def save_metrics(self, rows: Iterable[dict[str, float]]) -> None:
        """Write metrics.csv; a term that a row lacks is left empty."""
        rows = list(rows)
        columns = list(dict.fromkeys(name for row in rows for name in row))
        with replacing(self.metrics) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)


@dataclass(frozen=True)
class AnalysisFolder:
    """A folder that `cryoatom analyze` writes; names are cryoDRGN's where it has one.

    Components and clusters count from 1, images and rows from 0.
    """

    path: Path

    @property
    def report(self) -> Path:
        """The page to open."""
        return self.path / "report.html"

    @property
    def config(self) -> Path:
        """Settings, command line, version, time."""
        return self.path / "config.yaml"

    @property
    def lock(self) -> Path:
        """There while an analysis writes; who it is."""
        return self.path / ".lock"

    @property
    def state(self) -> Path:
        """Digest of the latents that were analysed: what lies beside it is of these."""
        return self.path / "state.txt"

    @property
    def summary(self) -> Path:
        """What was found, in a few lines."""
        return self.path / "summary.txt"

    @property
    def latent_components(self) -> Path:
        """Principal components of the latents, float32 (images, k)."""
        return self.path / "latent_pcs.npy"

    @property
    def motions(self) -> Path:
        """Amplitudes of the principal motions, float32 (images, k), Å r.m.s. over residues."""
        return self.path / "motions.npy"

    @property
    def motion_axes(self) -> Path:
        """Their mean structure and axes, float64 (1 + k, residues, 3)."""
        return self.path / "motion_axes.npy"

    @property
    def embedding(self) -> Path:
        """UMAP of the latents, float32 (images, 2)."""
        return self.path / "umap.npy"

    @property
    def residues(self) -> Path:
        """One row a residue: fluctuation, uncertainty, domain, hinge."""
        return self.path / "residues.csv"

    @property
    def domains(self) -> Path:
        """Rigid domains, their hinges and screw motions."""
        return self.path / "domains.json"

    @property
    def domain_script(self) -> Path:
        """ChimeraX script of the domains and the axes that they turn about."""
        return self.path / "domains.cxc"

    @property
    def fluctuation(self) -> Path:
        """The most central conformation with fluctuations, Å, in the B column."""
        return self.path / "fluctuation.cif"

    @property
    def collective(self) -> Path:
        """One row an image, one column a collective variable."""
        return self.path / "collective.csv"

    @property
    def path_position(self) -> Path:
        """Of each image along the path, 0 to 1, float32 (images,)."""
        return self.series("path") / "position.npy"

    @property
    def path_density(self) -> Path:
        """Density of images along the path, and what would be its free energy."""
        return self.series("path") / "density.csv"

    def series(self, name: str) -> Path:
        """Folder of a series of conformations: pc1, motion1, kmeans20, path."""
        return self.path / name

    def labels(self, clusters: int) -> Path:
        """Return the file of the cluster of each image, int64 (images,), from 1."""
        return self.series(f"kmeans{clusters}") / "labels.npy"

    def centers(self, clusters: int) -> Path:
        """Return the file of the clusters' mean latents, text."""
        return self.series(f"kmeans{clusters}") / "centers.txt"


def _numbered(stem: str, epoch: int | None, suffix: str) -> str:
    return f"{stem}.{suffix}" if epoch is None else f"{stem}.{epoch}.{suffix}"
