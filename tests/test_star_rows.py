from pathlib import Path

import numpy as np
import pytest
import starfile
from particle_data import make_particles, star_columns, star_table

from cryoatom.files.star import read_star_particles, write_star_particles
from cryoatom.files.star_rows import read_star_layout, star_pose_changes, write_star_rows
from cryoatom.files.star_table import read_particle_table
from cryoatom.geometry import random_rotations
from cryoatom.records import Poses

OPTICS = (
    "\n# version 30001\n\ndata_optics\n\nloop_ \n_rlnOpticsGroupName #1 \n_rlnOpticsGroup #2 \n_rlnVoltage #3 \n"
    "_rlnImagePixelSize #4 \nmine 1 300.0 1.5 \n'not used' 2 200.0 1.5 \n \n"
)
ROWS = "".join(f" {i + 1:06d}@a.mrcs  {i}.50000\t'a name {i}'   1 \n" for i in range(6))
HEADER = "\ndata_particles\n\nloop_ \n_rlnImageName #1 \n_rlnDefocusU #2 \n_rlnMicrographName #3\n_rlnOpticsGroup #4 \n"
PARTICLES = HEADER + ROWS + " \n"
OLD = star_table("", {"rlnImageName": [f"{i + 1}@a.mrcs" for i in range(6)], "rlnDefocusU": [str(i) for i in range(6)]})
FILES = {
    "3.1": OPTICS + PARTICLES,
    "optics after particles": PARTICLES + OPTICS,
    "3.0": OLD,
    "3.0, named": OLD.replace("data_", "data_images"),
    "no optics": PARTICLES,
    "comments between rows": OPTICS + PARTICLES.replace(" 000003", "# three\n\n  # is next\n 000003"),
    "windows": (OPTICS + PARTICLES).replace("\n", "\r\n"),
    "blank lines at the end": PARTICLES + "\n\n  \n# the end\n",
    "no end of line": PARTICLES.rstrip(),
    "other tables": "data_general\n\n_rlnFinalResolution 3.1\n_rlnSomething 'a b'\n" + OPTICS + PARTICLES,
}


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "particles.star"
    path.write_bytes(text.encode())
    return path


def is_row(line: bytes) -> bool:
    return b"@a.mrcs" in line


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("rows", [[4, 0, 1], [5], range(6)], ids=["some", "one", "all"])
def test_a_subset_reads_as_the_rows_and_all_other_lines_stay(tmp_path, kind, rows):
    source, target = written(tmp_path, FILES[kind]), tmp_path / "subset.star"
    write_star_rows(source, np.array(rows), target, names=[f"{i + 1}@a.mrcs" for i in rows] if "3.0" in kind else None)
    kept = np.sort(rows)
    expected, found = read_particle_table(source)[kept], read_particle_table(target)
    assert found.particles.keys() == expected.particles.keys()
    for column, values in expected.particles.items():
        np.testing.assert_array_equal(found.particles[column], values)
    assert {name: block.columns.tolist() for name, block in frames(target).items()} == {
        name: block.columns.tolist() for name, block in frames(source).items()
    }
    before, after = source.read_bytes().splitlines(keepends=True), target.read_bytes().splitlines(keepends=True)
    assert [line for line in after if not is_row(line)] == [line for line in before if not is_row(line)]
    own = [line for line in before if is_row(line)]
    assert [line for line in after if is_row(line)] == [own[row] for row in kept]


def frames(path: Path) -> dict:
    return {name: b for name, b in starfile.read(path, always_dict=True).items() if not isinstance(b, dict)}


def test_a_table_of_one_particle_may_have_no_loop(tmp_path):
    text = "data_particles\n\n_rlnImageName  000001@a.mrcs\n_rlnDefocusU   1e4\n"
    text += "_rlnMicrographName 'a b'\n_rlnOpticsGroup 1\n\n"
    source, target = written(tmp_path, OPTICS + text), tmp_path / "subset.star"
    write_star_rows(source, np.array([0]), target, names=["000001@a.mrcs"])
    assert target.read_bytes() == source.read_bytes()
    write_star_rows(source, np.array([0]), target, changes={"rlnDefocusU": np.array([2.5]), "rlnNew": np.array([7.0])})
    table = read_particle_table(target)
    assert [float(table.particles[name][0]) for name in ("rlnDefocusU", "rlnNew")] == [2.5, 7.0]
    assert str(table.particles["rlnMicrographName"][0]) == "a b"


@pytest.mark.parametrize("kind", FILES)
def test_changed_and_added_columns_leave_the_others_alone(tmp_path, kind):
    source, target, rows = written(tmp_path, FILES[kind]), tmp_path / "subset.star", np.array([3, 1])
    new = {"rlnDefocusU": np.array([33.0, 11.25]), "rlnNew": np.array([-3.0, -1.5])}
    write_star_rows(source, rows, target, changes=new)
    before, after = read_particle_table(source)[np.array([1, 3])], read_particle_table(target)
    assert after.particles["rlnDefocusU"].tolist() == [11.25, 33.0]
    assert after.particles["rlnNew"].tolist() == [-1.5, -3.0]
    assert list(after.particles) == [*before.particles, "rlnNew"]
    for column in before.particles.keys() - new.keys():
        np.testing.assert_array_equal(after.particles[column], before.particles[column])


@pytest.mark.parametrize("form", ["3.1", "3.0", "pixels", "no poses", "priors"])
def test_poses_that_are_put_in_are_read_again(tmp_path, form):
    particles = make_particles(tmp_path)
    source, target, generator = tmp_path / "particles.star", tmp_path / "subset.star", np.random.default_rng(1)
    columns = star_columns(particles)
    if form == "3.1":
        write_star_particles(source, particles)
    else:
        if form == "pixels":
            columns |= {"rlnOriginX": columns.pop("rlnOriginXAngst"), "rlnOriginY": columns.pop("rlnOriginYAngst")}
        if form in ("3.0", "no poses"):
            columns = {n: v for n, v in columns.items() if "Angle" not in n or "Defocus" in n}
            columns = {n: v for n, v in columns.items() if "Origin" not in n}
        if form == "priors":
            columns |= {"rlnAngleTiltPrior": columns["rlnAngleTilt"]}
        source.write_text(star_table("images", columns))
    rows = np.array([6, 0, 3])
    poses = Poses(random_rotations(3, generator), generator.uniform(-3, 3, (3, 2)))
    changes = star_pose_changes(read_star_layout(source), poses, particles.pixel_size)
    write_star_rows(source, rows, target, changes=changes)
    found, order = read_star_particles(target, tmp_path).poses, np.argsort(rows)
    assert found is not None
    np.testing.assert_allclose(found.rotations, poses.rotations[order], atol=1e-7)
    np.testing.assert_allclose(found.shifts, poses.shifts[order], atol=1e-5)
    if form == "priors":
        table = read_particle_table(target).particles
        np.testing.assert_array_equal(table["rlnAngleTiltPrior"], table["rlnAngleTilt"])


def test_what_is_wrong_is_said_and_nothing_is_written(tmp_path):
    source, target = written(tmp_path, FILES["3.1"]), tmp_path / "subset.star"
    with pytest.raises(ValueError, match="row 6 is selected that is not in .* rows 0 to 5"):
        write_star_rows(source, np.array([2, 6]), target)
    with pytest.raises(ValueError, match=r"has changed: expected the image 000009@a.mrcs in row 1 .* 000002@a.mrcs"):
        write_star_rows(source, np.array([2, 1]), target, names=["000003@a.mrcs", "000009@a.mrcs"])
    with pytest.raises(ValueError, match="is the particle file itself"):
        write_star_rows(source, np.array([2]), source)
    with pytest.raises(ValueError, match="expected one table of particles with a column rlnImageName, found 0"):
        write_star_rows(written(tmp_path, OPTICS), np.array([2]), target)
    with pytest.raises(FileNotFoundError, match="no particle file"):
        write_star_rows(tmp_path / "none.star", np.array([2]), target)
    assert not target.exists()
