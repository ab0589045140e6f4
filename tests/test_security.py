"""Files come from strangers: they are read, never run, and nothing leaves this machine."""

import ast
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import cryoatom
from cryoatom.config import load_config
from cryoatom.files.rows import read_rows
from cryoatom.files.trajectory import read_trajectory
from cryoatom.run_folder import RunFolder
from cryoatom.train_config import TrainConfig
from cryoatom.training.checkpoint import find_checkpoint

ROOT = Path(cryoatom.__file__).parent
TREES = {str(path.relative_to(ROOT)): ast.parse(path.read_text()) for path in sorted(ROOT.rglob("*.py"))}
RESTRICTED_UNPICKLERS = {"files/pickles.py", "files/cryodrgn.py"}
NETWORK_AND_PROGRAMS = {
    *("socket", "urllib", "http", "requests", "httpx", "aiohttp", "ftplib", "smtplib", "ssl", "xmlrpc", "webbrowser"),
    *("subprocess", "pty", "multiprocessing", "ctypes", "cffi", "marshal", "shelve", "dill", "cloudpickle", "joblib"),
}
RUNNERS = {"eval", "exec", "compile", "__import__", "breakpoint"}
OF_OS = {"system", "popen", "startfile", "fork", "forkpty"}


def nodes(kind: type | tuple[type, ...]) -> list[tuple[str, Any]]:
    return [(module, node) for module, tree in TREES.items() for node in ast.walk(tree) if isinstance(node, kind)]


def imported(node: ast.Import | ast.ImportFrom) -> list[str]:
    return [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]


def test_no_network_and_no_other_programs():
    found = {(module, name) for module, node in nodes((ast.Import, ast.ImportFrom)) for name in imported(node)}
    others = {(module, name) for module, name in found if name.split(".")[0] in NETWORK_AND_PROGRAMS}
    assert others == {("comparison/process.py", "subprocess")}  # jobs of `cryoatom compare` are cryoatom itself


def test_nothing_is_evaluated():
    calls = [(module, node.lineno, node.func) for module, node in nodes(ast.Call)]
    assert not [(m, line) for m, line, call in calls if isinstance(call, ast.Name) and call.id in RUNNERS]
    owners = [(m, line, c) for m, line, c in calls if isinstance(c, ast.Attribute) and isinstance(c.value, ast.Name)]
    assert not [
        (m, line)
        for m, line, c in owners
        if c.value.id == "os" and (c.attr in OF_OS or c.attr.startswith(("exec", "spawn")))
    ]
    imports = [(m, node) for m, node in nodes(ast.ImportFrom) if node.module == "os"]
    assert not [(m, node.lineno) for m, node in imports if {alias.name for alias in node.names} & OF_OS]


def test_pickles_are_read_by_a_restricted_unpickler_alone():
    for module, node in nodes((ast.Import, ast.ImportFrom)):
        if isinstance(node, ast.ImportFrom) and node.module == "pickle":
            names = {alias.name for alias in node.names}
            assert names <= {"UnpicklingError"} or module in RESTRICTED_UNPICKLERS, (module, names)
    for module, node in nodes(ast.Attribute):
        if isinstance(node.value, ast.Name) and node.value.id in ("pickle", "pd", "pandas"):
            is_of_a_peer = (
                module == "distributed.py" and node.attr == "loads"
            )  # what another process of the run has sent
            assert is_of_a_peer or node.attr not in ("load", "loads", "read_pickle", "read_hdf"), (module, node.lineno)
            assert node.attr != "Unpickler" or module in RESTRICTED_UNPICKLERS, (module, node.lineno)
    for module, node in nodes(ast.ClassDef):
        if any("Unpickler" in ast.unparse(base) for base in node.bases):
            assert module in RESTRICTED_UNPICKLERS
            assert {"find_class", "persistent_load"} & {f.name for f in node.body if isinstance(f, ast.FunctionDef)}


def test_loaders_are_told_to_load_data_only():
    for module, node in nodes(ast.Call):
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        assert given.get("allow_pickle", "False") == "False", (module, node.lineno)
        assert given.get("shell", "False") == "False", (module, node.lineno)
        name = ast.unparse(node.func)
        if name == "torch.load":
            assert given.get("weights_only") == "True", (module, node.lineno)
        assert name not in ("torch.jit.load", "torch.hub.load", "yaml.load", "yaml.unsafe_load", "yaml.full_load")


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return (Path.touch, (self.target,))


@pytest.mark.parametrize("suffix", ["npy", "npz", "pt", "pkl", "cs"])
def test_a_pickle_inside_a_file_is_not_run(tmp_path, suffix):
    bomb, path = Bomb(tmp_path / "bang"), tmp_path / f"weights.1.{suffix}"
    array = np.array([bomb], dtype=object)
    with path.open("wb") as file:
        if suffix in ("npy", "cs"):
            np.save(file, array, allow_pickle=True)
        elif suffix == "npz":
            np.savez(file, a=array)
        elif suffix == "pt":
            torch.save({"identity": {}, "model": bomb}, file)
        else:
            pickle.dump(bomb, file)
    from cryoatom.particles.table import read_particles
    from cryoatom.structure.graph import read_graph

    readers = {
        "npy": (read_rows, read_trajectory),
        "npz": (read_graph,),
        "pt": (lambda path: find_checkpoint(path, RunFolder(tmp_path), {}),),
        "pkl": (read_rows,),
        "cs": (read_particles,),
    }[suffix]
    for read in readers:
        with pytest.raises(ValueError) as caught:
            read(path)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "bang").exists()


@pytest.mark.parametrize(
    "text",
    [
        "seed: !!python/object/apply:os.system ['touch bang']",
        "!!python/object/new:os.system ['touch bang']",
        "seed: !!python/name:os.system",
    ],
)
def test_a_python_tag_in_a_configuration_file_is_refused(tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"config\.yaml is not a YAML file: could not determine a constructor"):
        load_config(path, TrainConfig)
    assert not (tmp_path / "bang").exists()


@pytest.mark.parametrize(
    "text",
    [
        "cmd: &a [x, x, x, x, x, x, x, x, x]\n"
        + "\n".join(f"{n}: &{n} [{', '.join([f'*{m}'] * 9)}]" for m, n in zip("abcdefgh", "bcdefghi", strict=True))
        + "\nseed: *i",
        "seed: " + "[" * 5000,
        "seed: " + "{a: " * 5000,
        "- " * 5000,
        "seed: &a [*a]",
        "x" * 3_000_000,
    ],
    ids=["billion laughs", "brackets", "braces", "dashes", "itself", "long"],
)
def test_a_configuration_file_of_any_shape_is_an_error_in_one_line(tmp_path, text):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"config\.yaml") as caught:
        TrainConfig.merge({}, path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 3000
