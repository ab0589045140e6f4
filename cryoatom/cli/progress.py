"""Progress of a long command: a bar on a terminal, plain lines with times in a batch log, an ETA in both."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from cryoatom.cli.log import run_logger


class Advance(Protocol):
    """What a command tells its progress to."""

    def __call__(self, done: int, note: str = "") -> None:
        """Report the count done so far and, where there is news, a note (an epoch's figures)."""


@contextmanager
def progress(
    total: int, title: str, *, unit: str = "images", console: Console | None = None, seconds: float = 30.0
) -> Iterator[Advance]:
    """Report how far a command is; notes also go to run.log.

    Parameters
    ----------
    total : int
        How many units there are.
    title, unit : str
        What is done, and to what.
    console : rich Console, optional
        Where to write; stderr otherwise.
    seconds : float
        In a batch log, the time between two lines that bring no new note.

    Yields
    ------
    callable
        To be called with the count done so far and a note.
    """
    console = console or Console(stderr=True)
    if console.is_terminal:
        display = _bar(console, total, title, unit)
    else:
        write = functools.partial(console.print, soft_wrap=True, markup=False, highlight=False)
        display = nullcontext(PlainLines(total, title, unit=unit, write=write, seconds=seconds))
    with display as show:

        def advance(done: int, note: str = "") -> None:
            if note:
                run_logger.info("%s: %s", title, note)
            show(done, note)

        yield advance


def progress_of_steps(total: int, title: str) -> AbstractContextManager[Advance]:
    """Report an analysis: its few steps are counted as such, whatever else it does as images."""
    return progress(total, title, unit="steps" if title == "Analysing" else "images")


@contextmanager
def _bar(console: Console, total: int, title: str, unit: str) -> Iterator[Advance]:
    columns = [
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
    ]
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(title, total=total)

        def show(done: int, note: str = "") -> None:
            bar.update(task, completed=done)
            if note:
                bar.console.print(f"  {note}", markup=False, highlight=False)

        yield show


class PlainLines:
    """Progress as lines: one for each new note, one at the end, and one every `seconds` in between."""

    def __init__(
        self,
        total: int,
        title: str,
        *,
        unit: str,
        write: Callable[[str], None],
        seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.total, self.title, self.unit = total, title, unit
        self.write, self.seconds, self.clock = write, seconds, clock
        self.started = self.last_line = clock()
        self.last_note = ""
        self.is_finished = False

    def __call__(self, done: int, note: str = "") -> None:
        """Write a line if there is something new to say."""
        now = self.clock()
        is_news = note not in ("", self.last_note) or (done >= self.total and not self.is_finished)
        if not is_news and now - self.last_line < self.seconds:
            return
        self.is_finished = done >= self.total
        self.last_line, self.last_note = now, note or self.last_note
        self.write(self._line(done, now - self.started, note))

    def _line(self, done: int, elapsed: float, note: str) -> str:
        stamp = time.strftime("%Y-%m-%d %H:%M:%S")
        share = done / self.total if self.total else 1.0
        remaining = _clock_time(elapsed * (1 / share - 1)) if share > 0 else "unknown"
        line = f"{stamp} {self.title} {done:,}/{self.total:,} {self.unit} ({share:.0%})"
        line += f" elapsed {_clock_time(elapsed)} ETA {remaining}"
        return f"{line}  {note}" if note else line


def _clock_time(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
