"""Image stacks without a particle file: one stack, or a text file that lists several."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np

from cryoatom.files.locate import locate_stacks
from cryoatom.files.mrc import open_stack
from cryoatom.files.sources import Places
from cryoatom.records import Optics

_STACKS = (".mrcs", ".mrc")


@dataclass(frozen=True)
class StackImages:
    """Images of stacks, one after the other; of their CTF and poses nothing is known."""

    source: Path
    stack_names: tuple[str, ...]
    stacks: tuple[Path, ...]
    stack_of_image: np.ndarray
    slice_of_image: np.ndarray
    uids: None = None

    def __len__(self) -> int:
        return len(self.stack_of_image)

    def __getitem__(self, rows: np.ndarray) -> Self:
        return replace(self, stack_of_image=self.stack_of_image[rows], slice_of_image=self.slice_of_image[rows])

    @property
    def names(self) -> np.ndarray:
        """Image names as RELION has them, counted from 1."""
        return self._names

    @cached_property
    def _names(self) -> np.ndarray:
        places = zip(self.slice_of_image.tolist(), self.stack_of_image.tolist(), strict=True)
        return np.array([f"{number + 1:06d}@{self.stack_names[stack]}" for number, stack in places])

    def places(self, datadir: Path | None) -> Places:
        """Return where the images are; that is known already."""
        box = open_stack(self.stacks[int(self.stack_of_image[0])]).box
        return Places(self.stacks, self.stack_of_image, self.slice_of_image, box)

    def pixel_size(self, box: int) -> None:
        """Return None: a stack's header is often wrong."""
        return None

    def groups(self) -> None:
        """Return None."""
        return None

    def poses(self, pixel_size: float, box: int) -> None:
        """Return None."""
        return None

    def optics(self, amplitude_contrast: float | None = None) -> Optics:
        """Raise ValueError: images alone do not say how they were taken."""
        raise ValueError(
            f"{self.source} has images and no CTF parameters: give these with --ctf (.star, .cs or cryoDRGN's .pkl)"
        )


def open_stack_file(path: Path, datadir: Path | None = None) -> StackImages:
    """Take all images of one stack; `datadir` is not needed for that."""
    return _images(path, (path.name,), (path.resolve(),))


def open_stack_list(path: Path, datadir: Path | None = None) -> StackImages:
    """Take all images of the stacks that a text file lists, one a line, relative to its folder or `datadir`.

    Raises
    ------
    FileNotFoundError
        Naming all stacks that do not exist.
    ValueError
        If it lists none, one twice, or anything else.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except UnicodeDecodeError:
        raise ValueError(f"{path} is no text file: expected a list of stacks, one a line") from None
    names = [line for line in lines if line and not line.startswith("#")]
    other = [name for name in names if Path(name).suffix.lower() not in _STACKS]
    if other or not names:
        found = f"{other[0][:200]!r}" if other else "nothing"
        raise ValueError(f"{path}: expected a list of stacks ({', '.join(_STACKS)}), one a line, found {found}")
    twice = (
        [name for number, name in enumerate(names) if name in names[:number]] if len(set(names)) < len(names) else []
    )
    if twice:
        raise ValueError(f"{path} lists {twice[0]} more than once")
    return _images(path, tuple(names), locate_stacks(names, path, datadir))


def _images(source: Path, names: tuple[str, ...], stacks: tuple[Path, ...]) -> StackImages:
    counts = [open_stack(stack).count for stack in stacks]
    slices = np.concatenate([np.arange(count, dtype=np.int64) for count in counts])
    return StackImages(source, names, stacks, np.repeat(np.arange(len(stacks)), counts), slices)
