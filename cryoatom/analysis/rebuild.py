"""An analysis folder is rebuilt beside the old one, and takes its place when it is whole."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Set
from contextlib import contextmanager
from pathlib import Path

from cryoatom.analysis.analyze_config import AnalyzeConfig
from cryoatom.config import load_config
from cryoatom.files.lock import locked
from cryoatom.run_folder import AnalysisFolder

_NEW = ".new"
_DIGEST = re.compile(r"[0-9a-f]{16}")
_SERIES = re.compile(r"(pc|motion|kmeans)\d+|path")
_OF_SERIES = re.compile(
    r"struct_\d+\.(pdb|cif)|vol_\d+\.mrc|topology\.cif|open\.cxc|"
    r"(z_values|centers|centers_ind|path_ind|rows)\.txt|(labels|position)\.npy|density\.csv"
)
_OUTPUTS = re.compile(
    r"report\.html|summary\.txt|domains\.cxc|(latent_pcs|motions|motion_axes|umap)\.npy|fluctuation\.cif|(domains|trust)\.json|"
    r"(residues|collective|geometry|controls|drift|half_sets)\.csv|cv_.+\.png|"
    r"(latents|motions|path|umap|fluctuation|domains|geometry|controls|drift|half_sets|half_set_residues)\.png"
)


@contextmanager
def rebuilding(folder: AnalysisFolder) -> Iterator[AnalysisFolder]:
    """Yield an empty folder to write an analysis to, and put its content in the place of the earlier one's at the end.

    A kill, or an error, while it is written leaves the earlier analysis as it was. While files change places, for
    milliseconds, there is no state.txt, so that nothing takes the folder for a whole one. Files of the user stay.

    Raises
    ------
    ValueError
        If another analysis writes there, or the folder is no place for one (:func:`check_place`).
    """
    check_place(folder)
    folder.path.mkdir(parents=True, exist_ok=True)
    with locked(folder.lock):
        new = AnalysisFolder(folder.path / _NEW)
        shutil.rmtree(new.path, ignore_errors=True)
        new.path.mkdir()
        try:
            yield new
        except BaseException:
            shutil.rmtree(new.path, ignore_errors=True)
            raise
        _change_places(new, folder)
        shutil.rmtree(new.path)


def _change_places(new: AnalysisFolder, folder: AnalysisFolder) -> None:
    places = {path: folder.path / path.relative_to(new.path) for path in sorted(new.path.rglob("*")) if path.is_file()}
    sign = places.pop(new.state)  # of a whole analysis: away first, there last
    folder.state.unlink(missing_ok=True)
    for path, target in places.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, target)
    clear_outputs(folder, keep=set(places.values()))
    os.replace(new.state, sign)


def check_place(folder: AnalysisFolder) -> None:
    """Check that an analysis may be written to a folder.

    Raises
    ------
    ValueError
        If it is a file, or holds other things and no analysis.
    """
    if folder.path.exists() and not folder.path.is_dir():
        raise ValueError(f"{folder.path} is a file: give a folder with --outdir")
    visible = (
        [path.name for path in folder.path.iterdir() if not path.name.startswith(".")] if folder.path.is_dir() else []
    )
    if visible and not holds_analysis(folder):
        raise ValueError(
            f"{folder.path} holds no analysis, but other files ({min(visible)}): choose another folder with --outdir"
        )


def clear_outputs(folder: AnalysisFolder, keep: Set[Path] = frozenset()) -> None:
    """Remove what an earlier analysis wrote to a folder, but for `keep`, and nothing else.

    Its config.yaml stays: by it, or by state.txt, the folder of an analysis is known, also of one that was cut short.
    In other folders nothing is removed.
    """
    if not holds_analysis(folder):
        return
    folder.state.unlink(missing_ok=True)  # first: from now on it is not whole
    for path in sorted(folder.path.iterdir()):
        if path.is_file() and path not in keep and _OUTPUTS.fullmatch(path.name):
            path.unlink()
        elif path.is_dir() and not path.is_symlink() and _SERIES.fullmatch(path.name):
            _clear_series(path, keep)


def holds_analysis(folder: AnalysisFolder) -> bool:
    """Tell whether a folder is that of an analysis, of one that was cut short too."""
    if folder.state.is_file() and _DIGEST.fullmatch(folder.state.read_text(encoding="utf-8", errors="replace").strip()):
        return True
    try:
        return "ksample" in load_config(folder.config, AnalyzeConfig)
    except (FileNotFoundError, ValueError):  # there is none, or it is that of another program
        return False


def _clear_series(folder: Path, keep: Set[Path]) -> None:
    own = {f"{folder.name}{suffix}" for suffix in (".cif", ".pdb", ".dcd")}
    for path in sorted(folder.iterdir()):
        if path.is_file() and path not in keep and (path.name in own or _OF_SERIES.fullmatch(path.name)):
            path.unlink()
    if not any(folder.iterdir()):
        folder.rmdir()
