import numpy as np
import pytest
from particle_data import cs_fields, make_exact_particles, write_cs

from cryoatom.files.cryosparc import open_cryosparc
from cryoatom.files.cryosparc_rows import save_cs, with_poses, with_uids
from cryoatom.files.npy import read_npy
from cryoatom.geometry import random_rotations
from cryoatom.particles.table import read_particles
from cryoatom.records import Poses

ROWS = np.array([6, 0, 3])


@pytest.fixture
def fields(tmp_path):
    return cs_fields(make_exact_particles(tmp_path))


def same_records(left: np.ndarray, right: np.ndarray) -> bool:
    return left.dtype == right.dtype and left.tobytes() == right.tobytes()


def test_a_subset_has_all_fields_as_they_were(tmp_path, fields):
    source, target = write_cs(tmp_path / "particles.cs", fields), tmp_path / "subset.cs"
    save_cs({target: open_cryosparc(source)[ROWS]})
    assert same_records(np.load(target), np.load(source)[ROWS])
    whole, part = read_particles(source)[ROWS], read_particles(target)
    assert whole.uids is not None and part.uids is not None
    assert part.image_names.tolist() == whole.image_names.tolist()
    assert part.uids.tolist() == whole.uids.tolist()


def test_long_headers_keep_their_version_without_a_warning(tmp_path, fields):
    many = {f"class_{number}/{'x' * 60}": np.zeros(8, np.float32) for number in range(1200)}
    records = np.load(write_cs(tmp_path / "small.cs", fields))
    wide = np.zeros(8, [*records.dtype.descr, *((name, "<f4") for name in many)])
    wide["uid"] = records["uid"]
    source, target = tmp_path / "wide.cs", tmp_path / "subset.cs"
    with source.open("wb") as file:
        np.lib.format.write_array(file, wide, version=(2, 0))
    save_cs({target: open_cryosparc(source)[ROWS]})
    assert target.read_bytes()[:8] == source.read_bytes()[:8]
    assert same_records(read_npy(target, 1_000_000), wide[ROWS])


def test_the_passthrough_file_is_cut_by_uid(tmp_path, fields):
    source = write_cs(tmp_path / "particles.cs", fields)
    other = {"uid": fields["uid"][::-1], "location/micrograph_path": np.array([b"m%d" % n for n in range(8)])}
    passthrough = open_cryosparc(write_cs(tmp_path / "passthrough.cs", other))
    uids = open_cryosparc(source).uids
    assert uids is not None
    assert same_records(with_uids(passthrough, uids[ROWS]).records, passthrough.records[7 - ROWS])
    with pytest.raises(ValueError, match=r"has the uid 5 0 times, expected once, and so for 1 of 2 particles"):
        with_uids(passthrough, np.array([uids[0], 5], np.uint64))
    no_uid = write_cs(tmp_path / "no.cs", {name: fields[name] for name in ("blob/path", "blob/idx")})
    with pytest.raises(ValueError, match="has no uid"):
        with_uids(open_cryosparc(no_uid), uids[ROWS])


def test_poses_that_are_put_in_are_read_again(tmp_path, fields):
    fields["alignments3D/psize_A"] *= 2  # a binned refinement
    source, target = write_cs(tmp_path / "particles.cs", fields), tmp_path / "subset.cs"
    generator = np.random.default_rng(1)
    poses = Poses(random_rotations(3, generator), generator.uniform(-5, 5, (3, 2)))
    save_cs({target: with_poses(open_cryosparc(source)[ROWS], poses)})
    found = read_particles(target).poses
    assert found is not None
    np.testing.assert_allclose(found.rotations, poses.rotations, atol=1e-6)
    np.testing.assert_allclose(found.shifts, poses.shifts, atol=1e-5)
    before, after = np.load(source)[ROWS], np.load(target)
    for name in set(fields) - {"alignments3D/pose", "alignments3D/shift"}:
        assert before[name].tobytes() == after[name].tobytes()


def test_what_is_wrong_is_said(tmp_path, fields):
    source, other = write_cs(tmp_path / "particles.cs", fields), write_cs(tmp_path / "other.cs", fields)
    some = open_cryosparc(source)[ROWS]
    for parts in ({source: some}, {tmp_path / "a.cs": some, source: open_cryosparc(other)}):
        with pytest.raises(ValueError, match="is a particle file of the job itself"):
            save_cs(parts)
    with pytest.raises(FileNotFoundError):  # the second file cannot be written: nor is the first one
        save_cs({tmp_path / "a.cs": some, tmp_path / "missing" / "b.cs": some})
    assert sorted(path.name for path in tmp_path.glob("*.cs")) == ["other.cs", "particles.cs"]
    flat = write_cs(tmp_path / "flat.cs", {n: v for n, v in fields.items() if not n.startswith("alignments3D")})
    with pytest.raises(ValueError, match="has no alignments3D/pose, alignments3D/shift, alignments3D/psize_A to put"):
        with_poses(open_cryosparc(flat), Poses(np.eye(3)[None].repeat(8, 0), np.zeros((8, 2))))
