"""Wrong poses, hands, signs and frames are found on a sample; right ones pass; what cannot be told is not judged."""

import logging
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from fits import settings, write_images
from molecules import three_helices
from scipy.spatial.transform import Rotation

from cryoatom.files.lock import locked
from cryoatom.geometry import random_rotations
from cryoatom.particles.stack import ImageStack
from cryoatom.records import Poses
from cryoatom.structure.template import center_template, template_from_atoms
from cryoatom.training.checks import check_inputs, find_faults
from cryoatom.training.halves import halves_agreement
from cryoatom.training.inputs import Inputs, read_inputs
from cryoatom.training.sample import Match, deviations, gains, open_sample, read_sample
from cryoatom.training.train import train
from cryoatom.workers import Workers

COUNT = 96
FLIP = np.diag([1.0, 1.0, -1.0])
TURN = Rotation.from_rotvec([0.4, 1.1, -0.7]).as_matrix()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images of three helices with shifts, sharp enough for 96 of them to tell everything."""
    folder, generator = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    template = center_template(template_from_atoms(three_helices(), "helices")[0])
    truth = template.positions + generator.normal(scale=0.3, size=(COUNT, len(template), 3))
    poses = Poses(random_rotations(COUNT, generator), generator.uniform(-6, 6, (COUNT, 2)))
    write_images(folder, template, truth, poses, generator, 0, scale=1.5)
    return folder


@pytest.fixture(scope="module")
def inputs(folder):
    return read_inputs(settings(folder))


@pytest.fixture(scope="module")
def sample(folder, inputs):
    with Workers(1) as workers:
        return read_sample(open_sample(settings(folder), inputs, workers), workers)


def posed(inputs: Inputs, rotations: np.ndarray | None = None, shifts: np.ndarray | None = None) -> Inputs:
    poses = inputs.particles.poses
    assert poses is not None
    poses = Poses(poses.rotations if rotations is None else rotations, poses.shifts if shifts is None else shifts)
    return replace(inputs, particles=replace(inputs.particles, poses=poses))


def placed(inputs: Inputs, matrix: np.ndarray, move: float = 0.0) -> Inputs:
    template = inputs.template
    atoms = replace(template.atoms, positions=template.atoms.positions @ matrix.T + move)
    moved = replace(template, atoms=atoms, positions=template.positions @ matrix.T + move)
    return replace(inputs, template=moved)


def faults(config, inputs: Inputs) -> list[str]:
    with Workers(1) as workers:
        return find_faults(config, inputs, workers)


def rotations(inputs: Inputs) -> np.ndarray:
    assert inputs.particles.poses is not None
    return inputs.particles.poses.rotations


def shifts(inputs: Inputs) -> np.ndarray:
    assert inputs.particles.poses is not None
    return inputs.particles.poses.shifts


ORDER = np.random.default_rng(1).permutation(COUNT)
WRONG = {
    "transposed": (lambda i: posed(i, np.swapaxes(rotations(i), 1, 2)), "rotations of the poses are the inverse"),
    "mirrored map": (lambda i: posed(i, FLIP @ rotations(i) @ FLIP), "other hand: .*rlnAngleTilt"),
    "inverted map": (lambda i: posed(i, -FLIP @ rotations(i)), "other hand: .*flip the map"),
    "opposite shifts": (lambda i: posed(i, shifts=-shifts(i)), "shifts have the wrong sign"),
    "shuffled": (lambda i: posed(i, rotations(i)[ORDER], shifts(i)[ORDER]), "poses do not belong to the images"),
    "mirrored template": (lambda i: placed(i, FLIP), "template is the mirror image"),
    "moved template": (lambda i: placed(i, np.eye(3), 6.0), "not in the frame of the poses.*moved by 10 Å"),
}


@pytest.fixture(autouse=True)
def quick_docking(monkeypatch):
    """Few placements climb, in few steps: enough for sharp images of a small molecule."""
    for name, value in {"_KEPT": 4, "_STEPS_COARSE": 8, "_STEPS": 20, "_STEP_DEG": (28.0, 28.0)}.items():
        monkeypatch.setattr(f"cryoatom.poses.docking.{name}", value)


def test_right_input_passes_and_says_by_how_much(folder, inputs, caplog):
    with caplog.at_level(logging.INFO):
        assert faults(settings(folder), inputs) == []
    records = [r for r in caplog.records if r.name == "cryoatom.training.checks"]
    lines = [r.getMessage() for r in records]
    assert lines[0].startswith("checked 96 images: the template explains them by ")
    assert re.match(r"docked .* the template has (\d+) where it is and (\1) at its best .* mirror image \d+", lines[1])
    for what in ("transposed rotations", "opposite shifts", "permuted ones"):
        (line,) = [line for line in lines if f"against {what}: better by " in line]
        assert int(line.split("better by ")[1].split()[0]) >= 5
    assert {r.levelname for r in records} == {"INFO"}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_found(folder, inputs, case):
    change, text = WRONG[case]
    (found,) = faults(settings(folder), change(inputs))
    assert re.search(text, found)


@pytest.mark.parametrize("turn", random_rotations(4, np.random.default_rng(5)))
def test_a_turned_template_is_out_of_its_frame_and_poses_are_not_blamed(folder, inputs, turn):
    (found,) = faults(settings(folder), placed(inputs, turn))
    angle = np.rad2deg(np.arccos((np.trace(turn) - 1) / 2))
    said = re.search(r"not in the frame of the poses: turned by (\d+)° .*cryoatom template --fit", found)
    assert said and abs(float(said[1]) - angle) < 4


@pytest.mark.parametrize("residues", [slice(0, 20), slice(0, 34)])
def test_a_part_of_the_particle_passes_in_its_place(folder, inputs, residues, caplog):
    kept = np.arange(len(inputs.template))[residues]
    atoms = inputs.template.atoms
    numbers = np.unique(atoms.residue_numbers)[kept]
    part = template_from_atoms(atoms[np.isin(atoms.residue_numbers, numbers)], "part")[0]
    assert faults(settings(folder), replace(inputs, template=part)) == []


@pytest.mark.parametrize("angle", [-35.0, 35.0])
def test_another_conformation_passes_in_its_place(folder, inputs, angle):
    template = inputs.template
    is_moved = template.atoms.residue_numbers > 80  # the shortest helix swings about its end
    positions = template.atoms.positions.copy()
    hinge = positions[is_moved][0]
    turn = Rotation.from_rotvec([0.0, angle, 0.0], degrees=True).as_matrix()
    positions[is_moved] = (positions[is_moved] - hinge) @ turn.T + hinge
    assert faults(settings(folder), replace(inputs, template=template.with_positions(positions))) == []


def test_inverted_contrast_is_found_together_with_others(folder, inputs):
    change, _ = WRONG["transposed"]
    contrast, rotation = faults(settings(folder, uninvert_data=True), change(inputs))
    assert "contrast is inverted" in contrast and "leave out --uninvert-data" in contrast
    assert "the inverse ones" in rotation


def test_inverse_rotations_are_told_without_the_template(folder, inputs):
    change, _ = WRONG["transposed"]
    (found,) = faults(settings(folder), placed(change(inputs), TURN @ TURN))
    assert "the inverse ones" in found


def test_shifts_that_are_small_are_not_judged(folder, inputs):
    small = posed(inputs, shifts=0.01 * shifts(inputs) / 6)
    found = faults(settings(folder), small)
    assert not [text for text in found if "sign" in text]


def test_few_images_are_not_judged(folder, inputs, caplog):
    few = replace(inputs, particles=posed(inputs, rotations(inputs)[ORDER]).particles[np.arange(49)])
    assert faults(settings(folder), few) == []
    assert [r.levelname for r in caplog.records if "49 images are too few" in r.message] == ["WARNING"]


def test_dead_images_are_left_out_of_the_sample(folder, inputs, monkeypatch):
    read = ImageStack._read
    is_right = torch.arange(COUNT) != 7
    monkeypatch.setattr(ImageStack, "_read", lambda self, rows: read(self, rows) * is_right[rows][:, None, None])
    with Workers(1) as workers:
        sample = read_sample(open_sample(settings(folder), inputs, workers), workers)
    assert len(sample) == COUNT - 1 and sample.crops.shape[1] == COUNT - 1 == len(sample.kernels)


def test_train_stops_before_it_writes_and_force_goes_on(folder, tmp_path, monkeypatch, caplog):
    change, _ = WRONG["shuffled"]
    wrong = change(read_inputs(settings(folder)))
    monkeypatch.setattr("cryoatom.training.train.read_inputs", lambda config: wrong)
    with pytest.raises(ValueError, match=r"poses do not belong to the images.*--force goes on"):
        train(settings(folder, tmp_path / "run", cache=tmp_path / "cache"))
    assert not (tmp_path / "run").exists() and not (tmp_path / "cache").exists()
    check_inputs(settings(folder, force=True), wrong)
    assert [r.levelname for r in caplog.records if "do not belong" in r.message] == ["WARNING"]


def test_images_that_show_hardly_anything_are_not_judged_when_they_are_few(folder, inputs, monkeypatch, caplog):
    read, generator = ImageStack._read, torch.Generator().manual_seed(0)
    noise = torch.randn(COUNT, inputs.particles.box, inputs.particles.box, generator=generator)
    monkeypatch.setattr(ImageStack, "_read", lambda self, rows: 0.02 * read(self, rows) + noise[rows])
    assert faults(settings(folder), inputs) == []
    (line,) = [r for r in caplog.records if "too faintly" in r.message]
    assert line.levelname == "WARNING" and line.message.startswith(f"{COUNT} images")


def test_any_number_of_dead_images_is_left_to_the_run_itself(folder, inputs, monkeypatch):
    read = ImageStack._read
    is_right = torch.arange(COUNT) % 4 > 0
    monkeypatch.setattr(ImageStack, "_read", lambda self, rows: read(self, rows) * is_right[rows][:, None, None])
    assert faults(settings(folder), inputs) == []


def test_a_folder_that_is_taken_is_found_before_the_checks(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("cryoatom.training.train.check_inputs", lambda config, inputs: pytest.fail("too late"))
    run = tmp_path / "run"
    run.mkdir()
    with locked(run / ".lock"), pytest.raises(ValueError, match="is being written by process"):
        train(settings(folder, run))
    np.save(run / "z.npy", np.zeros(1))
    with pytest.raises(ValueError, match="holds a run"):
        train(settings(folder, run))
    assert [path.name for path in run.iterdir()] == ["z.npy"]


def test_poses_that_are_to_be_found_are_not_checked(folder, inputs):
    check_inputs(settings(folder, poses="esl"), posed(inputs, rotations(inputs)[ORDER]))


def test_gains_are_those_of_the_best_scale():
    generator = np.random.default_rng(0)
    cross, power = (torch.from_numpy(generator.uniform(1, 3, 50)) for _ in range(2))
    tried = [float((s * cross - s**2 * power / 2).sum()) for s in np.linspace(0, 3, 3001)]
    assert float(gains(cross, power).sum()) == pytest.approx(max(tried), rel=1e-5)
    assert not gains(-cross, power).any()


def test_the_distance_of_views_is_that_of_their_projections(sample, inputs):
    others = sample.rotations[torch.arange(len(sample)).roll(1)]
    with Workers(1) as workers:
        match = Match(sample, inputs.template, workers)
        (_, first), (_, second) = match(sample.rotations), match(others)
        apart = match.distance(sample.rotations, others)
    assert bool((apart >= (first.sqrt() - second.sqrt()) ** 2 - 1e-3).all())  # the triangle inequality, both ways
    assert bool((apart <= (first.sqrt() + second.sqrt()) ** 2 + 1e-3).all())


def test_half_maps_agree_only_in_the_images_own_poses(sample):
    permuted = [halves_agreement(sample, sample.rotations[torch.randperm(len(sample))]) for _ in range(3)]
    assert halves_agreement(sample, sample.rotations) > 0.3 > 0.15 > max(permuted)
    turn = torch.from_numpy(TURN).float()
    turned = halves_agreement(sample, sample.rotations @ turn)
    assert turned == pytest.approx(halves_agreement(sample, sample.rotations), abs=0.1)


def test_deviations_of_a_mean():
    values = torch.from_numpy(np.random.default_rng(0).normal(0.5, 1, 400))
    assert deviations(values) == pytest.approx(0.5 * 20, abs=3)
    assert deviations(torch.zeros(5)) == 0
