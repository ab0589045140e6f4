"""Images on their way to the device that computes: kept there, where it has room for all, else read ahead."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from threading import Lock

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cryoatom.imaging.matched import MatchedImages, MatchedSet

_SHARE = 0.5  # of the device's free memory that images may take
_AHEAD = 2  # parts that are read before they are asked for, beside the one in use
_BLOCK = 4096  # images copied at once
_logger = logging.getLogger(__name__)


class ImageFeed:
    """Reads w and the spectra of κ of images onto a device.

    The CPU reads images where they lie, in files that the system keeps in memory as far as it can. Another device has
    all of them copied at the start, in half precision, if they take at most half of its free memory; else a thread
    reads those of the next steps while one is computed.

    Parameters
    ----------
    data
        The images.
    device
        Where they are needed.
    room
        Bytes that they may take there; by default half of what is free on a GPU, none on a CPU.
    """

    def __init__(self, data: MatchedSet, device: torch.device, room: int | None = None):
        self.data, self._device = data, device
        room = _room(device) if room is None else room
        self._resident = _Resident(data, device) if 0 < _size(data) <= room else None
        is_ahead = self._resident is None and device.type != "cpu"
        self._reader = ThreadPoolExecutor(1) if is_ahead else None
        self._lock = Lock()  # several threads may read
        self._coming: Iterator[np.ndarray] = iter(())
        self._ahead: deque[tuple[np.ndarray, Future[MatchedImages]]] = deque()
        if device.type != "cpu":
            how = "are read ahead" if self._resident is None else f"are kept on {device}"
            _logger.info("images, %.1f GB, %s", _size(data) / 1e9, how)

    def expect(self, parts: Iterable[np.ndarray]) -> None:
        """Say which images will be asked for, part by part; whoever asks for others is served too."""
        if self._reader is None:
            return
        with self._lock:
            while self._ahead:
                self._ahead.popleft()[1].cancel()
            self._coming = iter(parts)
            self._read_ahead()

    def read(self, rows: np.ndarray) -> tuple[Float[Tensor, "batch side side"], Float[Tensor, "#batch twice half"]]:
        """Return w and the spectra of κ of some images on the device, float32."""
        if self._resident is not None:
            return self._resident.take(rows).read()
        if self._reader is None:
            return self.data.read(rows)
        coming = self._expected(rows)
        images = self.data.take(rows) if coming is None else coming.result()
        return images.map(lambda part: part.to(self._device, non_blocking=True)).read()

    def _expected(self, rows: np.ndarray) -> Future[MatchedImages] | None:
        """Return who reads some images; those that are asked for again (an encoder sees them first) are still there."""
        with self._lock:
            place = next((k for k, (some, _) in enumerate(self._ahead) if np.array_equal(some, rows)), None)
            if place is None:
                return None
            while place:  # what comes before has been passed over
                self._ahead.popleft()
                place -= 1
            self._read_ahead()
            return self._ahead[0][1]

    def _read_ahead(self) -> None:
        assert self._reader is not None
        for rows in islice(self._coming, 1 + _AHEAD - len(self._ahead)):
            self._ahead.append((rows, self._reader.submit(self._take, rows)))

    def _take(self, rows: np.ndarray) -> MatchedImages:
        images = self.data.take(rows)
        return images.map(Tensor.pin_memory) if self._device.type == "cuda" else images


class _Resident:
    """All images of a set on a device."""

    def __init__(self, data: MatchedSet, device: torch.device):
        self._crops, self._kernels = _copied(data.crops, device), _copied(data.kernels, device)
        self._index = torch.from_numpy(data.kernel_index).to(device)
        self._mix = torch.from_numpy(data.kernel_mix).to(device) if data.kernel_mix.any() else None

    def take(self, rows: np.ndarray) -> MatchedImages:
        """Do as :meth:`MatchedSet.take`."""
        images = torch.from_numpy(rows).to(self._crops.device)
        crops = self._crops[images]
        if len(self._kernels) == 1:
            return MatchedImages(crops, self._kernels)
        index = self._index[images]
        if self._mix is None:
            return MatchedImages(crops, self._kernels[index])
        following = (index + 1).clamp(max=len(self._kernels) - 1)
        return MatchedImages(crops, self._kernels[index], self._kernels[following], self._mix[images])


def _copied(array: np.ndarray, device: torch.device) -> Tensor:
    """Return a mapped file's content on a device, without a second copy of it in main memory."""
    found = torch.empty(array.shape, dtype=torch.float16, device=device)
    for start in range(0, len(array), _BLOCK):
        found[start : start + _BLOCK] = torch.from_numpy(np.array(array[start : start + _BLOCK]))
    return found


def _size(data: MatchedSet) -> int:
    return data.crops.nbytes + data.kernels.nbytes


def _room(device: torch.device) -> int:
    if device.type != "cuda":
        return 0
    free, _ = torch.cuda.mem_get_info(device)
    return int(_SHARE * free)
