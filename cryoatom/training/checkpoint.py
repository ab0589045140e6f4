"""Everything a resumed run needs, in one file: weights, latents, both optimisers, the history of metrics."""

from __future__ import annotations

import io
import logging
import pickle
import struct
import zipfile
import zlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from cryoatom.files.replacing import are_files_written, replacing
from cryoatom.run_folder import RunFolder
from cryoatom.training.trainer import Begun, Trainer

History = list[dict[str, float]]
Identity = dict[str, str]
_logger = logging.getLogger(__name__)
_DAMAGE = (  # what torch.load raises for files that are cut short, full of zeros, or garbage
    *(RuntimeError, pickle.UnpicklingError, EOFError, LookupError, ValueError, TypeError, AttributeError),
    *(AssertionError, OverflowError, MemoryError, OSError, NotImplementedError),
    *(struct.error, zlib.error, zipfile.BadZipFile),
)


def save_checkpoint(
    path: Path, trainer: Trainer, history: History, identity: Identity, begun: Begun | None = None
) -> None:
    """Write a checkpoint under a temporary name, then rename it: a kill at any moment leaves the last one whole.

    Parameters
    ----------
    identity
        What the fit belongs to (:func:`cryoatom.training.inputs.run_identity`).
    begun
        How far the epoch after those of `history` is, where it has begun.
    """
    if not are_files_written():
        return
    position = None if begun is None else asdict(begun)
    state = {"identity": identity, "history": history, "begun": position, **fit_state(trainer)}
    buffer = io.BytesIO()  # torch.save to a full disk raises a RuntimeError that does not say so
    torch.save(state, buffer)
    with replacing(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def fit_state(trainer: Trainer) -> dict[str, Any]:
    """Return all that changes in a fit."""
    return {
        "model": trainer.model.state_dict(),
        "optimizer": trainer.optimizer.state_dict(),
        "latents": trainer.latents.state_dict(),
        "poses": trainer.poses.state_dict(),
        "fits": trainer.fits.state_dict(),
        "are_latents_held": trainer.are_latents_held,
    }


def load_checkpoint(path: Path, trainer: Trainer) -> tuple[History, Begun | None]:
    """Restore a fit from a checkpoint that :func:`find_checkpoint` has found fitting.

    Returns
    -------
    list of dict
        The figures of the epochs that are complete.
    Begun or None
        How far the next one is.
    """
    state = read_checkpoint(path)
    restore_fit(trainer, state)
    begun = state.get("begun")  # there is none in files of before it could be
    return state["history"], None if begun is None else Begun(**begun)


def restore_fit(trainer: Trainer, state: dict[str, Any]) -> None:
    """Restore :func:`fit_state`."""
    trainer.model.load_state_dict(state["model"])
    settings = [{k: v for k, v in group.items() if k != "params"} for group in trainer.optimizer.param_groups]
    trainer.optimizer.load_state_dict(state["optimizer"])
    for group in trainer.optimizer.param_groups:
        group["fused"] = True  # also where an earlier version has written the checkpoint
    for group, setting in zip(trainer.optimizer.param_groups, settings, strict=True):
        group.update(setting)  # rates are this run's options, not the checkpoint's
    trainer.latents = trainer.latents.restored(state["latents"])
    trainer.poses.load_state_dict(state["poses"])
    trainer.fits.load_state_dict(state["fits"])
    trainer.are_latents_held = state["are_latents_held"]


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint's tensors by name; a ValueError where the file is none, or damaged."""
    content = io.BytesIO(path.read_bytes())
    try:
        damaged = zipfile.ZipFile(content).testzip()  # by its checksums; torch does not look at them
        if damaged is not None:
            raise ValueError(f"the checksum of {damaged} is wrong")
        content.seek(0)
        state = torch.load(content, map_location="cpu", weights_only=True)
    except _DAMAGE as error:
        reason = str(error).split("\n")[0] or "it is empty or cut short"
        raise ValueError(f"{path} is not a cryoatom checkpoint, or damaged: {reason}") from None
    if not isinstance(state, dict) or not isinstance(state.get("identity"), dict):
        raise ValueError(f"{path} is not a cryoatom checkpoint")
    return state


def find_checkpoint(load: str | Path | None, folder: RunFolder, identity: Identity) -> Path | None:
    """Return the checkpoint that `--load` names, if it belongs to this run; None starts anew.

    Where the latest one is damaged, as a crash of the machine may leave it, the one before is taken, with a warning.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is no checkpoint, or one of another run; says what differs.
    """
    if load is None:
        return None
    if load == "latest" and not folder.resumable():
        _logger.warning("no checkpoint in %s: starting anew", folder.path)
        return None
    path, found = _latest_whole(folder.resumable()) if load == "latest" else _named(Path(load))
    different = [name for name in identity if found.get(name) != identity[name]]
    if different:
        raise ValueError(
            f"{path} belongs to another run ({'; '.join(different)} differ): continue it with the particle file, "
            "template and options it was started with, or start anew without --load"
        )
    return path


def _named(path: Path) -> tuple[Path, Identity]:
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint {path}")
    return path, read_checkpoint(path)["identity"]


def _latest_whole(paths: list[Path]) -> tuple[Path, Identity]:
    """Return the first of `paths`, the last epoch's first, that can be read; the error of the first where none can."""
    errors: list[ValueError] = []
    for path in paths:
        try:
            identity = read_checkpoint(path)["identity"]
        except ValueError as error:
            errors.append(error)
            continue
        if errors:
            _logger.warning("%s; going on from %s before it", "; ".join(map(str, errors)), path)
        return path, identity
    raise errors[0]
