"""Everything a resumed run needs, in one file: weights, latents, both optimisers, the history of metrics."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import torch

from cryoatom.files.replacing import replacing
from cryoatom.run_folder import RunFolder
from cryoatom.training.trainer import Trainer

History = list[dict[str, float]]


def save_checkpoint(path: Path, trainer: Trainer, history: History, identity: str) -> None:
    """Write a checkpoint under a temporary name, then rename it: a kill at any moment leaves the last one whole.

    Parameters
    ----------
    identity
        Digest of the dataset, so that a checkpoint is never continued on other images.
    """
    state = {
        "identity": identity,
        "history": history,
        "model": trainer.model.state_dict(),
        "optimizer": trainer.optimizer.state_dict(),
        "latents": trainer.latents.state_dict(),
    }
    buffer = io.BytesIO()  # torch.save to a full disk raises a RuntimeError that does not say so
    torch.save(state, buffer)
    with replacing(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def load_checkpoint(path: Path, trainer: Trainer, identity: str) -> History:
    """Restore a fit and return its history.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is no checkpoint, or one of other images or of another model.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint {path}")
    state = _read(path)
    if state["identity"] != identity:
        raise ValueError(
            f"{path} belongs to other images (or another crop, or other poses) than this run: "
            "continue it with the particle file and options it was started with, or start anew without --load"
        )
    try:
        trainer.model.load_state_dict(state["model"])
    except RuntimeError as error:
        first = str(error).splitlines()[0]
        raise ValueError(f"{path} holds another model than --decoder, --beads and --zdim ask for: {first}") from None
    settings = [{k: v for k, v in group.items() if k != "params"} for group in trainer.optimizer.param_groups]
    trainer.optimizer.load_state_dict(state["optimizer"])
    for group, setting in zip(trainer.optimizer.param_groups, settings, strict=True):
        group.update(setting)  # rates are this run's options, not the checkpoint's
    trainer.latents.load_state_dict(state["latents"])
    return state["history"]


def _read(path: Path) -> dict[str, Any]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, KeyError) as error:
        reason = str(error).split("\n")[0] or "it is empty or cut short"
        raise ValueError(f"{path} is not a cryoatom checkpoint: {reason}") from None
    if not isinstance(state, dict) or "identity" not in state:
        raise ValueError(f"{path} is not a cryoatom checkpoint")
    return state


def checkpoint_to_load(load: str | Path | None, folder: RunFolder) -> Path | None:
    """Return the checkpoint that `--load` names; 'latest' in a folder without one starts anew (None)."""
    if load == "latest":
        return folder.latest_checkpoint()
    return None if load is None else Path(load)
