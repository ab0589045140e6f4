"""A wish to stop, from outside: at once, or at a moment from which the work goes on exactly."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Stopped(KeyboardInterrupt):
    """A signal asked the command to end."""

    def __init__(self, number: int) -> None:
        self.signal = signal.Signals(number)
        super().__init__("interrupted" if number == signal.SIGINT else f"stopped by {self.signal.name}")


class PeerLostError(RuntimeError):
    """Another process of the run has ended, and with it the run; why is its own to say."""


class _Wish:
    """Of this process; signals are heard by its main thread alone."""

    def __init__(self) -> None:
        self.deferrals = 0
        self.number: int | None = None


_wish = _Wish()


@contextmanager
def deferring() -> Iterator[None]:
    """Let signals wait: who defers them asks :func:`is_stop_asked` at moments that suit, and then stops by itself.

    Raises
    ------
    Stopped
        At the end, where one has come and nobody has stopped.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _wish.deferrals += 1
    try:
        yield
    except BaseException:
        _wish.number = None
        raise
    finally:
        _wish.deferrals -= 1
    number, _wish.number = _wish.number, None
    if number is not None:
        raise Stopped(number)


def ask_to_stop(number: int) -> None:
    """Raise :class:`Stopped`, or let the wish wait where it is deferred, unless it is Ctrl-C for the second time."""
    is_second = _wish.number is not None
    if not _wish.deferrals or (is_second and number == signal.SIGINT):
        raise Stopped(number)
    _wish.number = number


def is_deferred() -> bool:
    """Return whether signals wait."""
    return _wish.deferrals > 0


def is_stop_asked() -> bool:
    """Return whether a wish to stop is waiting."""
    return _wish.number is not None


def stop_signal() -> int:
    """Return the signal that waits; SIGTERM where it was another process that heard one."""
    return signal.SIGTERM if _wish.number is None else _wish.number
