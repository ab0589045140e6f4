import logging

import numpy as np
import pytest
from particle_data import cs_fields, make_exact_particles, write_cs

from cryoatom.files.cryosparc import open_cryosparc
from cryoatom.particles.table import read_particles


@pytest.fixture
def particles(tmp_path):
    return make_exact_particles(tmp_path)


def read(particles, fields, **options):
    return read_particles(write_cs(particles.source.with_suffix(".cs"), fields), **options)


def test_pose_and_shift_by_hand(tmp_path, particles):
    """pyem: R = I + sin θ K + (1 - cos θ) K², K = -[w]x; its origin is the shift, so the particle lies at minus it."""
    fields = cs_fields(particles)
    w, angle = np.array([1.0, 2.0, 2.0]) / 3, 0.75
    fields["alignments3D/pose"][0] = w * angle
    fields["alignments3D/shift"][0] = [2.0, -1.5]  # pixels
    fields["alignments3D/psize_A"][0] = 3 * particles.pixel_size  # of a refinement binned by 3
    k = np.array([[0, w[2], -w[1]], [-w[2], 0, w[0]], [w[1], -w[0], 0]])
    expected = np.eye(3) + np.sin(angle) * k + (1 - np.cos(angle)) * k @ k
    poses = read(particles, fields).poses
    np.testing.assert_allclose(poses.rotations[0], expected, atol=2e-7)
    np.testing.assert_allclose(poses.shifts[0], np.array([-6.0, 4.5]) * particles.pixel_size, rtol=1e-7)
    del fields["alignments3D/psize_A"]
    np.testing.assert_allclose(read(particles, fields).poses.shifts[0], np.array([-2, 1.5]) * particles.pixel_size)


def test_uids_names_and_rows(particles):
    fields = cs_fields(particles)
    rows = np.array([6, 1])
    found = read(particles, fields, ind=rows)
    assert found.uids.tolist() == fields["uid"][rows].tolist()
    assert found.image_names.tolist() == particles.image_names[rows].tolist()
    assert found[np.array([1])].uids.tolist() == fields["uid"][rows][1:].tolist()


def test_paths_start_at_the_project_folder(tmp_path, particles):
    fields = cs_fields(particles)
    job = tmp_path / "project/J12/extract"
    job.mkdir(parents=True)
    for stack in particles.stacks:
        stack.rename(job / stack.name)
    fields["blob/path"] = np.array([b">J12/extract/" + path[1:] for path in fields["blob/path"]])
    (tmp_path / "project/J13").mkdir()
    found = read_particles(write_cs(tmp_path / "project/J13/particles.cs", fields))
    assert found.stacks[0].parent == job.resolve() and found.image_names[0].partition("@")[2].startswith("J12/")
    elsewhere = write_cs(tmp_path / "particles.cs", fields)
    with pytest.raises(FileNotFoundError, match=r"2 of 2 image stacks.*J12/extract.*--datadir"):
        read_particles(elsewhere)
    assert read_particles(elsewhere, datadir=tmp_path / "project").stacks == found.stacks


def with_classes(fields, posteriors, has_axis):
    """Put the poses into class `k` with the k-th column of `posteriors`; other classes' are wrong."""
    fields, (count, classes) = dict(fields), posteriors.shape
    pose, shift, size = (fields.pop(f"alignments3D/{name}") for name in ("pose", "shift", "psize_A"))
    best = posteriors.argmax(axis=1)
    poses, shifts = np.full((count, classes, 3), 0.1, np.float32), np.zeros((count, classes, 2), np.float32)
    poses[np.arange(count), best], shifts[np.arange(count), best] = pose, shift
    if has_axis:
        return fields | {
            "alignments3D_multi/pose": poses,
            "alignments3D_multi/shift": shifts,
            "alignments3D_multi/psize_A": np.repeat(size[:, None], classes, axis=1),
            "alignments3D_multi/class_posterior": posteriors.astype(np.float32),
        }
    for k, name in enumerate(("alignments_class_0", "alignments_class3D_1", "alignments_class3D_2")[:classes]):
        fields[f"{name}/pose"], fields[f"{name}/shift"], fields[f"{name}/psize_A"] = poses[:, k], shifts[:, k], size
        fields[f"{name}/class_posterior"] = posteriors[:, k].astype(np.float32)
    return fields


@pytest.mark.parametrize("has_axis", [False, True])
@pytest.mark.parametrize("classes", [1, 3])
def test_each_particle_has_the_pose_of_its_best_class(particles, has_axis, classes, caplog):
    caplog.set_level(logging.INFO)
    posteriors = np.random.default_rng(0).dirichlet(np.ones(classes), len(particles))
    fields, expected = cs_fields(particles), read(particles, cs_fields(particles)).poses
    found = read(particles, with_classes(fields, posteriors, has_axis)).poses
    np.testing.assert_array_equal(found.rotations, expected.rotations)
    np.testing.assert_array_equal(found.shifts, expected.shifts)
    assert ("most probable class" in caplog.text) == (classes > 1)


def test_classes_without_posteriors_are_refused(particles):
    fields = with_classes(cs_fields(particles), np.full((8, 3), 0.3), has_axis=False)
    del fields["alignments_class3D_1/class_posterior"]
    with pytest.raises(ValueError, match=r"no alignments_class3D_1/class_posterior to choose by"):
        read(particles, fields)


def test_alignments_in_two_dimensions_are_no_poses(particles, caplog):
    fields = {name: values for name, values in cs_fields(particles).items() if not name.startswith("alignments3D")}
    fields |= {"alignments2D/pose": np.zeros(8, np.float32), "alignments2D/shift": np.zeros((8, 2), np.float32)}
    assert read(particles, fields).poses is None
    assert "two dimensions only" in caplog.text


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        (["blob/path", "blob/idx"], r"has no blob/path, blob/idx: .*passthrough_particles\.cs.*--ctf or --poses"),
        (["ctf/df1_A", "ctf/accel_kv"], r"has no ctf/accel_kv, ctf/df1_A: .*passthrough_particles\.cs.*--ctf$"),
        (["ctf/amp_contrast"], r"no amplitude contrast \(ctf/amp_contrast\) for 8 of 8 particles.*--amp-contrast"),
        (["blob/psize_A"], r"has no pixel size.*blob/psize_A.*--ctf"),
        (["alignments3D/shift"], r"alignments3D/pose and no alignments3D/shift.*--poses"),
    ],
)
def test_missing_fields_are_named(particles, missing, message):
    fields = {name: values for name, values in cs_fields(particles).items() if name not in missing}
    with pytest.raises(ValueError, match=message):
        read(particles, fields)


def test_fields_that_may_miss(particles):
    fields, expected = cs_fields(particles), read(particles, cs_fields(particles))
    for name in ("uid", "ctf/phase_shift_rad", "blob/shape", "ctf/exp_group_id", "blob/sign"):
        del fields[name]
    found = read(particles, fields)
    assert found.uids is None and found.box == 16 and not found.optics.phase_shift.any()
    assert found.optics_group_names is None and not found.optics_group.any()
    np.testing.assert_array_equal(found.poses.shifts, expected.poses.shifts)


def test_what_is_not_modelled_is_told(particles, caplog):
    fields = cs_fields(particles)
    fields |= {name: np.zeros((8, n), np.float32) for name, n in [("ctf/tilt_A", 2), ("ctf/tetra_A", 4)]}
    fields |= {"ctf/anisomag": np.tile(np.float32([1, 0, 0, 1]), (8, 1)), "ctf/scale": np.ones(8, np.float32)}
    read(particles, fields)
    assert not caplog.records
    fields["ctf/tilt_A"][3, 1] = -0.25
    fields["ctf/anisomag"][5, 3] = 1.02
    fields["ctf/bfactor"] = np.full(8, 50, np.float32)
    read(particles, fields)
    assert [(record.args[1], round(float(record.args[2]), 6)) for record in caplog.records] == [
        ("ctf/tilt_A", -0.25),
        ("ctf/bfactor", 50),
        ("ctf/anisomag", 1.02),
    ]


def test_the_sign_of_the_contrast(particles, caplog):
    fields = cs_fields(particles)
    fields["blob/sign"][:] = 1
    read(particles, fields)
    assert "--uninvert-data" in caplog.text
    fields["blob/sign"][2] = -1
    with pytest.raises(ValueError, match=r"mixes images of both contrasts \(blob/sign \[-1\.0, 1\.0\]\)"):
        read(particles, fields)


@pytest.mark.parametrize(
    ("field", "row", "value", "message"),
    [
        ("alignments3D/pose", 4, np.nan, r"the orientation \[nan, nan, nan\] for {name}$"),
        ("alignments3D/shift", 4, np.inf, r"the shift \[inf, inf\] for {name}$"),
        ("alignments3D/shift", 4, -9.0, r"1 particles lie outside their images: {name}"),
        ("alignments3D/shift", 4, 9.0, r"1 particles lie outside their images: {name}"),
        ("ctf/df1_A", 4, np.nan, r"expected ctf/df1_A finite numbers, found nan in row 4"),
        ("ctf/accel_kv", 4, 3e5, r"expected ctf/accel_kv between 10 and 3000, found 300000"),
        ("blob/psize_A", 4, 2.0, r"mixes pixel sizes: 1\.0609 Å \(exposureGroup2, .*2 Å"),
        ("blob/shape", 4, 24, r"mixes box sizes: 16 pixels .*24 pixels \("),
        ("blob/psize_A", slice(None), 0.0, r"expected positive pixel sizes"),
        ("blob/idx", 4, 99, r"and image 100 is asked for"),
    ],
)
def test_wrong_values(particles, field, row, value, message):
    fields = cs_fields(particles)
    fields[field][row] = value
    with pytest.raises(ValueError, match=message.format(name=particles.image_names[4])):
        read(particles, fields)


@pytest.mark.parametrize("content", [b"", b"hello", b"\x93NUMPY\x01\x00", b"PK\x03\x04" + bytes(40)])
def test_files_that_are_not_cs(tmp_path, content):
    (tmp_path / "p.cs").write_bytes(content)
    with pytest.raises(ValueError, match=r"p\.cs is not a \.cs file"):
        open_cryosparc(tmp_path / "p.cs")


def test_other_arrays(tmp_path, particles):
    path = tmp_path / "p.cs"
    with path.open("wb") as file:
        np.save(file, np.zeros((3, 2)))
    with pytest.raises(ValueError, match=r"expected records, found float64 of shape \(3, 2\)"):
        open_cryosparc(path)
    with path.open("wb") as file:
        np.save(file, np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"[Oo]bject"):
        open_cryosparc(path)
    path.write_bytes(b"\x94CSDAT" + bytes(100))
    with pytest.raises(ValueError, match=r"compressed format.*cryosparc-tools"):
        open_cryosparc(path)
    with pytest.raises(ValueError, match="no particles"):
        open_cryosparc(write_cs(path, {name: values[:0] for name, values in cs_fields(particles).items()}))
    whole = write_cs(path, cs_fields(particles)).read_bytes()
    path.write_bytes(whole[:-50])
    with pytest.raises(ValueError, match=r"p\.cs is not a \.cs file"):
        open_cryosparc(path)
    with pytest.raises(FileNotFoundError, match=r"no particle file"):
        open_cryosparc(tmp_path / "none.cs")


def test_a_job_of_many_classes_has_a_long_header(particles):
    posteriors = np.random.default_rng(0).dirichlet(np.ones(3), 8)
    fields = cs_fields(particles) | {f"alignments2D_{k}/{'long' * 9}": np.zeros(8, np.float32) for k in range(300)}
    assert len(read(particles, with_classes(fields, posteriors, has_axis=True))) == 8
