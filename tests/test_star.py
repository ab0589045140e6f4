import logging
import shutil
from dataclasses import replace

import gemmi
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from particle_data import make_particles, write_stack

from cryoatom.files.star import read_star_particles, write_star_particles
from cryoatom.geometry import rotations_from_euler

# Written by hand as RELION lays them out; numbers chosen so that every column is told apart.
RELION_30 = """
data_

loop_
_rlnCoordinateX #1
_rlnImageName #2
_rlnVoltage #3
_rlnDefocusU #4
_rlnDefocusV #5
_rlnDefocusAngle #6
_rlnSphericalAberration #7
_rlnDetectorPixelSize #8
_rlnMagnification #9
_rlnAmplitudeContrast #10
_rlnAngleRot #11
_rlnAngleTilt #12
_rlnAnglePsi #13
_rlnOriginX #14
_rlnOriginY #15
  614.0 000002@a.mrcs  300.0 10864.0 10576.0  78.25 2.7  6.0 40000.0 0.1  -35.5  67.25 132.5  2.0 -1.0
  273.0 000001@b.mrcs  300.0 21000.0 20000.0 -12.50 2.7  6.0 40000.0 0.1   10.0  20.00  30.0 -0.5  0.25
  111.0 000004@a.mrcs  300.0 15000.0 15000.0   0.00 2.7  6.0 40000.0 0.1    0.0   0.00   0.0  0.0  0.0

"""
OPTICS = """
# version 30001

data_optics

loop_
_rlnOpticsGroupName #1
_rlnOpticsGroup #2
_rlnMicrographOriginalPixelSize #3
_rlnVoltage #4
_rlnSphericalAberration #5
_rlnAmplitudeContrast #6
_rlnImagePixelSize #7
_rlnImageSize #8
_rlnImageDimensionality #9
opticsGroup1            1     0.885000   300.000000     2.700000     0.100000     1.500000           16            2
"the second group"      7     0.885000   200.000000     1.400000     0.070000     1.500000           16            2
# a comment
unused                  9     0.885000   200.000000     1.400000     0.070000     3.000000           32            2

"""
PARTICLES = """
# version 30001

data_particles

loop_
_rlnImageName #1
_rlnOpticsGroup #2
_rlnDefocusU #3
_rlnDefocusV #4
_rlnDefocusAngle #5
_rlnPhaseShift #6
_rlnAngleRot #7
_rlnAngleTilt #8
_rlnAnglePsi #9
_rlnOriginXAngst #10
_rlnOriginYAngst #11
000002@a.mrcs          7  10864.0 10576.0  78.25 90.0  -35.5  67.25 132.5  3.0 -1.5
"000001@b c.mrcs"      1  21000.0 20000.0 -12.50  0.0   10.0  20.00  30.0 -0.75 0.375
000004@a.mrcs          7  15000.0 15000.0   0.00 45.0    0.0   0.00   0.0  0.0  0.0

"""


@pytest.fixture
def folder(tmp_path):
    images = np.random.default_rng(0).normal(size=(4, 16, 16))
    for name in ("a.mrcs", "b.mrcs", "b c.mrcs"):
        write_stack(tmp_path / name, images)
    return tmp_path


def read(folder, text, **options):
    (folder / "p.star").write_text(text)
    return read_star_particles(folder / "p.star", **options)


def drop_column(text, column):
    """Take a column out of the table that has it."""
    lines, header = text.splitlines(), [line for line in text.splitlines() if line.startswith("_")]
    number = next(i for i, line in enumerate(header) if line.split()[0] == f"_{column}")
    kept = []
    for line in lines:
        words = line.replace('"the second group"', "second").replace("b c.mrcs", "b.mrcs").replace('"', "").split()
        if len(words) == len(header):
            line = " ".join(words[:number] + words[number + 1 :])
        if not line.startswith(f"_{column} "):
            kept.append(line)
    return "\n".join(kept) + "\n"


def add_column(text, column, values):
    """Append a column to the table."""
    header = [line for line in text.splitlines() if line.startswith("_")]
    rows = iter(values)
    result = []
    for line in text.splitlines():
        is_row = line.strip() and not line.startswith(("_", "#", "data_", "loop_"))
        result.append(f"{line} {next(rows)}" if is_row else line)
        if line == header[-1]:
            result.append(f"_{column} #{len(header) + 1}")
    return "\n".join(result) + "\n"


def test_relion_30(folder):
    particles = read(folder, RELION_30)
    assert particles.image_names.tolist() == ["000002@a.mrcs", "000001@b.mrcs", "000004@a.mrcs"]
    assert particles.stacks == ((folder / "a.mrcs").resolve(), (folder / "b.mrcs").resolve())
    assert particles.stack_of_image.tolist() == [0, 1, 0] and particles.slice_of_image.tolist() == [1, 0, 3]
    assert particles.pixel_size == pytest.approx(6e4 / 40000) and particles.box == 16
    assert particles.optics_group.tolist() == [0, 0, 0]
    expected = [
        [300, 2.7, 0.1, 10864, 10576, np.deg2rad(78.25), 0],
        [300, 2.7, 0.1, 21000, 20000, np.deg2rad(-12.5), 0],
    ]
    np.testing.assert_allclose(particles.optics.as_array()[:2], expected)
    assert particles.poses is not None
    np.testing.assert_allclose(particles.poses.shifts, [[-3, 1.5], [0.75, -0.375], [0, 0]])
    rotations = rotations_from_euler(np.array([-35.5, 10, 0]), np.array([67.25, 20, 0]), np.array([132.5, 30, 0]))
    np.testing.assert_allclose(particles.poses.rotations, rotations, atol=2e-7)


@pytest.mark.parametrize("text", [OPTICS + PARTICLES, PARTICLES + OPTICS])
def test_optics_table_before_or_after(folder, text):
    particles = read(folder, text)
    assert particles.image_names.tolist() == ["000002@a.mrcs", "000001@b c.mrcs", "000004@a.mrcs"]
    assert (particles.pixel_size, particles.box) == (1.5, 16)
    assert particles.optics_group.tolist() == [1, 0, 1]
    expected = [
        [200, 1.4, 0.07, 10864, 10576, np.deg2rad(78.25), np.pi / 2],
        [300, 2.7, 0.1, 21000, 20000, np.deg2rad(-12.5), 0],
        [200, 1.4, 0.07, 15000, 15000, 0, np.pi / 4],
    ]
    np.testing.assert_allclose(particles.optics.as_array(), expected)
    old = read(folder, RELION_30)
    assert particles.poses is not None and old.poses is not None
    np.testing.assert_allclose(particles.poses.shifts, old.poses.shifts)
    np.testing.assert_allclose(particles.poses.rotations, old.poses.rotations)


def test_relion_5(folder, caplog):
    """RELION 5 leaves out blank lines, and writes lists, exponents and columns that nobody needs."""
    particles = read(
        folder,
        "\n# version 50001\ndata_optics\nloop_ \n_rlnOpticsGroupName #1 \n_rlnOpticsGroup #2 \n_rlnVoltage #3 \n"
        "_rlnSphericalAberration #4 \n_rlnAmplitudeContrast #5 \n_rlnImagePixelSize #6 \n_rlnImageSize #7 \n"
        "_rlnImageDimensionality #8 \n_rlnCtfDataAreCtfPremultiplied #9 \n_rlnEvenZernike #10 \n_rlnMagMat01 #11 \n"
        "opticsGroup1            1   100.000000     1.600000     0.100000     0.890000          16            2"
        "            0 [45.4,-1.5,0] -7.04404e-04 \n \n# version 50001\ndata_particles\nloop_ \n_rlnImageName #1 \n"
        "_rlnMicrographName #2 \n_rlnOpticsGroup #3 \n_rlnDefocusU #4 \n_rlnDefocusV #5 \n_rlnDefocusAngle #6 \n"
        "_rlnLogLikeliContribution #7 \n"
        "1@a.mrcs MotionCorr/job003/1.mrc            1 11949.061330 11800.493288    49.059993 8.546714e+05 \n"
        "3@b.mrcs MotionCorr/job003/1.mrc            1 1.196350e+04 11814.936842    49.059993 8.551118e+05 \n\n",
    )
    assert particles.optics.voltage_kv.tolist() == [100, 100] and particles.pixel_size == np.float32(0.89)
    assert particles.optics.defocus_u.tolist() == [np.float32(11949.06133), 11963.5] and particles.poses is None
    assert particles.slice_of_image.tolist() == [0, 2] and particles.stack_of_image.tolist() == [0, 1]
    assert [record.args[1:] for record in caplog.records] == [("rlnEvenZernike", 45.4), ("rlnMagMat01", -7.04404e-04)]


def test_optics_without_loop(folder):
    optics = (
        "data_optics\n\n_rlnOpticsGroup 7\n_rlnVoltage 300\n_rlnSphericalAberration 2.7\n_rlnAmplitudeContrast 0.1\n"
    )
    particles = PARTICLES.replace('"000001@b c.mrcs"      1', "000001@b.mrcs 7")
    found = read(folder, optics + "_rlnImagePixelSize 1.25\n_rlnImageSize 16\n" + particles)
    assert found.pixel_size == 1.25 and found.optics.voltage_kv.tolist() == [300] * 3


def test_a_particle_s_own_value_goes_before_its_group_s(folder):
    particles = read(folder, OPTICS + add_column(PARTICLES, "rlnVoltage", [120, 100, 80]))
    assert particles.optics.voltage_kv.tolist() == [120, 100, 80]


def test_phase_shift_is_zero_where_absent(folder):
    particles = read(folder, OPTICS + drop_column(PARTICLES, "rlnPhaseShift"))
    assert particles.optics.phase_shift.tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    "column",
    [
        *("rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast", "rlnImagePixelSize"),
        *("rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle", "rlnImageName", "rlnOriginYAngst", "rlnOpticsGroup"),
    ],
)
def test_missing_columns_are_named(folder, column):
    optics = drop_column(OPTICS, column) if f"_{column} " in OPTICS and column != "rlnOpticsGroup" else OPTICS
    particles = drop_column(PARTICLES, column) if f"_{column} " in PARTICLES else PARTICLES
    with pytest.raises(ValueError, match=rf"p\.star.*{column}"):
        read(folder, optics + particles)


@pytest.mark.parametrize("column", ["rlnVoltage", "rlnMagnification", "rlnDefocusU", "rlnAmplitudeContrast"])
def test_missing_columns_of_the_old_format_are_named(folder, column):
    with pytest.raises(ValueError, match=rf"p\.star.*{column}"):
        read(folder, drop_column(RELION_30, column))


def test_image_size_may_be_absent(folder):
    assert read(folder, drop_column(OPTICS, "rlnImageSize") + PARTICLES).box == 16


def test_no_orientations(folder, caplog):
    text = PARTICLES
    for column in ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"):
        text = drop_column(text, column)
    assert read(folder, OPTICS + text).poses is None and not caplog.records
    assert read(folder, OPTICS + drop_column(PARTICLES, "rlnAngleTilt")).poses is None
    assert "rlnAngleTilt" in caplog.text


def test_orientations_of_a_2d_classification_are_noticed(folder, caplog):
    text = PARTICLES.replace("-35.5  67.25", "0 0").replace("10.0  20.00", "0 0")
    read(folder, OPTICS + text)
    assert "rot = tilt = 0" in caplog.text


def test_no_origins(folder):
    text = drop_column(drop_column(PARTICLES, "rlnOriginXAngst"), "rlnOriginYAngst")
    poses = read(folder, OPTICS + text).poses
    assert poses is not None and not poses.shifts.any()


def test_both_kinds_of_origin(folder):
    text = add_column(add_column(PARTICLES, "rlnOriginX", [2, -0.5, 0]), "rlnOriginY", [-1, 0.25, 0])
    poses = read(folder, OPTICS + text).poses
    assert poses is not None
    np.testing.assert_allclose(poses.shifts, [[-3, 1.5], [0.75, -0.375], [0, 0]])
    text = add_column(add_column(PARTICLES, "rlnOriginX", [2, -0.5, 0]), "rlnOriginY", [-1, 0.75, 0])
    with pytest.raises(ValueError, match=r"two origins that disagree, for 1 particles.*000001@b c\.mrcs"):
        read(folder, OPTICS + text)


def test_pixel_origins_beside_an_optics_table(folder):
    text = PARTICLES.replace("rlnOriginXAngst", "rlnOriginX").replace("rlnOriginYAngst", "rlnOriginY")
    poses = read(folder, OPTICS + text).poses
    assert poses is not None
    np.testing.assert_allclose(poses.shifts, [[-4.5, 2.25], [1.125, -0.5625], [0, 0]])


def test_mixed_pixel_and_box_sizes_are_named(folder):
    optics = OPTICS.replace("0.070000     1.500000           16            2\n#", "0.07 1.75 16 2\n#")
    with pytest.raises(ValueError, match=r"mixes pixel sizes: 1\.5 Å \(opticsGroup1\); 1\.75 Å \(the second group\)"):
        read(folder, optics + PARTICLES)
    optics = OPTICS.replace("0.070000     1.500000           16            2\n#", "0.07 1.5 24 2\n#")
    with pytest.raises(
        ValueError, match=r"mixes box sizes: 16 pixels \(opticsGroup1\); 24 pixels \(the second group\)"
    ):
        read(folder, optics + PARTICLES)
    with pytest.raises(ValueError, match=r"mixes pixel sizes: 1\.2 Å \(optics group 1\); 1\.5 Å"):
        read(folder, RELION_30.replace("20000.0 -12.50 2.7  6.0 40000.0", "20000.0 -12.50 2.7  6.0 50000.0"))


def test_aberrations_that_are_not_modelled_are_told(folder, caplog):
    optics = add_column(OPTICS, "rlnBeamTiltX", [0.0, -0.25, 0.5])  # the last group is not used
    optics = add_column(optics, "rlnOddZernike", ["[0,0,0]", "[0,1e-3,-0.02]", "[9,9,9]"])
    optics = add_column(add_column(optics, "rlnMagMat00", [1.0, 1.0, 2.0]), "rlnMagMat11", [1.0, 0.98, 1.0])
    read(folder, optics + PARTICLES)
    assert [record.args[1:] for record in caplog.records] == [
        ("rlnBeamTiltX", -0.25),
        ("rlnOddZernike", -0.02),
        ("rlnMagMat11", 0.98),
    ]
    assert all(record.levelno == logging.WARNING for record in caplog.records)


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("rlnCtfDataAreCtfPremultiplied", [0, 1, 0], r"multiplied by their CTF \(rlnCtfDataAreCtfPremultiplied is 1\)"),
        ("rlnCtfDataArePhaseFlipped", [1, 1, 1], r"phase-flipped \(rlnCtfDataArePhaseFlipped is 1\)"),
        ("rlnTomoTiltSeriesPixelSize", [1, 1, 1], r"tilt series \(rlnTomoTiltSeriesPixelSize\)"),
    ],
)
def test_other_data_is_refused(folder, column, values, message):
    with pytest.raises(ValueError, match=message):
        read(folder, add_column(OPTICS, column, values) + PARTICLES)


def test_neutral_flags_are_accepted(folder):
    assert len(read(folder, add_column(OPTICS, "rlnCtfDataAreCtfPremultiplied", [0, 0, 1]) + PARTICLES)) == 3


def test_subtomograms_are_refused(folder):
    with pytest.raises(ValueError, match="single particles only"):
        read(folder, add_column(PARTICLES, "rlnTomoName", ["t1"] * 3) + OPTICS)
    with pytest.raises(ValueError, match="other than two dimensions"):
        read(folder, OPTICS.replace("16            2", "16            3") + PARTICLES)


def test_tilt_series_of_warp_are_refused(folder):
    single = add_column(add_column(PARTICLES, "rlnGroupName", ["g0", "g0", "g1"]), "rlnCtfBfactor", [-13, -26, -13])
    assert len(read(folder, OPTICS + single)) == 3  # RELION fits a B-factor to each particle or micrograph
    text = add_column(single, "rlnCtfScalefactor", [1.0, 0.8, 1.0])
    with pytest.raises(ValueError, match="tilt series.*rlnGroupName"):
        read(folder, OPTICS + text)
    text = add_column(add_column(PARTICLES, "rlnGroupName", ["g0", "g0", "g1"]), "rlnCtfBfactor", [0, 0, 0])
    assert len(read(folder, OPTICS + text)) == 3


@pytest.mark.parametrize("value", ["nan", "NaN", "inf", "None", "<NA>"])
def test_values_that_are_no_numbers(folder, value):
    with pytest.raises(ValueError, match=r"column rlnDefocusV, found .* for image 000004@a\.mrcs$"):
        read(folder, OPTICS + PARTICLES.replace("15000.0 15000.0", f"15000.0 {value}"))
    with pytest.raises(ValueError, match="rlnAngleTilt"):
        read(folder, OPTICS + PARTICLES.replace("67.25", value))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("300.000000", "300000.0", "rlnVoltage between 10 and 3000, found 300000"),
        ("0.100000     1.5", "10.0     1.5", "rlnAmplitudeContrast between 0 and 1, found 10"),
        ("1.500000", "0.0", "expected positive pixel sizes"),
        ("000002@a.mrcs", "000000@a.mrcs", "found '000000@a.mrcs'"),
        ("000002@a.mrcs", "x@a.mrcs", "found 'x@a.mrcs'"),
        ("000002@a.mrcs          7", "000002@a.mrcs          3", "optics group 3, which its optics table lacks"),
        ("unused                  9", "unused                  7", "a group twice: 1, 7, 7"),
        ("data_particles", "data_others", None),
    ],
)
def test_wrong_values(folder, old, new, message):
    text = OPTICS + PARTICLES
    assert old in text
    if message is None:
        assert len(read(folder, text.replace(old, new))) == 3
    else:
        with pytest.raises(ValueError, match=message):
            read(folder, text.replace(old, new))


def test_images_of_their_own_file(folder):
    shutil.copy(folder / "a.mrcs", folder / "c.mrc")
    text = RELION_30.replace("000002@a.mrcs", "c.mrc").replace("000004@a.mrcs", "b.mrcs")
    particles = read(folder, text)
    assert particles.slice_of_image.tolist() == [0, 0, 0] and len(particles.stacks) == 2
    with pytest.raises(ValueError, match=r"'a\.mrcs' names 2 images: expected 000001@a\.mrcs"):
        read(folder, RELION_30.replace("000002@", "").replace("000004@", ""))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello\n",
        bytes(range(256)),
        OPTICS.encode(),
        (PARTICLES + PARTICLES.replace("data_particles", "data_model")).replace("data_particles", "data_x").encode(),
        b"data_particles\n\nloop_\n_rlnImageName #1\n",
        b"data_particles\n",
        b"data_particles\n\nloop_\n_rlnImageName #1\n_rlnVoltage #2\n1@a.mrcs 300\n2@a.mrcs 300 4 5\n",
        b"data_particles\n\nloop_\n_rlnImageName #1\n_rlnVoltage #2\n1@a.mrcs 300 7\n",
    ],
)
def test_files_that_are_not_particles(folder, content):
    (folder / "p.star").write_bytes(content)
    with pytest.raises(ValueError, match=r"p\.star"):
        read_star_particles(folder / "p.star")


def test_a_corrected_file_is_read_anew(folder):
    with pytest.raises(ValueError, match=r"p\.star"):
        read(folder, "data_particles\n\nloop_\n_rlnImageName #1\n1@a.mrcs\n2@a.mrcs 300 4 5\n")
    assert len(read(folder, RELION_30)) == 3


def test_missing_files(folder):
    with pytest.raises(FileNotFoundError, match=r"no particle file .*none\.star"):
        read_star_particles(folder / "none.star")
    (folder / "a.mrcs").unlink()
    (folder / "b.mrcs").unlink()
    with pytest.raises(FileNotFoundError, match=r"2 of 2 image stacks.*a\.mrcs, b\.mrcs"):
        read(folder, RELION_30)


def test_datadir(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    particles = read(elsewhere, RELION_30.replace("@", "@Extract/job1/"), datadir=folder)
    assert particles.stacks == ((folder / "a.mrcs").resolve(), (folder / "b.mrcs").resolve())


def test_selected_rows_need_only_their_own_stacks(folder):
    whole = read(folder, OPTICS + PARTICLES)
    (folder / "b c.mrcs").unlink()
    part = read(folder, OPTICS + PARTICLES, rows=np.array([2, 0]))
    assert part.image_names.tolist() == ["000004@a.mrcs", "000002@a.mrcs"] and len(part.stacks) == 1
    np.testing.assert_array_equal(part.optics.as_array(), whole.optics[np.array([2, 0])].as_array())
    with pytest.raises(ValueError, match="row 3 is selected"):
        read(folder, OPTICS + PARTICLES, rows=np.array([3]))


def assert_same(found, expected, tolerance=1e-6):
    for name in ("image_names", "stack_of_image", "slice_of_image"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    assert (found.stacks, found.box) == (expected.stacks, expected.box)
    assert found.pixel_size == pytest.approx(expected.pixel_size)
    np.testing.assert_allclose(found.optics.as_array(), expected.optics.as_array(), rtol=1e-7, atol=tolerance)
    assert (found.poses is None) == (expected.poses is None)
    if found.poses is not None:
        np.testing.assert_allclose(found.poses.rotations, expected.poses.rotations, rtol=0, atol=tolerance)
        np.testing.assert_allclose(found.poses.shifts, expected.poses.shifts, rtol=0, atol=tolerance)


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(seed=st.integers(0, 2**32 - 1), counts=st.lists(st.integers(1, 4), min_size=1, max_size=3), posed=st.booleans())
def test_round_trip(tmp_path, seed, counts, posed):
    particles = make_particles(tmp_path, tuple(counts), seed=seed)
    if not posed:
        particles = replace(particles, poses=None)
    first = particles.stack_of_image  # stacks are numbered as they appear in the file
    order = list(dict.fromkeys(first.tolist()))
    particles = replace(
        particles,
        stacks=tuple(particles.stacks[i] for i in order),
        stack_of_image=np.array([order.index(i) for i in first]),
    )
    write_star_particles(particles.source, particles)
    again = read_star_particles(particles.source)
    assert_same(again, particles)
    np.testing.assert_array_equal(again.optics_group, particles.optics_group)
    write_star_particles(particles.source, again)
    text, third = particles.source.read_bytes(), read_star_particles(particles.source)
    np.testing.assert_array_equal(third.optics.as_array(), again.optics.as_array())  # to the bit
    if third.poses is not None and again.poses is not None:
        np.testing.assert_array_equal(third.poses.rotations, again.poses.rotations)
        np.testing.assert_array_equal(third.poses.shifts, again.poses.shifts)
    write_star_particles(particles.source, third)
    assert particles.source.read_bytes() == text


def test_particles_that_were_read_are_written_the_same(folder):
    for text in (RELION_30, OPTICS + PARTICLES):
        particles = read(folder, text)
        write_star_particles(folder / "again.star", particles)
        assert_same(read_star_particles(folder / "again.star"), particles)


@pytest.mark.parametrize("name", ["a.mrcs", "Extract/job007/a.mrcs"])
def test_stacks_are_found_from_wherever_the_file_is_written(tmp_path, name):
    project, run = tmp_path / "project", tmp_path / "results/run"
    run.mkdir(parents=True)
    write_stack(project / name, np.zeros((4, 16, 16)))
    (project / "p.star").write_text(RELION_30.replace("b.mrcs", "a.mrcs").replace("a.mrcs", name))
    particles = read_star_particles(project / "p.star")
    write_star_particles(run / "poses.star", particles)
    again = read_star_particles(run / "poses.star")
    assert again.image_names.tolist() == [f"{n:06d}@../../project/{name}" for n in (2, 1, 4)]
    assert_same(replace(again, image_names=particles.image_names), particles)
    (project / "run").mkdir()  # inside a RELION project names stay: RELION resolves them from its folder
    write_star_particles(project / "run/poses.star", particles)
    assert_same(read_star_particles(project / "run/poses.star"), particles)
    write_stack(run / name, np.ones((4, 16, 16)))  # another stack of that name
    write_star_particles(run / "poses.star", particles)
    assert read_star_particles(run / "poses.star").stacks == particles.stacks


def test_groups_of_several_optics_are_divided(folder):
    particles = read(folder, OPTICS + PARTICLES)
    together = replace(particles, optics_group=np.zeros(3, np.int64))
    write_star_particles(folder / "again.star", together)
    again = read_star_particles(folder / "again.star")
    assert_same(again, particles)
    assert again.optics_group.tolist() == [0, 1, 0]
    assert again.optics_group_names == ("opticsGroup1", "opticsGroup1_2")


def test_names_of_optics_groups_are_kept(folder):
    particles = read(folder, OPTICS + PARTICLES)
    assert particles.optics_group_names == ("opticsGroup1", "the second group", "unused")
    write_star_particles(folder / "again.star", particles[np.array([2, 0])])
    again = read_star_particles(folder / "again.star")
    assert again.optics_group_names == ("the second group",) and again.optics_group.tolist() == [0, 0]


def test_written_file_is_relion_s(folder):
    """What RELION needs, read by an independent parser."""
    write_star_particles(folder / "again.star", read(folder, OPTICS + PARTICLES))
    document = gemmi.cif.read(str(folder / "again.star"))
    assert [block.name for block in document] == ["optics", "particles"]
    optics = document[0].find("_rln", ["OpticsGroup", "ImagePixelSize", "ImageSize", "ImageDimensionality", "Voltage"])
    assert [[float(value) for value in row] for row in optics] == [[1, 1.5, 16, 2, 300], [2, 1.5, 16, 2, 200]]
    names = [gemmi.cif.as_string(name) for name in document[0].find_values("_rlnOpticsGroupName")]
    assert names == ["opticsGroup1", "the second group"]
    rows = document[1].find("_rln", ["ImageName", "OriginXAngst", "OriginYAngst", "PhaseShift", "OpticsGroup"])
    assert [gemmi.cif.as_string(row[0]) for row in rows] == ["000002@a.mrcs", "000001@b c.mrcs", "000004@a.mrcs"]
    assert [[float(value) for value in list(row)[1:]] for row in rows] == [
        [3, -1.5, 90, 2],
        [-0.75, 0.375, 0, 1],
        [0, 0, 45, 2],
    ]
    text = (folder / "again.star").read_text()
    assert text.count("# version 30001\n") == 2 and "rlnOriginX " not in text
    assert "Created by" not in text  # no date: the same particles are the same bytes


def test_nothing_is_left_half_written(folder, monkeypatch):
    particles = read(folder, RELION_30)
    before = (folder / "p.star").read_text()
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        write_star_particles(folder / "p.star", particles)
    assert (folder / "p.star").read_text() == before and not list(folder.glob(".*"))
    with pytest.raises(FileNotFoundError, match="does not exist"):
        write_star_particles(folder / "no/p.star", particles)


def test_a_column_that_is_there_twice_is_named(folder):
    twice = add_column(add_column(PARTICLES, "rlnExtra", "1" * 99), "rlnExtra", "2" * 99)
    with pytest.raises(ValueError, match="data_particles has the column rlnExtra more than once"):
        read(folder, OPTICS + twice)
