"""Processes that make one run together, as torchrun and srun start them: each has a rank, rank 0 alone writes.

All ranks hold the same state (weights, latents, poses, optimisers) and take the same decisions in the same order. What
costs time, a function of many pieces, is divided among them (:mod:`cryoatom.workers`) and its values are gathered, so
that every rank goes on with the same numbers, in the order that one process alone would have them in.
"""

from __future__ import annotations

import io
import os
import pickle
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, distributed
from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

from cryoatom.interruption import PeerLostError, is_stop_asked

Value = TypeVar("Value")
_FIRST_PORT, _PORTS = 20_000, 12_000  # below those that systems give to clients
_SIZE, _ROOM = 8, 4096  # bytes: of the length of a message, and what messages are a multiple of
_MEETING = timedelta(minutes=10)
_PATIENCE = timedelta(days=2)  # rank 0 may read, check and write for long while the others wait


class Ranks:
    """The processes of a run; one alone is a group of its own.

    Parameters
    ----------
    rank, size
        This one's number, and how many there are.
    """

    def __init__(self, rank: int = 0, size: int = 1):
        self.rank, self.size = rank, size
        self._is_stop_asked = False
        self._room = _ROOM  # of a message, as the last one had need of: steps are alike, and so take one round each

    @property
    def is_first(self) -> bool:
        """Whether this is the one that writes and speaks."""
        return self.rank == 0

    @property
    def is_stop_asked(self) -> bool:
        """Whether any rank had been asked to stop when values were last gathered; all of them say the same."""
        return is_stop_asked() if self.size == 1 else self._is_stop_asked

    def share(self, items: Sequence[Value]) -> Sequence[Value]:
        """Return which of some items are this rank's: every size-th."""
        return items[self.rank :: self.size]

    def gathered(self, value: Value) -> list[Value]:
        """Return the values of all ranks, in their order; tensors come back on this rank's own device.

        Raises
        ------
        PeerLostError
            If one of them has ended.
        """
        if self.size == 1:
            return [value]
        packed = _packed((value, is_stop_asked()))
        parts, sizes = self._exchanged(packed)
        is_cut = max(sizes) > self._room
        self._room = -(-max(sizes) // _ROOM) * _ROOM
        if is_cut:
            parts, sizes = self._exchanged(packed)
        found = [_unpacked(part[:size]) for part, size in zip(parts, sizes, strict=True)]
        self._is_stop_asked = any(is_asked for _, is_asked in found)
        return [each for each, _ in found]

    def _exchanged(self, packed: Tensor) -> tuple[list[Tensor], list[int]]:
        """Return the messages of all ranks, as far as there is room, and how long they are."""
        message = torch.empty(_SIZE + self._room, dtype=torch.uint8)
        message[:_SIZE] = torch.tensor([len(packed)]).view(torch.uint8)
        sent = packed[: self._room]
        message[_SIZE : _SIZE + len(sent)] = sent
        parts = [torch.empty_like(message) for _ in range(self.size)]
        with _hearing_of_losses():
            distributed.all_gather(parts, message)
        return [part[_SIZE:] for part in parts], [int(part[:_SIZE].view(torch.long)) for part in parts]

    def of_first(self, find: Callable[[], Value]) -> Value:
        """Let rank 0 alone find a value, and return it to all."""
        if self.size == 1:
            return find()
        packed = _packed(find()) if self.is_first else torch.zeros(0, dtype=torch.uint8)
        size = torch.tensor([len(packed)])
        with _hearing_of_losses():
            distributed.broadcast(size, 0)
        content = packed if self.is_first else torch.zeros(int(size), dtype=torch.uint8)
        with _hearing_of_losses():
            distributed.broadcast(content, 0)
        return _unpacked(content)

    def after_first(self, find: Callable[[], Value]) -> Value:
        """Let rank 0 find a value first, so that it alone reports what is wrong; then all others find theirs."""
        found = find() if self.is_first else None
        self.wait()
        return found if self.is_first else find()  # type: ignore[return-value]

    def wait(self) -> None:
        """Wait until all ranks are here."""
        self.gathered(None)


@contextmanager
def _hearing_of_losses() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise PeerLostError("another process of this run has ended") from error


ALONE = Ranks()


@dataclass(frozen=True)
class Launch:
    """What started this process tells it.

    Parameters
    ----------
    rank, size
        Of the run.
    local_rank
        Among the processes of this machine.
    host, port
        Where they meet; torchrun says so to torch itself.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    host: str | None = None
    port: int = 0

    def meet(self) -> None:
        """Wait for the others and form their group."""
        if self.host is None:
            distributed.init_process_group("gloo", timeout=_PATIENCE)
            return
        store = TCPStore(self.host, self.port, self.size, self.rank == 0, timeout=_MEETING)
        distributed.init_process_group("gloo", store=store, rank=self.rank, world_size=self.size, timeout=_PATIENCE)


def find_launch(environment: Mapping[str, str] = os.environ) -> Launch:
    """Return what torchrun has said, or srun of a step of several tasks; else this process is alone.

    A job with several tasks whose script starts one process, without srun, has one rank.
    """
    if "RANK" in environment and "WORLD_SIZE" in environment:
        return Launch(int(environment["RANK"]), int(environment["WORLD_SIZE"]), int(environment.get("LOCAL_RANK", "0")))
    size = int(environment.get("SLURM_STEP_NUM_TASKS", "1"))
    if size == 1:
        return Launch()
    job, step = int(environment["SLURM_JOB_ID"]), int(environment.get("SLURM_STEP_ID", "0"))
    return Launch(
        int(environment["SLURM_PROCID"]),
        size,
        int(environment["SLURM_LOCALID"]),
        _first_host(environment["SLURM_STEP_NODELIST"]),
        _FIRST_PORT + (7 * job + step) % _PORTS,
    )


def _first_host(nodes: str) -> str:
    """Return the first of SLURM's list, such as gpu[003-005,7],login."""
    name, bracket, numbers = nodes.partition(",")[0].partition("[")
    return name + re.split("[-,\\]]", numbers)[0] if bracket else name


@contextmanager
def joined(launch: Launch | None = None) -> Iterator[Ranks]:
    """Join the other processes of the run, where there are any.

    Messages go through main memory (gloo): those of a step are small.
    """
    launch = launch or find_launch()
    if launch.size == 1:
        yield Ranks()
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(launch.local_rank % torch.cuda.device_count())
    try:
        launch.meet()
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise PeerLostError(f"the {launch.size} processes of this run did not meet: {reason}") from error
    ranks = Ranks(launch.rank, launch.size)
    yield ranks
    ranks.wait()  # nobody leaves while another still works
    distributed.destroy_process_group()


class _Packer(pickle.Pickler):
    """Packs tensors as arrays: a step has dozens of small ones, and torch's own pickles take ten times as long."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, Tensor):
            return _tensor, (obj.detach().cpu().numpy(), obj.is_cuda)
        return NotImplemented


def _tensor(array: np.ndarray, is_cuda: bool) -> Tensor:
    found = torch.from_numpy(np.array(array))
    return found.cuda() if is_cuda else found


def _packed(value: object) -> Tensor:
    content = io.BytesIO()
    _Packer(content, pickle.HIGHEST_PROTOCOL).dump(value)
    return torch.frombuffer(content.getbuffer(), dtype=torch.uint8)


def _unpacked(content: Tensor) -> Any:
    return pickle.loads(content.numpy().tobytes())
