"""What ends a command from outside (a batch system, a closed terminal, Ctrl-C) ends it in order."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(KeyboardInterrupt):
    """A signal asked the command to end."""

    def __init__(self, number: int) -> None:
        self.signal = signal.Signals(number)
        super().__init__("interrupted" if number == signal.SIGINT else f"stopped by {self.signal.name}")

    @property
    def exit_code(self) -> int:
        """Return 128 + the signal, as shells report it."""
        return 128 + self.signal


@contextmanager
def stopping() -> Iterator[None]:
    """Raise :class:`Stopped` on the first signal, so that temporary files and locks go; the second one kills.

    A signal that is ignored stays so: SIGHUP under nohup, SIGINT in a job that a script put into the background.
    """
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    caught = [number for number, handler in before.items() if handler is not signal.SIG_IGN]

    def stop(number: int, frame: FrameType | None) -> None:
        for each in caught:
            signal.signal(each, signal.SIG_DFL)
        raise Stopped(number)

    for number in caught:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in caught:
            signal.signal(number, before[number])
