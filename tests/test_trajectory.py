import resource
import struct

import numpy as np
import pytest
from biotraj import DCDTrajectoryFile
from molecules import data_folder, helix

from cryoatom.files.structure import write_models
from cryoatom.files.trajectory import DcdWriter, read_topology, read_trajectory

DATA = data_folder()


@pytest.fixture
def frames():
    return np.random.default_rng(0).normal(scale=30, size=(7, 5, 3)).astype(np.float32)


def write_dcd(path, frames):
    with DcdWriter(path, frames.shape[1]) as writer:
        writer.write(frames)
    return path


def test_adk_has_names_elements_and_bonds_of_protein_length():
    trajectory = read_trajectory(DATA / "adk_dims2.dcd", DATA / "adk.psf")
    atoms = trajectory.atoms
    assert trajectory.positions.shape == (102, 3341, 3) and len(trajectory) == 102
    assert trajectory.positions.dtype == np.float32
    assert (atoms.names == "CA").sum() == 214
    assert dict(zip(*np.unique(atoms.elements, return_counts=True), strict=True)) == {
        "C": 1040, "H": 1685, "N": 289, "O": 320, "S": 7,
    }  # fmt: skip
    peptide = trajectory.positions[:, atoms.names == "N"][:, 1:] - trajectory.positions[:, atoms.names == "C"][:, :-1]
    assert np.all(np.abs(np.linalg.norm(peptide, axis=-1) - 1.33) < 0.2)


def test_xtc_is_in_angstrom():
    trajectory = read_trajectory(DATA / "adk_oplsaa.xtc", DATA / "adk_oplsaa.pdb")
    assert trajectory.positions.shape == (10, 47681, 3)
    names = trajectory.atoms.names.tolist()
    alpha, carbon = (trajectory.positions[:, names.index(name)] for name in ("CA", "C"))
    assert np.all(np.abs(np.linalg.norm(alpha - carbon, axis=-1) - 1.52) < 0.15)


def test_without_a_topology_only_a_structure_names_its_atoms(tmp_path, frames):
    assert read_trajectory(write_dcd(tmp_path / "a.dcd", frames)).atoms is None
    models = read_trajectory(DATA / "nmr_neopetrosiamide.pdb")
    assert models.positions.shape == (24, 392, 3)
    assert models.atoms.names[:2].tolist() == ["N", "CA"]


@pytest.mark.parametrize("suffix", [".pdb", ".cif"])
def test_models_come_back(tmp_path, suffix):
    atoms = helix(3)
    positions = atoms.positions + np.arange(4)[:, None, None]
    write_models(tmp_path / f"m{suffix}", atoms, positions)
    trajectory = read_trajectory(tmp_path / f"m{suffix}")
    np.testing.assert_allclose(trajectory.positions, positions, atol=6e-4)
    assert trajectory.atoms.names.tolist() == atoms.names.tolist()


def test_npy_comes_back(tmp_path, frames):
    np.save(tmp_path / "f.npy", frames.astype(np.float64))
    np.testing.assert_array_equal(read_trajectory(tmp_path / "f.npy").positions, frames)


def test_dcd_comes_back_bit_by_bit_however_it_was_streamed(tmp_path, frames):
    with DcdWriter(tmp_path / "b.dcd", 5) as writer:
        for start in range(0, 7, 3):
            writer.write(frames[start : start + 3])
        writer.write(frames[:0])
    assert (tmp_path / "b.dcd").read_bytes() == write_dcd(tmp_path / "a.dcd", frames).read_bytes()
    np.testing.assert_array_equal(read_trajectory(tmp_path / "a.dcd").positions, frames)


def test_dcd_header_is_charmm_and_counts_the_frames(tmp_path, frames):
    data = write_dcd(tmp_path / "a.dcd", frames).read_bytes()
    control = struct.unpack("<i4s20i", data[:88])
    assert control[:3] == (84, b"CORD", 7)
    assert control[-1] == 24  # the CHARMM version: readers take the file for X-PLOR without it
    with DCDTrajectoryFile(str(tmp_path / "a.dcd")) as stream:
        assert len(stream) == 7


def test_a_failed_block_leaves_the_old_dcd(tmp_path, frames):
    path = write_dcd(tmp_path / "a.dcd", frames)
    before = path.read_bytes()
    with pytest.raises(KeyError), DcdWriter(path, 5) as writer:
        writer.write(frames)
        raise KeyError
    with pytest.raises(ValueError, match=r"\(n, 4, 3\), found \(7, 5, 3\)"), DcdWriter(path, 4) as writer:
        writer.write(frames)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_leaves_the_old_dcd(tmp_path, frames):
    path = write_dcd(tmp_path / "a.dcd", frames)
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 100, limits[1]))
    try:
        for count in (2, 1000):  # fails when the buffer is flushed at the end, and in the middle
            with pytest.raises(OSError, match="File too large"), DcdWriter(path, 5) as writer:
                writer.write(np.concatenate([frames] * count))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("name", "atoms", "chains", "last"),
    [
        ("adk_closed_NAMD.psf", 3341, ["A"], 214),
        ("2r9r-1b.psf", 1284, ["A", "B", "C", "D"], 417),
        ("nosegid.psf", 98, [""], 71),
        ("parmed_ala3.psf", 33, ["AAL"], 3),
        ("analysis/1k5i_c36.psf.gz", 17927, ["POT", "RNAA", "SOLV"], 22),
        ("SiN_tric_namd.psf", 5545, ["ION", "POT", "SIN", "WT1"], 4),
    ],
)
def test_psf_dialects(name, atoms, chains, last):
    topology = read_topology(DATA / name)
    assert len(topology) == atoms
    assert np.unique(topology.chain_ids).tolist() == chains
    assert last in topology.residue_numbers


def test_psf_elements_and_insertion_codes():
    membrane = read_topology(DATA / "SiN_tric_namd.psf")
    assert {"Si", "K", "Cl"} <= set(membrane.elements.tolist())
    thrombin = read_topology(DATA / "1a2c_ins_code.psf")
    assert {"H", "A", ""} <= set(thrombin.insertion_codes.tolist())
    assert thrombin.residue_numbers[0] == 1 and thrombin.insertion_codes[0] == "H"


def test_a_topology_of_other_atoms_names_both_counts(tmp_path, frames):
    path = write_dcd(tmp_path / "a.dcd", frames)
    with pytest.raises(ValueError, match="5 atoms a frame, the topology .*adk.psf has 3341"):
        read_trajectory(path, DATA / "adk.psf")


def test_bad_input_is_one_clear_error(tmp_path, frames, capfd):
    whole = write_dcd(tmp_path / "whole.dcd", frames).read_bytes()
    (tmp_path / "short.dcd").write_bytes(whole[:-200])
    (tmp_path / "noise.dcd").write_bytes(b"noise" * 100)
    (tmp_path / "empty.dcd").write_bytes(b"")
    (tmp_path / "noise.xtc").write_bytes(b"noise" * 100)
    write_dcd(tmp_path / "none.dcd", frames[:0])
    np.save(tmp_path / "flat.npy", frames[0])
    np.save(tmp_path / "nan.npy", np.where(np.arange(7)[:, None, None] == 3, np.nan, frames))
    expected = {
        "short.dcd": "cut short: its header announces 7 frames, the file holds 4",
        "noise.dcd": "not a DCD file",
        "empty.dcd": "not a DCD file",
        "noise.xtc": "not a readable XTC file",
        "none.dcd": "DCD file without frames",
        "flat.npy": r"expected numbers of shape \(frames, atoms, 3\)",
        "nan.npy": "frame 4 has positions that are not finite",
    }
    for name, message in expected.items():
        with pytest.raises(ValueError, match=message):
            read_trajectory(tmp_path / name)
    (tmp_path / "a.trr").touch()
    with pytest.raises(ValueError, match="expected a trajectory named .dcd, .xtc"):
        read_trajectory(tmp_path / "a.trr")
    with pytest.raises(ValueError, match="expected a topology named .psf"):
        read_trajectory(tmp_path / "whole.dcd", tmp_path / "a.trr")
    with pytest.raises(ValueError, match="announces 3341 atoms, the file ends after 3327"):
        read_topology(DATA / "adk_notop_BAD.psf")
    with pytest.raises(FileNotFoundError, match="missing.dcd does not exist"):
        read_trajectory(tmp_path / "missing.dcd")
    capfd.readouterr()  # biotraj's C code complains on stdout
