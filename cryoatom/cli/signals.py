"""What ends a command from outside (a batch system, a closed terminal, Ctrl-C) ends it in order."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from cryoatom.interruption import Stopped, ask_to_stop, is_deferred

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


def exit_code(stop: Stopped, *, is_resumable: bool) -> int:
    """Return 75 where a batch system has stopped what can go on in another job; else 128 + the signal, as shells do."""
    is_batch = stop.signal in (signal.SIGTERM, signal.SIGUSR1)
    return os.EX_TEMPFAIL if is_resumable and is_batch else 128 + stop.signal


@contextmanager
def stopping() -> Iterator[None]:
    """Raise :class:`Stopped` on the first signal, so that temporary files and locks go; the second one kills.

    Where a wish to stop waits, further ones do too: batch systems and torchrun say it twice. A signal that is ignored
    stays so: SIGHUP under nohup, SIGINT in a job that a script put into the background.
    """
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    caught = [number for number, handler in before.items() if handler is not signal.SIG_IGN]

    def stop(number: int, frame: FrameType | None) -> None:
        if not is_deferred():
            for each in caught:
                signal.signal(each, signal.SIG_DFL)
        ask_to_stop(number)

    for number in caught:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in caught:
            signal.signal(number, before[number])
