"""What is known of a job: a JSON file in its run folder, written whole."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from cryoatom.files.replacing import replacing


@dataclass(frozen=True)
class Record:
    """A job that was run.

    Parameters
    ----------
    system : str
    seed : int
    settings : dict
        Of `cryoatom train`.
    training : dict or None
        Cost of the training, by name: training_seconds (of all epochs), wall_seconds (of the process; of an interrupted
        training over all tries, to a few seconds), peak_memory_gb (of the last try's process), weights (numbers
        learned). None: it failed.
    truth : dict
        Files of the truth that `figures` compare with; empty without one.
    figures : dict or None
        Quality, by name; a figure that needs what is absent is None. None: not measured yet, or it failed.
    error : str or None
        First line of what went wrong.
    files : dict
        What :func:`stamp` knew of the files that training and figures are of, by option.
    """

    system: str
    seed: int
    settings: dict[str, Any]
    training: dict[str, float | None] | None = None
    truth: dict[str, str] | None = None
    figures: dict[str, float | None] | None = None
    error: str | None = None
    files: dict[str, list[int]] = field(default_factory=dict)

    def changed_files(self, files: Mapping[str, Path]) -> list[str]:
        """Return which of some files by option are there and were others then."""
        return [name for name, now in stamp(files).items() if self.files.get(name, now) != now]

    def figure(self, name: str) -> float | None:
        """Return a figure of quality or cost, None where it is not known."""
        return {**(self.training or {}), **(self.figures or {})}.get(name)


def stamp(files: Mapping[str, Path]) -> dict[str, list[int]]:
    """Return size (bytes) and time (ns) of those files that are there: another content shows in them."""
    found = {name: path.stat() for name, path in files.items() if path.is_file()}
    return {name: [status.st_size, status.st_mtime_ns] for name, status in found.items()}


def write_record(path: Path, record: Record) -> None:
    """Write a record."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(asdict(record), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_record(path: Path) -> Record | None:
    """Read a record; None where there is none.

    Raises
    ------
    ValueError
        If the file is something else.
    """
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return Record(**{each.name: content[each.name] for each in fields(Record) if each.name in content})
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no record of a job ({error}): remove it, and the job is run again") from None
