"""A finished run, opened again: latents, conformations, poses, and its decoder."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from cryoatom.config import recorded_command
from cryoatom.files.npy import read_npy
from cryoatom.files.star import StarParticles, open_star
from cryoatom.imaging.grid import CropGrid
from cryoatom.records import Poses
from cryoatom.run_folder import RunFolder
from cryoatom.structure.graph import ProteinGraph, read_graph
from cryoatom.structure.template import Template, read_template
from cryoatom.train_config import TrainConfig
from cryoatom.training.assemble import build_model, build_trainer
from cryoatom.training.checkpoint import History, load_checkpoint, read_checkpoint
from cryoatom.training.images import prepare_images
from cryoatom.training.inputs import Inputs, read_inputs, template_grid
from cryoatom.training.model import ConformationModel
from cryoatom.training.stage import Stage, silent
from cryoatom.training.trainer import Trainer
from cryoatom.workers import Workers

_LATENTS_AT_ONCE = 1024


@dataclass(frozen=True, repr=False)
class Run:
    """A run folder that `cryoatom train` has finished, or one of its epochs.

    What it holds is read when it is asked for; arrays of all images are mapped into memory.

    Parameters
    ----------
    folder
        Where it is.
    epoch
        Which epoch; None for the final state.
    particles
        The particle file, where it has moved since the training.

    Examples
    --------
    >>> run = cryoatom.load("run/")  # doctest: +SKIP
    >>> run.conformations[12]  # of the row run.rows[12] of the particle file, Å  # doctest: +SKIP
    >>> run.decode(run.latents[:5].mean(axis=0))  # doctest: +SKIP
    """

    folder: RunFolder
    epoch: int | None = None
    particles: Path | None = None

    def __len__(self) -> int:
        return len(self.latents)

    def __repr__(self) -> str:
        state = "" if self.epoch is None else f", epoch {self.epoch}"
        return f"<cryoatom run {self.folder.path}{state}>"

    @cached_property
    def config(self) -> TrainConfig:
        """The settings that it was trained with; the particle file as it is found now."""
        moved = {} if self.particles is None else {"particles": self.particles}
        return TrainConfig.merge({"load": None, "overwrite": False, **moved}, self.folder.config)

    @property
    def command(self) -> list[str]:
        """The command line that trained it."""
        return [str(word) for word in recorded_command(self.folder.config)]

    @cached_property
    def template(self) -> Template:
        """The template as it was used."""
        return read_template(self.folder.template)[0]

    @cached_property
    def graph(self) -> ProteinGraph:
        """The protein graph as it was used."""
        return read_graph(self.folder.graph)

    @cached_property
    def latents(self) -> np.ndarray:
        """Float32 (images, latent), in the order of :attr:`rows`."""
        return read_npy(self.folder.latents(self.epoch))

    @cached_property
    def conformations(self) -> np.ndarray:
        """Float32 (images, residues, 3), C-alphas, Å, in the frame of the template and the order of :attr:`rows`.

        Those of the final state are mapped into memory, those of an epoch decoded.
        """
        if self.epoch is None:
            return np.load(self.folder.conformations, mmap_mode="r", allow_pickle=False)
        return self.decode(self.latents)

    @cached_property
    def uncertainty(self) -> np.ndarray | None:
        """Float16 (images, residues), standard deviations of residues, Å; None with --no-uncertainty, or of an epoch.

        See :mod:`cryoatom.training.uncertainty` for what it holds and what not.
        """
        if self.epoch is not None or not self.folder.uncertainty.is_file():
            return None
        return np.load(self.folder.uncertainty, mmap_mode="r", allow_pickle=False)

    @cached_property
    def rows(self) -> np.ndarray:
        """(images,) int64: the row of the particle file that each image is; 0, 1, ... but for `train --ind`."""
        return read_npy(self.folder.rows)

    @property
    def own_images(self) -> dict[str, np.ndarray]:
        """The columns of images.csv, if they are of this state of the run: nothing of an epoch, or before the end."""
        return self.images if self.epoch is None and self.folder.image_report.is_file() else {}

    @cached_property
    def good_rows(self) -> np.ndarray:
        """Images of the run that are neither junk nor dead; all of them where none is good, or none was judged yet."""
        if not self.folder.image_report.is_file():
            return np.arange(len(self))
        is_good = (self.images["is_junk"] == 0) & (self.images["is_dead"] == 0)
        return np.flatnonzero(is_good) if is_good.any() else np.arange(len(self))

    @cached_property
    def poses(self) -> Poses:
        """R and t of each image, of the final state; shifts in Å."""
        poses = self._star.poses(self.pixel_size, self.box)
        assert poses is not None
        return poses

    @cached_property
    def _star(self) -> StarParticles:
        return open_star(self.folder.poses)

    @cached_property
    def image_names(self) -> np.ndarray:
        """(images,) str, as in the particle file."""
        if self.folder.image_report.is_file():
            return self.images["name"]
        return self.inputs().particles.image_names  # the run has not ended

    @cached_property
    def images(self) -> dict[str, np.ndarray]:
        """The columns of images.csv: numbers as float64, names as str."""
        with self.folder.image_report.open(newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file))
        columns = dict(zip(rows[0], np.array(rows[1:]).T, strict=True))
        return {name: values if name in ("name", "uid") else values.astype(float) for name, values in columns.items()}

    @property
    def box(self) -> int:
        """Pixels of an image's side."""
        return self._image_size[0]

    @property
    def pixel_size(self) -> float:
        """Å."""
        return self._image_size[1]

    @cached_property
    def _image_size(self) -> tuple[int, float]:
        if not self.folder.poses.is_file():  # the run has not ended
            particles = self.inputs().particles
            return particles.box, particles.pixel_size
        size = self._star.pixel_size(0)
        assert size is not None
        return round(float(self._star.table.numbers("rlnImageSize")[0])), size

    @cached_property
    def grid(self) -> CropGrid:
        """The crops that it was trained on."""
        return template_grid(self.config, self.template, self.box, self.pixel_size)

    @cached_property
    def history(self) -> History:
        """The figures of each epoch: fewer than were allowed where held-out images gained nothing more."""
        return read_checkpoint(self.folder.weights(self.epoch))["history"]

    @cached_property
    def model(self) -> ConformationModel:
        """Decoder, beads and template, on the CPU."""
        model = build_model(self.config, self.template, self.graph, self.grid.coarse_pixel)
        model.load_state_dict(read_checkpoint(self.folder.weights(self.epoch))["model"])
        return model.eval().requires_grad_(False)

    def decode(self, latents: np.ndarray) -> np.ndarray:
        """Return the conformations of latents: (latent,) gives (residues, 3), (n, latent) gives (n, residues, 3).

        Float32, Å, in the frame of the template.

        Raises
        ------
        ValueError
            If they are not as long as the run's latents.
        """
        rows = torch.from_numpy(np.atleast_2d(np.asarray(latents, dtype=np.float32)))
        if rows.ndim != 2 or rows.shape[1] != self.config.zdim:
            raise ValueError(f"latents have {self.config.zdim} numbers each, found shape {np.shape(latents)}")
        with torch.no_grad():
            decoded = torch.cat([self.model.decode(part) for part in rows.split(_LATENTS_AT_ONCE)]).numpy()
        return decoded[0] if np.ndim(latents) == 1 else decoded

    def place(self, latents: np.ndarray) -> np.ndarray:
        """Return all points of latents (n, latent), (n, points, 3): C-alphas, then side chains that move freely."""
        with torch.no_grad():
            rows = torch.from_numpy(np.asarray(latents, dtype=np.float32))
            return torch.cat([self.model.place(part) for part in rows.split(_LATENTS_AT_ONCE)]).numpy()

    def inputs(self, datadir: Path | None = None) -> Inputs:
        """Read particles, template and graph as the training did; `datadir` has the stacks where they have moved."""
        if not self.config.particles.is_file():
            raise FileNotFoundError(
                f"no particle file {self.config.particles}: where it has moved, give --particles FILE"
            )
        changes: dict[str, object] = {} if datadir is None else {"datadir": datadir}
        if not self.config.template.is_file():  # then the copy, rounded to 1e-4 Å
            changes["template"] = self.folder.template
        if self.config.graph is None or not self.config.graph.is_file():
            changes["graph"] = self.folder.graph
        inputs = read_inputs(self.config.model_copy(update=changes))
        if self.folder.image_report.is_file() and not np.array_equal(inputs.particles.image_names, self.image_names):
            raise ValueError(
                f"{self.config.particles} (with --ind, if it was given) has no longer the images that "
                f"{self.folder.path} was trained on"
            )
        return inputs

    def open_trainer(
        self, workers: Workers, *, datadir: Path | None = None, device: str = "cpu", stage: Stage = silent
    ) -> Trainer:
        """Return the fit as it ended (or as it was after the epoch), with its images; nothing learns any more.

        Images in matched form are prepared again where they have been deleted.

        Raises
        ------
        FileNotFoundError, ValueError
            When the particle file or its stacks are no longer where they were, or hold other images.
        """
        config, inputs = self.config.model_copy(update={"device": device}), self.inputs(datadir)
        data = prepare_images(config, inputs, self.folder, workers, stage)
        trainer = build_trainer(config, inputs, data, workers)
        load_checkpoint(self.folder.weights(self.epoch), trainer)
        trainer.model.requires_grad_(False)
        return trainer


def load(path: str | Path, epoch: int | None = None, particles: Path | None = None) -> Run:
    """Open a run folder; `particles` is its particle file, where that has moved.

    Raises
    ------
    FileNotFoundError
        When there is no such folder, or the run has not ended (or saved that epoch).
    """
    folder = RunFolder(Path(path))
    if not folder.path.is_dir():
        raise FileNotFoundError(f"no run folder {folder.path}")
    if not folder.config.is_file():
        raise FileNotFoundError(f"{folder.path} is no run folder of `cryoatom train`: it has no {folder.config.name}")
    needed = [folder.weights(epoch), folder.latents(epoch), folder.rows]
    if epoch is None:
        needed.append(folder.conformations)
    missing = [file for file in needed if not file.is_file()]
    if missing:
        epochs = [file.name.split(".")[1] for file in folder.checkpoints()]
        saved = f"; saved epochs: {', '.join(sorted(epochs, key=int))}" if epochs else ""
        raise FileNotFoundError(f"{missing[0]} does not exist: has the training ended? See {folder.log}{saved}")
    return Run(folder, epoch, particles)
