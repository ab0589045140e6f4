"""Damaged and hostile files: a reader returns a value, or says in one line what is wrong with which file."""

import pickle
import shutil
import struct
import tracemalloc
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from molecules import helix
from particle_data import cs_fields, make_exact_particles, write_cryodrgn, write_cs

from cryoatom.files.mrc import open_stack
from cryoatom.files.rows import read_rows
from cryoatom.files.star import write_star_particles
from cryoatom.files.structure import read_atoms, read_models, write_atoms
from cryoatom.files.trajectory import DcdWriter, read_topology, read_trajectory
from cryoatom.particles.table import CTF_READERS, IMAGE_READERS, POSE_READERS, read_particles
from cryoatom.run_folder import RunFolder
from cryoatom.structure.graph import build_graph, read_graph, write_graph
from cryoatom.structure.template import read_template, template_from_atoms
from cryoatom.train_config import TrainConfig
from cryoatom.training.checkpoint import find_checkpoint

MEMORY = 200e6  # bytes that no reader of a file of some kilobytes may ask for
FEW = settings(derandomize=True, max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
MANY = settings(database=None, max_examples=2000, deadline=None, suppress_health_check=list(HealthCheck))

PSF = """PSF EXT

       1 !NTITLE
 REMARKS two residues

       3 !NATOM
       1 A    1    ALA  N    NH1   -0.470000       14.0070           0
       2 A    1    ALA  CA   CT1    0.070000       12.0110           0
       3 A    2    ALA  N    NH1   -0.470000       14.0070           0

       0 !NBOND: bonds
"""
CONFIG = "particles: p.star\ntemplate: t.cif\noutdir: run\nseed: 3\nlr: 1e-3\ndecoder: gnn\ndcd: true\npdb: none\n"
WORDS = [b"", b"nan", b"inf", b"-1", b"0", b"1e400", b"99999999999999999999", b"?", b".", b"'", b'"', b";", b"#", b"@"]
WORDS += [b"loop_", b"data_", b"data_optics", b"_rlnImageName", b"_rlnVoltage", b"\xff", b"\0", b"a b", b"\xce\xb1"]
WORDS += [b"[", b"{", b"!!python/name:os.system", b"&a", b"*a", b"0x10", b"2024-13-45", b"TRUE", b"~", b"../../../a@b"]


def read_with_pickles(path: Path) -> object:
    """Read a list of stacks with cryoDRGN's pickles, one of the three files given."""
    files = {suffix: path.parent / name for suffix, name in (("pose", "pose.pkl"), ("ctf", "ctf.pkl"))}
    stem = path.stem.rpartition("-")[2]
    files[stem] = path
    images = files.get("stacks", path.parent / "stacks.txt")
    return read_particles(images, poses=files["pose"], ctf=files["ctf"])


def read_config(path: Path) -> object:
    return TrainConfig.merge({}, path)


def read_images(path: Path) -> object:
    stack = open_stack(path)
    return stack.read(np.array([0, stack.count - 1]))


def write_dcd(path: Path) -> None:
    with DcdWriter(path, 4) as writer:
        writer.write(np.arange(36.0).reshape(3, 4, 3))


def write_npz(path: Path) -> None:
    write_graph(path, build_graph(template_from_atoms(helix(5), "helix")[0]))


def write_trajectory_npy(path: Path) -> None:
    np.save(path, np.zeros((2, 4, 3), np.float32))


def write_checkpoint(path: Path) -> None:
    import torch

    torch.save({"identity": {"a": "b"}, "history": [], "model": {"w": torch.zeros(3)}}, path)


def read_checkpoint(path: Path) -> object:
    return find_checkpoint(path, RunFolder(path.parent), {"a": "b"})


READ: dict[str, tuple[Callable[[Path], object], ...]] = {
    "rows.npy": (read_rows,),
    "rows.txt": (read_rows,),
    "stack.mrcs": (read_images,),
    "atoms.cif": (read_atoms, read_models, read_template),
    "atoms.pdb": (read_atoms, read_models, read_template),
    "top.psf": (read_topology,),
    "frames.dcd": (read_trajectory,),
    "frames.npy": (read_trajectory,),
    "config.yaml": (read_config,),
    "graph.npz": (read_graph,),
    "weights.pt": (read_checkpoint,),
    "rows.pkl": (read_rows,),
    "particles.star": (read_particles,),
    "particles.cs": (read_particles,),
    "stacks.txt": (read_with_pickles,),
    "pose.pkl": (read_with_pickles,),
    "ctf.pkl": (read_with_pickles,),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Valid files, one of each kind."""
    folder = tmp_path_factory.mktemp("valid")
    particles = make_exact_particles(folder)
    write_star_particles(folder / "particles.star", particles)
    write_cs(folder / "particles.cs", cs_fields(particles))
    write_cryodrgn(folder, particles)
    (folder / "stacks.txt").write_text("stack0.mrcs\nstack1.mrcs\n")
    (folder / "rows.pkl").write_bytes(pickle.dumps(np.arange(3)))
    shutil.copy(folder / "stack0.mrcs", folder / "stack.mrcs")
    np.save(folder / "rows.npy", np.arange(5))
    (folder / "rows.txt").write_text("0 1 2\n4\n")
    (folder / "top.psf").write_text(PSF)
    (folder / "config.yaml").write_text(CONFIG)
    for suffix in ("cif", "pdb"):
        write_atoms(folder / f"atoms.{suffix}", helix(4))
    write_dcd(folder / "frames.dcd")
    write_trajectory_npy(folder / "frames.npy")
    write_npz(folder / "graph.npz")
    write_checkpoint(folder / "weights.pt")
    return folder


def check(read: Callable[[Path], object], path: Path) -> None:
    """Read a file; anything but a value, or an error of one line, fails."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read(path)
    except (ValueError, OSError) as error:
        text = str(error)
        assert text.strip() and "\n" not in text and len(text) < 5000, text
        named = (path.name, "stack0.mrcs", "stack1.mrcs", "not given, on the command line or by --config")
        assert any(name in text for name in named), text


def mutated(draw: st.DataObject, content: bytes) -> bytes:
    """Return the content after some cuts, copies and replacements of bytes, words and lines."""
    for _ in range(draw.draw(st.integers(1, 4))):
        kind = draw.draw(st.sampled_from(["bytes", "word", "line", "cut", "double", "insert", "zeros"]))
        if kind in ("word", "line"):
            separator = b"\n" if kind == "line" else b" "
            parts = content.split(separator)
            at, other = (draw.draw(st.integers(0, len(parts) - 1)) for _ in range(2))
            change = draw.draw(st.sampled_from(["drop", "repeat", "swap", "replace"]))
            if change == "drop":
                del parts[at]
            elif change == "repeat":
                parts.insert(at, parts[other])
            elif change == "swap":
                parts[at], parts[other] = parts[other], parts[at]
            else:
                parts[at] = draw.draw(st.sampled_from(WORDS) | st.binary(max_size=8))
            content = separator.join(parts)
            continue
        at = draw.draw(st.integers(0, len(content)))
        size = draw.draw(st.integers(0, 40))
        old, drawn = content[at : at + size], draw.draw(st.binary(max_size=12))
        new = {"bytes": drawn, "cut": b"", "double": 2 * old, "insert": drawn + old, "zeros": bytes(size)}[kind]
        tail = b"" if kind == "cut" and draw.draw(st.booleans()) else content[at + size :]
        content = content[:at] + new + tail
    return content


def fuzz_text(name: str, folder: Path, tmp_path: Path, data: st.DataObject) -> None:
    path = folder / f"fuzzed-{name}"
    path.write_bytes(mutated(data, (folder / name).read_bytes()))
    for read in READ[name]:
        check(read, path)


@pytest.mark.parametrize("name", READ)
def test_damaged_files(folder, tmp_path, name):
    FEW(given(st.data())(lambda data: fuzz_text(name, folder, tmp_path, data)))()


@pytest.mark.slow
@pytest.mark.parametrize("name", READ)
def test_many_damaged_files(folder, tmp_path, name):
    MANY(given(st.data())(lambda data: fuzz_text(name, folder, tmp_path, data)))()


@pytest.mark.parametrize("name", READ)
def test_what_is_valid_is_read_and_no_kind_is_left_out(folder, name):
    assert {*IMAGE_READERS, *POSE_READERS, *CTF_READERS} <= {Path(each).suffix for each in READ} | {".mrc"}
    for read in READ[name]:
        assert read(folder / name) is not None


@pytest.mark.parametrize("name", READ)
@pytest.mark.parametrize(
    "content",
    [b"", b"\n", b"\0" * 2000, b"\xff" * 2000, b"GIF89a" * 300, b"\x1f\x8b" + b"\0" * 50],
    ids=["empty", "blank", "zeros", "ones", "picture", "gzip"],
)
def test_files_of_another_kind(folder, name, content):
    path = folder / f"other-{name}"
    path.write_bytes(content)
    for read in READ[name]:
        check(read, path)
        if name != "rows.txt" or content.strip():
            with pytest.raises((ValueError, OSError)):
                read(path)


# --- numbers of a header that promise more than there is ------------------------------------------------------------


def with_little_memory(read: Callable[[Path], object], path: Path) -> None:
    tracemalloc.start()
    try:
        check(read, path)
        assert tracemalloc.get_traced_memory()[1] < MEMORY
    finally:
        tracemalloc.stop()


INTEGERS = st.sampled_from([0, 1, -1, 2, 8, 64, 65535, 65536, 2**31 - 1, -(2**31), 10**9]) | st.integers(-100, 100)


@settings(parent=FEW, max_examples=150)
@given(st.data())
def test_mrc_headers(folder, data):
    content = bytearray((folder / "stack.mrcs").read_bytes())
    order = data.draw(st.sampled_from("<>"))
    if data.draw(st.booleans()):
        content[:1024] = data.draw(st.binary(min_size=1024, max_size=1024))
    for offset in data.draw(st.lists(st.sampled_from([0, 4, 8, 12, 28, 92, 160]), max_size=4)):
        struct.pack_into(f"{order}i", content, offset, data.draw(INTEGERS))
    if data.draw(st.booleans()):
        struct.pack_into("<f", content, 40, data.draw(st.floats(width=32)))
    path = folder / "header.mrcs"
    path.write_bytes(content)
    with_little_memory(read_images, path)


@pytest.mark.parametrize("shape", [(10**12,), (2**62, 4, 3), (10**6, 10**6, 3), (-1,), (2**64,), ()])
@pytest.mark.parametrize("name", ["rows.npy", "frames.npy"])
def test_npy_headers_that_promise_too_much(folder, name, shape):
    path = folder / f"big-{name}"
    header = f"{{'descr': '<i8', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + bytes(64))
    with pytest.raises((ValueError, OSError)):
        READ[name][0](path)
    with_little_memory(READ[name][0], path)


@settings(parent=FEW, max_examples=60)
@given(st.data())
def test_dcd_headers(folder, data):
    content = bytearray((folder / "frames.dcd").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) // 4 - 1)) * 4
        struct.pack_into("<i", content, place, data.draw(INTEGERS))
    path = folder / "header.dcd"
    path.write_bytes(content)
    with_little_memory(read_trajectory, path)
