"""Pose errors with known answers: gauges, added rotations and shifts, mirror images; and files of poses."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from molecules import data_folder
from scipy.spatial.transform import Rotation

from cryoatom.cli.eval import eval_command
from cryoatom.files.mrc import StackWriter
from cryoatom.files.star import write_star_particles
from cryoatom.files.trajectory import DcdWriter
from cryoatom.geometry import random_rotations
from cryoatom.particles.table import read_particles
from cryoatom.records import Optics, Particles, Poses
from cryoatom.results import mirror
from cryoatom.results import predictions as predictions_module
from cryoatom.results.evaluate import evaluate
from cryoatom.results.evaluation import EvaluationResult
from cryoatom.results.ground_truth import GroundTruth
from cryoatom.results.plots import PLOTS
from cryoatom.results.poses import PosePairs, match_images, pose_errors
from cryoatom.results.predictions import Predictions
from cryoatom.structure.template import Template, read_template, template_from_atoms, write_template

IMAGES, FRAMES, BOX = 40, 4, 16


def alphas() -> Template:
    whole = read_template(data_folder() / "adk_closed.pdb")[0]
    return template_from_atoms(whole.atoms[whole.atoms.names == "CA"], "C-alphas")[0]


def frames(template: Template) -> np.ndarray:
    """True conformations away from the origin, each a little more bent."""
    positions = template.positions - template.positions.mean(axis=0)
    bent = [positions + bend * positions[:, :1] ** 2 * [0, 1, 0] for bend in np.linspace(0, 0.01, FRAMES)]
    return np.stack(bent) + [3.0, -5.0, 8.0]


def drawn_poses(generator: np.random.Generator) -> Poses:
    return Poses(random_rotations(IMAGES, generator), generator.normal(scale=2, size=(IMAGES, 2)))


def in_other_frames(
    conformations: np.ndarray, poses: Poses, generator: np.random.Generator
) -> tuple[np.ndarray, Poses]:
    """Move every conformation by a motion of its own, x -> Q x + c, and its pose so that its image stays."""
    turns, offsets = random_rotations(len(poses), generator), generator.normal(scale=15, size=(len(poses), 3))
    rotations = poses.rotations @ turns.swapaxes(1, 2)
    shifts = poses.shifts - (rotations @ offsets[..., None])[:, :2, 0]
    return conformations @ turns.swapaxes(1, 2) + offsets[:, None], Poses(rotations, shifts)


class Case:
    """True conformations and poses, and the same in frames of their own; both may be disturbed before."""

    def __init__(self, *, turn: np.ndarray | None = None, push: np.ndarray | None = None, mirrored: bool = False):
        generator = np.random.default_rng(5)
        self.template = alphas()
        self.frames = frames(self.template)
        self.labels = np.arange(IMAGES) % FRAMES
        self.true = drawn_poses(generator)
        rotations, shifts = self.true.rotations, self.true.shifts
        if turn is not None:
            rotations = turn @ rotations
        if push is not None:
            shifts = shifts + push
        conformations = self.frames[self.labels]
        if mirrored:
            conformations, rotations = -conformations, np.diag([-1.0, -1.0, 1.0]) @ rotations
        conformations, found = in_other_frames(conformations, Poses(rotations, shifts), generator)
        self.pairs = PosePairs(found, self.true)
        self.predictions = Predictions(conformations, self.template)

    def errors(self) -> tuple[np.ndarray, np.ndarray]:
        return pose_errors(self.predictions, torch.from_numpy(self.frames), self.labels, self.pairs)

    def evaluate(self) -> EvaluationResult:
        truth = GroundTruth(self.frames.astype(np.float32), ())
        return evaluate(self.predictions, truth, labels=self.labels, poses=self.pairs)


def test_the_frame_of_a_conformation_is_no_error():
    angles, shifts = Case().errors()
    assert np.abs(angles).max() < 1e-5 and shifts.max() < 1e-5
    plain = Case()
    far = pose_errors(
        Predictions(plain.frames[plain.labels], plain.template),
        torch.from_numpy(plain.frames),
        plain.labels,
        plain.pairs,
    )[0]
    assert np.median(far) > 60  # without the motions, the same poses are wrong


@pytest.mark.parametrize("angle", [0.01, 5.0, 90.0, 180.0])
def test_an_added_rotation_is_the_pose_error(angle):
    axes = np.random.default_rng(1).normal(size=(IMAGES, 3))
    axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    angles, shifts = Case(turn=Rotation.from_rotvec(np.deg2rad(angle) * axes).as_matrix()).errors()
    np.testing.assert_allclose(angles, angle, atol=1e-4)
    assert shifts.max() < 1e-5  # about the origin of the truth, whatever the offset of the conformation


def test_an_added_shift_is_the_shift_error():
    push = np.random.default_rng(2).normal(scale=4, size=(IMAGES, 2))
    angles, shifts = Case(push=push).errors()
    np.testing.assert_allclose(shifts, np.linalg.norm(push, axis=1), atol=1e-5)
    assert angles.max() < 1e-5


def test_some_images_are_those_of_all_and_chunks_change_nothing(monkeypatch):
    push = np.random.default_rng(2).normal(scale=4, size=(IMAGES, 2))
    case = Case(push=push)
    rows = np.array([31, 2, 17])
    monkeypatch.setattr(predictions_module, "RESIDUES_AT_ONCE", 2 * len(case.template))
    some = pose_errors(case.predictions, torch.from_numpy(case.frames), case.labels, case.pairs, rows)
    np.testing.assert_allclose(some[1], np.linalg.norm(push, axis=1)[rows], atol=1e-5)


def test_figures_and_plot_of_an_evaluation():
    degrees = np.where(np.arange(IMAGES) % 4 == 0, 40.0, 2.0)
    result = Case(turn=Rotation.from_euler("x", degrees[:, None], degrees=True).as_matrix()).evaluate()
    summary = result.summary()
    assert summary["pose_error_deg_median"] == pytest.approx(2, abs=1e-4)
    assert summary["pose_error_deg_mean"] == pytest.approx(0.75 * 2 + 0.25 * 40, abs=1e-4)
    assert summary["pose_share_within_15_deg"] == 0.75
    assert summary["shift_error_median"] < 1e-4
    assert PLOTS["poses.png"](result) is not None
    assert (summary["hand"], summary["helix_hand"]) == ("right", "right")
    assert summary["hand_rmsd"] < 1e-4 < 5 < summary["hand_rmsd_mirrored"]


def test_a_mirrored_reconstruction_is_noticed():
    case = Case(mirrored=True)
    result = case.evaluate()
    summary = result.summary()
    assert (summary["hand"], summary["helix_hand"]) == ("mirrored", "mirrored")
    assert summary["hand_rmsd_mirrored"] < 1e-4 < 5 < summary["hand_rmsd"]
    assert summary["hand_pose_error_deg_median_mirrored"] < 1e-4 < 30 < summary["pose_error_deg_median"]
    assert any("mirrored" in note and "0.0° (median)" in note for note in result.notes)
    truth = GroundTruth(case.frames.astype(np.float32), ())
    blind = evaluate(case.predictions, truth)  # without labels and poses
    assert blind.hand.hand == "mirrored" and blind.hand.rmsd_mirrored < 1e-4
    assert blind.summary()["pose_error_deg_median"] is None and PLOTS["poses.png"](blind) is None


def test_the_mirrored_molecule_in_the_mirrored_pose_has_the_same_image():
    case = Case()
    points, mirrored = case.frames[case.labels], case.pairs.mirrored().true
    images = (points @ case.true.rotations.swapaxes(1, 2))[..., :2]
    np.testing.assert_allclose((-points @ mirrored.rotations.swapaxes(1, 2))[..., :2], images, atol=1e-9)
    np.testing.assert_allclose(np.linalg.det(mirrored.rotations), 1)


def test_what_is_as_near_to_both_hands_is_unknown(monkeypatch):
    case = Case()
    flat = replace(case.predictions, conformations=case.predictions.conformations * [1, 1, 0])
    hand = evaluate(flat, GroundTruth((case.frames * [1, 1, 0]).astype(np.float32), ()), labels=case.labels).hand
    assert hand.hand == "unknown"
    monkeypatch.setattr(mirror, "HAND_IMAGES", 7)
    assert case.evaluate().hand.images == 7


def test_poses_need_labels_and_one_per_image():
    case = Case()
    truth = GroundTruth(case.frames.astype(np.float32), ())
    with pytest.raises(ValueError, match="need labels"):
        evaluate(case.predictions, truth, poses=case.pairs)
    short = PosePairs(case.pairs.found[:-1], case.pairs.true[:-1])
    with pytest.raises(ValueError, match="39 poses and 40 conformations"):
        evaluate(case.predictions, truth, labels=case.labels, poses=short)


def stack(path: Path, count: int = IMAGES) -> Path:
    path.parent.mkdir(exist_ok=True)
    with StackWriter(path, box=BOX, pixel_size=4.0, count=count) as writer:
        writer.write(np.zeros((count, BOX, BOX), dtype=np.float32))
    return path


def particles(path: Path, poses: Poses | None) -> Particles:
    count = IMAGES
    column = np.full(count, 1.0)
    return Particles(
        source=path.with_suffix(".star"),
        image_names=np.array([f"{i + 1:06d}@{path.name}" for i in range(count)]),
        stacks=(path,),
        stack_of_image=np.zeros(count, dtype=np.int64),
        slice_of_image=np.arange(count),
        box=BOX,
        pixel_size=4.0,
        optics=Optics(300 * column, column, 0.1 * column, 1e4 * column, 1e4 * column, 0 * column, 0 * column),
        optics_group=np.zeros(count, dtype=np.int64),
        poses=poses,
    )


@pytest.fixture
def run_folder(tmp_path) -> Path:
    """A run whose poses are right but for 3 degrees, with the truth beside it."""
    case = Case(turn=Rotation.from_euler("z", 3, degrees=True).as_matrix())
    data, folder = stack(tmp_path / "data" / "particles.mrcs"), tmp_path / "run"
    folder.mkdir()
    np.save(folder / "conformations.npy", case.predictions.conformations.astype(np.float32))
    write_template(folder / "template.cif", case.template)
    found = replace(case.pairs.found, shifts=np.clip(case.pairs.found.shifts, -31, 31))  # of a small box
    write_star_particles(folder / "poses.star", particles(data, found))
    write_star_particles(tmp_path / "data" / "particles.star", particles(data, case.true))
    with DcdWriter(tmp_path / "truth.dcd", len(case.template)) as writer:
        writer.write(case.frames.astype(np.float32))
    np.savetxt(tmp_path / "frames.txt", case.labels, fmt="%d")
    return folder


def run(folder: Path, *more: object) -> Result:
    arguments = [folder, "--gt", folder.parent / "truth.dcd", "--labels", folder.parent / "frames.txt", *more]
    return CliRunner().invoke(eval_command, [*map(str, arguments), "--threads", "1"])


def test_eval_reports_pose_errors(run_folder):
    result = run(run_folder, "--gt-poses", run_folder.parent / "data" / "particles.star")
    assert result.exit_code == 0, result.output
    assert "pose error, median, degrees" in result.output and "hand: right" in result.output
    summary = json.loads((run_folder / "eval" / "summary.json").read_text())
    assert summary["pose_error_deg_median"] == pytest.approx(3, abs=1e-2)
    assert (run_folder / "eval" / "poses.png").read_bytes().startswith(b"\x89PNG")
    rows = list(csv.DictReader((run_folder / "eval" / "rmsd.csv").read_text().splitlines()))
    np.testing.assert_allclose([float(row["pose_error_deg"]) for row in rows], 3, atol=1e-2)
    assert all(row["shift_error"] for row in rows)
    assert run(run_folder).exit_code == 0
    assert not (run_folder / "eval" / "poses.png").exists()  # of the earlier evaluation


def test_eval_says_what_true_poses_need(run_folder):
    truth = ["--gt-poses", run_folder.parent / "data" / "particles.star"]
    unlabelled = [run_folder, "--gt", run_folder.parent / "truth.dcd", *truth]
    assert "needs a run folder" in str(CliRunner().invoke(eval_command, [*map(str, unlabelled)]).exception)
    (run_folder / "poses.star").unlink()
    assert "poses.star does not exist" in str(run(run_folder, *truth).exception)
    data = run_folder.parent / "data" / "particles.mrcs"
    write_star_particles(run_folder / "poses.star", particles(data, None))
    assert "has no orientations" in str(run(run_folder, *truth).exception)
    write_star_particles(run_folder / "poses.star", particles(data, drawn_poses(np.random.default_rng(0)))[:9])
    assert "poses.star has 9 images, the run 40 conformations" in str(run(run_folder, *truth).exception)


def test_true_poses_in_another_order_are_joined_by_image(run_folder):
    path = run_folder.parent / "data" / "particles.star"
    shuffled = run_folder.parent / "data" / "shuffled.star"
    order = np.random.default_rng(0).permutation(IMAGES)
    write_star_particles(shuffled, read_particles(path)[order])
    assert run(run_folder, "--gt-poses", shuffled).exit_code == 0
    summary = json.loads((run_folder / "eval" / "summary.json").read_text())
    assert summary["pose_error_deg_median"] == pytest.approx(3, abs=1e-2)


def test_images_are_matched_by_place_then_by_name_then_by_row(tmp_path):
    poses = drawn_poses(np.random.default_rng(0))
    found = particles(tmp_path / "a" / "one.mrcs", poses)
    order = np.random.default_rng(1).permutation(IMAGES)
    for same in (found, particles(tmp_path / "b" / "one.mrcs", poses)):
        index, notes = match_images(found[order[:10]], same)
        np.testing.assert_array_equal(index, order[:10])
        assert notes == ()
    other = particles(tmp_path / "a" / "two.mrcs", poses)
    index, notes = match_images(found, other)
    np.testing.assert_array_equal(index, np.arange(IMAGES))
    assert "row order" in notes[0]
    with pytest.raises(ValueError, match="40 images, .* 39, and only 0 are matched"):
        match_images(found, other[:39])
    with pytest.raises(ValueError, match="only 30 are matched"):
        match_images(found, found[:30])
    twice = found[np.arange(IMAGES) // 2]
    assert "row order" in match_images(twice, twice)[1][0]
