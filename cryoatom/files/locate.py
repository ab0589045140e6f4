"""Where the image stacks named in a particle file are on this machine."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

logger = logging.getLogger(__name__)

_SHOWN = 20  # names in an error message; the log has them all


@dataclass(frozen=True)
class _Rule:
    """One place to look: `root` joined with a name, or with its last part, if that stays within one of `bounds`."""

    root: Path
    bounds: tuple[Path, ...]
    is_whole_name: bool = True

    def path(self, name: str) -> Path | None:
        """Return where a name leads, None if that is out of bounds; symbolic links are not followed for this."""
        path = _absolute(self.root / (name if self.is_whole_name else Path(name).name))
        return path if any(path.is_relative_to(bound) for bound in self.bounds) else None

    def __str__(self) -> str:
        return f"in {self.root} by {'their whole names' if self.is_whole_name else 'file name, ignoring their folders'}"


def locate_stacks(names: Sequence[str], source: Path, datadir: Path | None = None) -> tuple[Path, ...]:
    """Find image stacks by the names that a particle file has for them.

    With `datadir`, a stack is `datadir` joined with the whole name, else what the name means from the particle file's
    folder, else `datadir` joined with the file name alone; it lies within `datadir`. Without it, names are relative to
    the particle file's folder, to a folder above it (a RELION project), or to the working directory; / is none of
    these, and absolute names and those with ``..`` must stay below one of them. So a particle file from a stranger
    cannot name just any file of this machine. Symbolic links may lead anywhere: who made them could read what they
    point to. Which rule matched is logged.

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
        If a name is none, or two names would be the same file because their folders were ignored.
    """
    if datadir is not None and not datadir.is_dir():
        raise FileNotFoundError(f"the data folder {datadir} does not exist")
    for name in names:
        if not name.strip() or "\0" in name:
            raise ValueError(f"{source}: expected the name of an image stack, found {name!r}")
    rules = _rules(source, datadir)
    found, missing, matched = [], [], Counter()
    for name in names:
        for rule in rules:
            path = rule.path(name)
            if path is not None and path.is_file():
                found.append(path.resolve())
                matched[rule] += 1
                break
        else:
            missing.append(name)
    if missing:
        raise FileNotFoundError(_missing_text(missing, len(names), source, datadir))
    for rule, count in matched.items():
        logger.info("%d of %d image stacks found %s", count, len(names), rule)
    if any(not rule.is_whole_name for rule in matched):
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


def _rules(source: Path, datadir: Path | None) -> list[_Rule]:
    """Return the places in the order in which they are tried."""
    folder = _absolute(source).parent
    if datadir is not None:
        root = _absolute(datadir)
        return [_Rule(root, (root,)), _Rule(folder, (root,)), _Rule(root, (root,), is_whole_name=False)]
    above = [root for root in (folder, *folder.parents, Path.cwd()) if root != Path(root.anchor)] or [folder]
    return [_Rule(root, tuple(above)) for root in dict.fromkeys(above)]


def _absolute(path: Path) -> Path:
    """Return a path without ``..``; links are not followed."""
    return Path("/" + os.path.abspath(path).lstrip("/"))  # two slashes at the start mean nothing here


def _missing_text(names: list[str], total: int, source: Path, datadir: Path | None) -> str:
    shown = [name if name.isprintable() else repr(name) for name in names]
    listed = ", ".join(shown[:_SHOWN])
    if len(names) > _SHOWN:
        listed += f" and {len(names) - _SHOWN} more"
        logger.info("missing image stacks: %s", ", ".join(shown))
    folder = _absolute(source).parent
    if datadir is None:
        where = f"{folder}, the folders above it and {Path.cwd()}"
    else:
        where = f"{datadir}, by their whole names, by the same from {folder}, and by file name alone"
    text = f"{len(names)} of {total} image stacks of {source} do not exist (looked in {where}): {listed}"
    return text + _way_out(names, folder, datadir)


def _way_out(names: list[str], folder: Path, datadir: Path | None) -> str:
    """Say what the first missing name has against it, if it is there after all."""
    path = _absolute(folder / names[0])
    if path.exists() and not path.is_file():
        return f"; {path} is no regular file"
    if not path.is_file():
        return "" if datadir else "; give the folder that they are relative to with --datadir"
    other = "another" if datadir else "a"
    return f"; {path} exists, but lies outside of where names may lead: if you trust it give {other} --datadir above it"


def _check_distinct(names: Sequence[str], found: list[Path], source: Path) -> None:
    seen: dict[Path, str] = {}
    for name, path in zip(names, found, strict=True):
        if path in seen:
            raise ValueError(
                f"{source} names {seen[path]} and {name}, and both would be {path}: "
                "keep the stacks in their folders and give the folder above with --datadir"
            )
        seen[path] = name
