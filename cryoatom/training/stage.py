"""How the library reports progress: it calls back, the command line shows."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

Advance = Callable[[int, str], None]
"""Called with the count done so far and a note."""

Stage = Callable[[int, str], AbstractContextManager[Advance]]
"""Opens a stage of the work: (total count, title)."""


def silent(total: int, title: str) -> AbstractContextManager[Advance]:
    """Return a stage that reports to nobody."""
    return nullcontext(lambda done, note: None)
