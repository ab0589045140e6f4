"""Where the image stacks named in a particle file are on this machine."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

logger = logging.getLogger(__name__)

_SHOWN = 20  # names in an error message; the log has them all


def locate_stacks(names: Sequence[str], source: Path, datadir: Path | None = None) -> tuple[Path, ...]:
    """Find image stacks by the names that a particle file has for them.

    With `datadir`, a stack is `datadir` joined with the whole name, else with the file name alone. Without it, names
    are relative to the particle file's folder, to a folder above it (a RELION project), or to the working directory.
    Which rule matched is logged.

    Parameters
    ----------
    names : sequence of str
        Distinct names.
    source : Path
        The particle file.
    datadir : Path, optional

    Returns
    -------
    tuple of Path
        Resolved, one for each name.

    Raises
    ------
    FileNotFoundError
        Naming all stacks that are in none of these places, or `datadir` itself.
    ValueError
        If two names would be the same file because their folders were ignored.
    """
    if datadir is not None and not datadir.is_dir():
        raise FileNotFoundError(f"the data folder {datadir} does not exist")
    rules = _rules(source, datadir)
    found, missing, matched = [], [], Counter()
    for name in names:
        for root, is_whole_name in rules:
            path = root / (name if is_whole_name else Path(name).name)
            if path.is_file():
                found.append(path.resolve())
                matched[root, is_whole_name] += 1
                break
        else:
            missing.append(name)
    if missing:
        raise FileNotFoundError(_missing_text(missing, len(names), source, datadir, [root for root, _ in rules]))
    for (root, is_whole_name), count in matched.items():
        how = "by their whole names" if is_whole_name else "by file name, ignoring their folders"
        logger.info("%d of %d image stacks found in %s %s", count, len(names), root, how)
    if any(not is_whole_name for _, is_whole_name in matched):
        _check_distinct(names, found, source)
    return tuple(found)


def stack_name(stack: Path, name: str, source: Path) -> str:
    """Return a name by which :func:`locate_stacks` finds a stack from the particle file `source` that is to be written.

    That is the name it had, where this still leads to it from the folder of `source` or one above it (a RELION
    project), or where there is no such file; else its path relative to that folder.
    """
    folder = source.absolute().parent
    found = next((path for root in (folder, *folder.parents) if (path := root / name).is_file()), None)
    if not stack.is_file() or (found is not None and found.samefile(stack)):
        return name
    return os.path.relpath(stack.resolve(), folder.resolve())


def _rules(source: Path, datadir: Path | None) -> list[tuple[Path, bool]]:
    """Return (folder, whether the whole name is joined to it), in the order in which they are tried."""
    if datadir is not None:
        return [(datadir.absolute(), True), (datadir.absolute(), False)]
    folder = source.absolute().parent
    return [(root, True) for root in dict.fromkeys([folder, *folder.parents, Path.cwd()])]


def _missing_text(names: list[str], total: int, source: Path, datadir: Path | None, roots: list[Path]) -> str:
    listed = ", ".join(names[:_SHOWN])
    if len(names) > _SHOWN:
        listed += f" and {len(names) - _SHOWN} more"
        logger.info("missing image stacks: %s", ", ".join(names))
    where = " and ".join(map(str, dict.fromkeys(roots))) if datadir else f"the folder of {source} and those above it"
    return f"{len(names)} of {total} image stacks of {source} do not exist (looked in {where}): {listed}" + (
        "" if datadir else "; give the folder that they are relative to with --datadir"
    )


def _check_distinct(names: Sequence[str], found: list[Path], source: Path) -> None:
    seen: dict[Path, str] = {}
    for name, path in zip(names, found, strict=True):
        if path in seen:
            raise ValueError(
                f"{source} names {seen[path]} and {name}, and both would be {path}: "
                "keep the stacks in their folders and give the folder above with --datadir"
            )
        seen[path] = name
