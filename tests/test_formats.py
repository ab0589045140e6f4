"""One data set in every format that particles come in: the same poses, CTF, images, to the last bit."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from particle_data import (
    cs_fields,
    make_exact_particles,
    star_columns,
    star_table,
    write_cryodrgn,
    write_cs,
)

from cryoatom.files.star import write_star_particles
from cryoatom.particles.stack import ImageStack
from cryoatom.particles.table import read_particles
from cryoatom.records import Particles

PER_GROUP = ("rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast", "rlnImagePixelSize", "rlnImageSize")


def write_star_30(folder: Path, particles: Particles) -> dict[str, Any]:
    columns = star_columns(particles)
    assert particles.poses is not None
    magnification = 1e4 * 5.0 / particles.pixel_size
    for axis in "XY":
        origins = -particles.poses.shifts[:, "XY".index(axis)] / particles.pixel_size
        columns[f"rlnOrigin{axis}"] = [repr(value) for value in origins.tolist()]
        del columns[f"rlnOrigin{axis}Angst"]
    del columns["rlnImagePixelSize"], columns["rlnImageSize"]
    columns["rlnMagnification"] = [repr(magnification)] * len(particles)
    columns["rlnDetectorPixelSize"] = ["5.0"] * len(particles)
    (folder / "p30.star").write_text(star_table("", columns))
    return {"path": folder / "p30.star"}


def with_optics_table(particles: Particles, names: list[str]) -> tuple[str, str]:
    columns, groups = star_columns(particles), particles.optics_group
    first = [int(np.flatnonzero(groups == group)[0]) for group in np.unique(groups)]
    optics = {"rlnOpticsGroupName": names, "rlnOpticsGroup": ["1", "2"]}
    optics |= {name: [columns[name][row] for row in first] for name in PER_GROUP}
    optics["rlnImageDimensionality"] = ["2", "2"]
    rows = {name: values for name, values in columns.items() if name not in PER_GROUP}
    rows["rlnOpticsGroup"] = [str(group + 1) for group in groups]
    return star_table("optics", optics), star_table("particles", rows)


def write_star_31(folder: Path, particles: Particles) -> dict[str, Any]:
    tables = with_optics_table(particles, ["opticsGroup1", "opticsGroup2"])
    (folder / "p31.star").write_text("# version 30001\n".join(("", *tables)))
    return {"path": folder / "p31.star"}


def write_star_5(folder: Path, particles: Particles) -> dict[str, Any]:
    quoted = replace(particles, image_names=np.array([f'"{name}"' for name in particles.image_names]))
    optics, rows = with_optics_table(quoted, ['"group of 300 kV"', '"200 kV # not a comment"'])
    rows = rows.replace("_rlnImageName #1 \n", "_rlnMicrographName #1 \n_rlnImageName #2 \n")
    rows = rows.replace('\n"', '\n"MotionCorr/job 3/a.mrc" "')
    (folder / "p5.star").write_text(f"\n# version 50001\n# comment\n{rows}\n# version 50001\n{optics}")
    return {"path": folder / "p5.star"}


def write_cs_file(folder: Path, particles: Particles) -> dict[str, Any]:
    return {"path": write_cs(folder / "p.cs", cs_fields(particles))}


def in_stack_order(particles: Particles) -> Particles:
    return particles[np.lexsort((particles.slice_of_image, particles.stack_of_image))]


def write_list_and_pickles(folder: Path, particles: Particles) -> dict[str, Any]:
    (folder / "stacks.txt").write_text("# stacks\nstack0.mrcs\n\nstack1.mrcs\n")
    poses, ctf = write_cryodrgn(folder, in_stack_order(particles))
    return {"path": folder / "stacks.txt", "poses": poses, "ctf": ctf}


def write_list_and_star(folder: Path, particles: Particles) -> dict[str, Any]:
    (folder / "stacks.txt").write_text("stack1.mrcs\nstack0.mrcs\n")
    star = write_star_31(folder, particles)["path"]
    return {"path": folder / "stacks.txt", "poses": star, "ctf": star}


def write_star_with_pickles(folder: Path, particles: Particles) -> dict[str, Any]:
    poses, ctf = write_cryodrgn(folder, particles, protocol=2)
    bare = {"rlnImageName": particles.image_names.tolist()}
    (folder / "names.star").write_text(star_table("particles", bare))
    return {"path": folder / "names.star", "poses": poses, "ctf": ctf}


WRITERS = [write_star_30, write_star_31, write_star_5, write_cs_file, write_list_and_pickles, write_list_and_star]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def particles(folder):
    """Of 40 images, so that many numbers could lie at an edge of rounding."""
    return make_exact_particles(folder, (25, 15))


@pytest.mark.parametrize("write", [*WRITERS, write_star_with_pickles])
def test_every_format_gives_the_same_bits(folder, particles, write):
    found = read_particles(**write(folder, particles))
    rows = {name: row for row, name in enumerate(found.image_names.tolist())}
    found = found[np.array([rows[name] for name in particles.image_names.tolist()])]
    assert found.pixel_size == particles.pixel_size and found.box == particles.box
    assert found.poses is not None and particles.poses is not None
    reference = read_particles(**write_cs_file(folder, particles))
    assert reference.poses is not None
    for ours, theirs in [
        (found.poses.rotations, reference.poses.rotations),
        (found.poses.shifts, reference.poses.shifts),
        (found.optics.as_array(), reference.optics.as_array()),
        (ImageStack(found).read(np.arange(len(found))).numpy(), ImageStack(reference).read(np.arange(40)).numpy()),
    ]:
        assert np.ascontiguousarray(ours).tobytes() == np.ascontiguousarray(theirs).tobytes()
    np.testing.assert_allclose(found.poses.rotations, particles.poses.rotations, atol=2e-7)
    np.testing.assert_allclose(found.poses.shifts, particles.poses.shifts, rtol=6e-8)
    np.testing.assert_allclose(found.optics.as_array(), particles.optics.as_array(), rtol=1.2e-7)
    if write is not write_star_30:  # which has no groups
        assert len(set(zip(found.optics_group.tolist(), found.optics.voltage_kv.tolist(), strict=True))) == 2


@pytest.mark.parametrize("write", WRITERS)
def test_what_is_read_is_written_and_read_again(folder, particles, write):
    found = read_particles(**write(folder, particles))
    write_star_particles(folder / "again.star", found)
    again = read_particles(folder / "again.star")
    assert found.poses is not None and again.poses is not None
    np.testing.assert_array_equal(again.poses.rotations, found.poses.rotations)
    np.testing.assert_array_equal(again.poses.shifts, found.poses.shifts)
    np.testing.assert_array_equal(again.optics.as_array(), found.optics.as_array())
    assert again.pixel_size == found.pixel_size and again.image_names.tolist() == found.image_names.tolist()


def test_names_of_groups(folder, particles):
    assert read_particles(**write_star_5(folder, particles)).optics_group_names == (
        "group of 300 kV",
        "200 kV # not a comment",
    )
    assert read_particles(**write_cs_file(folder, particles)).optics_group_names == ("exposureGroup2", "exposureGroup5")
