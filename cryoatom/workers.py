"""Map pieces of work over threads and processes, each piece whole in one thread.

A chunk of a few dozen images fits the caches of one core; a small tensor operation split over cores does not pay for
the split (on a busy machine it ran 20-100 times slower). So each worker thread owns whole chunks and computes with
one thread. Results come in chunk order, hence sums do not depend on the number of workers, nor on that of the processes
that make the run together: each takes its part of the pieces, and all have the values of all of them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from types import TracebackType
from typing import Self, TypeVar

import torch

from cryoatom.distributed import ALONE, Ranks

_ROUNDS = 2  # of its threads that a process takes between two gatherings
Item = TypeVar("Item")
Result = TypeVar("Result")


def _use_one_thread() -> None:
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)


class Workers:
    """A pool of threads, in each of the processes of a run.

    Parameters
    ----------
    count
        Threads; with one, everything runs in the caller's.
    ranks
        The processes; all of them must map the same items at the same moment of the run.
    """

    def __init__(self, count: int, ranks: Ranks = ALONE):
        self._count, self.ranks = count, ranks
        self._pool: ThreadPoolExecutor | None = None

    def __enter__(self) -> Self:
        self._round = _ROUNDS * min(self.ranks.gathered(self._count)) * self.ranks.size  # machines may have other cores
        self._before = torch.get_num_threads()
        _use_one_thread()
        if self._count > 1:
            self._pool = ThreadPoolExecutor(self._count, initializer=_use_one_thread)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None
        torch.set_num_threads(self._before)
        torch.set_flush_denormal(False)

    @contextmanager
    def idle(self) -> Iterator[None]:
        """Lend the cores of the workers, which wait, to what the caller's thread computes: large operations pay."""
        before = torch.get_num_threads()
        torch.set_num_threads(self._count)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    def map(self, function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """Return the function's values in the order of the items."""
        return list(self.stream(function, items))

    def stream(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Yield the function's values in the order of the items; at most a few of them wait to be taken."""
        if self.ranks.size == 1:
            yield from self._own(function, items)
            return
        remaining, size = iter(items), self.ranks.size
        while part := list(islice(remaining, self._round)):
            of_ranks = self.ranks.gathered(list(self._own(function, self.ranks.share(part))))
            for index in range(len(part)):
                yield of_ranks[index % size][index // size]

    def _own(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Yield the values of what this process does."""
        if self._pool is None:
            yield from map(function, items)
            return
        waiting: deque[Future[Result]] = deque()
        for item in items:
            waiting.append(self._pool.submit(function, item))
            if len(waiting) > 2 * self._count:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
