from dataclasses import replace

import numpy as np
import pytest
from particle_data import make_particles, write_stack

from cryoatom.files.star import write_star_particles
from cryoatom.particles.table import check_particles, read_particles


@pytest.fixture
def written(tmp_path):
    particles = make_particles(tmp_path)
    write_star_particles(particles.source, particles)
    return particles


def test_reads_what_was_written(written):
    particles = read_particles(written.source)
    assert particles.image_names.tolist() == written.image_names.tolist()
    assert particles.poses is not None and written.poses is not None
    np.testing.assert_allclose(particles.poses.shifts, written.poses.shifts, atol=1e-6)


def test_ind_is_an_array_or_a_file(written, tmp_path):
    rows = np.array([6, 1, 3])
    np.save(tmp_path / "rows.npy", rows)
    (tmp_path / "rows.txt").write_text("6 1 3")
    for ind in (rows, tmp_path / "rows.npy", str(tmp_path / "rows.txt")):
        particles = read_particles(written.source, ind=ind)
        assert particles.image_names.tolist() == written.image_names[rows].tolist()


def test_datadir(written, tmp_path):
    (tmp_path / "moved").mkdir()
    moved = written.source.rename(tmp_path / "moved/particles.star")
    (tmp_path / "moved/stack0.mrcs").symlink_to(tmp_path / "stack1.mrcs")  # what it must not take
    assert read_particles(moved, datadir=tmp_path).stacks == read_particles(moved, datadir=str(tmp_path)).stacks
    assert set(read_particles(moved, datadir=tmp_path).stacks) == set(written.stacks)


def test_other_formats_are_named(written):
    other = written.source.with_suffix(".csv")
    other.write_text("a")
    with pytest.raises(ValueError, match=r"cannot read particles from .*\.csv: expected a file of type \.star, \.cs"):
        read_particles(other)
    with pytest.raises(ValueError, match=r"cannot read poses from .*\.csv: expected a file of type .*\.pkl"):
        read_particles(written.source, poses=other)
    with pytest.raises(FileNotFoundError, match=r"no file of CTF parameters .*none\.pkl"):
        read_particles(written.source, ctf=written.source.with_name("none.pkl"))
    with pytest.raises(FileNotFoundError, match=r"no particle file .*none\.star"):
        read_particles(written.source.with_name("none.star"))


def test_all_missing_stacks_are_named(written):
    for stack in written.stacks:
        stack.unlink()
    with pytest.raises(FileNotFoundError, match="2 of 2 image stacks") as caught:
        read_particles(written.source)
    assert "stack0.mrcs" in str(caught.value) and "stack1.mrcs" in str(caught.value)


def test_all_bad_stacks_are_named(tmp_path):
    particles = make_particles(tmp_path, (5, 4, 3, 2))
    write_star_particles(particles.source, particles)
    truncated, short, other, good = particles.stacks
    truncated.write_bytes(truncated.read_bytes()[:-100])
    write_stack(short, np.zeros((3, 16, 16)))
    write_stack(other, np.zeros((3, 12, 12)))
    with pytest.raises(ValueError, match=r"particles\.star cannot be used") as caught:
        read_particles(particles.source)
    text = str(caught.value)
    assert "stack0.mrcs is truncated" in text and "found 6044 bytes" in text and "6144 bytes" in text
    assert "stack1.mrcs has 3 images, and image 4 is asked for" in text
    assert "stack2.mrcs has a box of 12 pixels, expected 16" in text
    assert good.name not in text
    usable = read_particles(particles.source, ind=np.flatnonzero(particles.stack_of_image == 3))
    assert len(usable) == 2


def test_many_bad_stacks_are_summed_up(tmp_path):
    particles = make_particles(tmp_path, (1,) * 14)
    for stack in particles.stacks:
        stack.write_bytes(b"")
    with pytest.raises(ValueError, match="; and 4 more$"):
        check_particles(particles)


@pytest.mark.parametrize(("shift", "is_wrong"), [(11.99, False), (-11.99, False), (12.0, True), (-12.0, True)])
@pytest.mark.parametrize("axis", [0, 1])
def test_shifts_reach_half_the_box(tmp_path, shift, axis, is_wrong):
    particles = make_particles(tmp_path)  # 16 pixels of 1.5 Å
    assert particles.poses is not None
    shifts = particles.poses.shifts.copy()
    shifts[5, axis] = shift
    particles = replace(particles, poses=replace(particles.poses, shifts=shifts))
    if not is_wrong:
        check_particles(particles)
        return
    with pytest.raises(ValueError, match="1 particles lie outside their images") as caught:
        check_particles(particles)
    assert particles.image_names[5] in str(caught.value) and "half the box is 12 Å" in str(caught.value)


def test_particles_without_poses_pass(tmp_path):
    check_particles(replace(make_particles(tmp_path), poses=None))
