"""Poses and CTF from other files: they are the right particle's, whatever the order."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
from particle_data import cs_fields, make_exact_particles, star_columns, star_table, write_cryodrgn, write_cs

from cryoatom.particles.table import read_particles

SHUFFLED = np.array([3, 7, 1, 0, 6, 2, 5, 4])


@pytest.fixture
def particles(tmp_path):
    """Of two stacks, 8 images."""
    return make_exact_particles(tmp_path)


def write_star(path, particles, drop=()):
    columns = {name: values for name, values in star_columns(particles).items() if not name.startswith(tuple(drop))}
    path.write_text(star_table("particles", columns))
    return path


def assert_same(found, expected, rows=slice(None)):
    np.testing.assert_array_equal(found.poses.rotations, expected.poses.rotations[rows])
    np.testing.assert_array_equal(found.poses.shifts, expected.poses.shifts[rows])
    np.testing.assert_array_equal(found.optics.as_array(), expected.optics.as_array()[rows])


NO_POSES, NO_CTF = ("rlnAngle", "rlnOrigin"), ("rlnDefocus", "rlnVoltage", "rlnSph", "rlnAmp", "rlnPhase")


@pytest.mark.parametrize("names", ["{}", "1{}", "path"])
def test_star_with_star(tmp_path, particles, names, caplog):
    expected = read_particles(write_star(tmp_path / "all.star", particles))
    bare = write_star(tmp_path / "bare.star", particles, (*NO_POSES, *NO_CTF))
    other = particles[SHUFFLED]
    if names == "1{}":  # another number of leading zeros
        other = replace(other, image_names=np.array([f"0{name}" for name in other.image_names]))
    elif names == "path":
        other = replace(other, image_names=np.array([n.replace("@", "@Extract/job9/") for n in other.image_names]))
    poses, ctf = write_star(tmp_path / "poses.star", other, NO_CTF), write_star(tmp_path / "ctf.star", other, NO_POSES)
    found = read_particles(bare, poses=poses, ctf=ctf)
    assert_same(found, expected)
    assert "order" not in caplog.text


def test_file_names_that_are_ambiguous_are_not_used(tmp_path, particles):
    names = [f"{k + 1:06d}@{folder}/stack0.mrcs" for folder in "ab" for k in range(4)]
    for folder in "ab":
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "stack0.mrcs").symlink_to(tmp_path / "stack0.mrcs")
    here = replace(particles, image_names=np.array(names))
    there = replace(particles, image_names=np.array([name.replace("@", "@x/") for name in names]))
    bare = write_star(tmp_path / "bare.star", here, NO_POSES)
    with pytest.raises(ValueError, match=r"lacks 8 of the 8 particles of .*bare\.star: 000001@a/stack0\.mrcs"):
        read_particles(bare, poses=write_star(tmp_path / "poses.star", there))


def test_missing_particles_are_counted_and_named(tmp_path, particles):
    bare = write_star(tmp_path / "bare.star", particles, NO_POSES)
    some = write_star(tmp_path / "some.star", particles[np.array([0, 2, 3])])
    with pytest.raises(ValueError, match=r"some\.star \(3 rows\) lacks 5 of the 8 particles") as caught:
        read_particles(bare, poses=some)
    assert particles.image_names[1] in str(caught.value) and "--ind" in str(caught.value)
    assert len(read_particles(bare, poses=some, ind=np.array([3, 0]))) == 2
    twice = write_star(tmp_path / "twice.star", particles[np.array([0, 1, 2, 3, 4, 5, 6, 7, 7])])
    with pytest.raises(ValueError, match=r"has the .* more than once"):
        read_particles(bare, poses=twice)


def test_copies_of_an_image_may_share_a_row(tmp_path, particles):
    """As after symmetry expansion; the CTF belongs to the image."""
    copies = np.array([0, 1, 1, 0])
    path = write_star(tmp_path / "copies.star", particles[copies], NO_CTF)
    found = read_particles(path, ctf=write_star(tmp_path / "all.star", particles))
    assert_same(found, read_particles(tmp_path / "all.star"), copies)


def test_cs_with_its_passthrough_file(tmp_path, particles):
    fields = cs_fields(particles)
    expected = read_particles(write_cs(tmp_path / "all.cs", fields))
    order = SHUFFLED
    main = {name: values for name, values in fields.items() if name.startswith(("uid", "blob"))}
    rest = {name: values[order] for name, values in fields.items() if not name.startswith("blob")}
    main_path, rest_path = write_cs(tmp_path / "p.cs", main), write_cs(tmp_path / "pass.cs", rest)
    assert_same(read_particles(main_path, poses=rest_path, ctf=rest_path), expected)
    rows = np.array([5, 2])
    assert_same(read_particles(main_path, poses=rest_path, ctf=rest_path, ind=rows), expected, rows)
    rest["uid"][0] += np.uint64(100)
    with pytest.raises(ValueError, match="lacks 1 of the 8"):
        read_particles(main_path, poses=write_cs(tmp_path / "pass.cs", rest))
    star = write_star(tmp_path / "p.star", particles)
    with pytest.raises(ValueError, match="lacks 8 of the 8 .*no image names or uids in common"):
        read_particles(star, poses=rest_path)
    del rest["uid"]
    with pytest.raises(ValueError, match="neither uid nor blob/path"):
        read_particles(star, poses=write_cs(tmp_path / "pass.cs", rest))


def test_cs_with_star(tmp_path, particles):
    expected = read_particles(write_cs(tmp_path / "all.cs", cs_fields(particles)))
    star = write_star(tmp_path / "other.star", particles[SHUFFLED])
    assert_same(read_particles(tmp_path / "all.cs", poses=star, ctf=star), expected)
    bare = write_star(tmp_path / "bare.star", particles, (*NO_POSES, *NO_CTF))
    assert_same(read_particles(bare, poses=tmp_path / "all.cs", ctf=tmp_path / "all.cs"), expected)


def test_pickles_are_taken_in_row_order_and_told(tmp_path, particles, caplog):
    star = write_star(tmp_path / "all.star", particles)
    expected = read_particles(star)
    poses, ctf = write_cryodrgn(tmp_path, particles)
    assert_same(read_particles(star, poses=poses, ctf=ctf), expected)
    assert "order" in caplog.text and "pose.pkl" in caplog.text and "ctf.pkl" in caplog.text


def test_ind_cuts_pickles_of_the_whole_file_only(tmp_path, particles):
    star, rows = write_star(tmp_path / "all.star", particles), np.array([6, 1, 3])
    expected = read_particles(star, ind=rows)
    (tmp_path / "ind.pkl").write_bytes(pickle.dumps(rows))
    for some in (particles, particles[rows]):
        poses, ctf = write_cryodrgn(tmp_path, some)
        assert_same(read_particles(star, poses=poses, ctf=ctf, ind=tmp_path / "ind.pkl"), expected)
    poses, _ = write_cryodrgn(tmp_path, particles[:5])
    with pytest.raises(ValueError, match=r"pose\.pkl has 5 rows and no names.*has 8 rows, of which 3 are used"):
        read_particles(star, poses=poses, ind=rows)
    with pytest.raises(ValueError, match=r"pose\.pkl has 5 rows and no names.*has 8 rows: they are taken in order"):
        read_particles(star, poses=poses)
