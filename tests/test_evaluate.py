"""Evaluations with known answers, files that do not fit, and what is written."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import gemmi
import numpy as np
import pytest
from click.testing import CliRunner, Result

from cryoatom.cli.eval import eval_command
from cryoatom.files.structure import write_atoms
from cryoatom.files.trajectory import DcdWriter
from cryoatom.geometry import random_rotations
from cryoatom.records import Atoms
from cryoatom.results import evaluate as evaluate_module
from cryoatom.results import predictions as predictions_module
from cryoatom.results.evaluate import evaluate
from cryoatom.results.evaluation import EvaluationResult
from cryoatom.results.evaluation_files import write_evaluation
from cryoatom.results.ground_truth import GroundTruth, match_truth, read_ground_truth, read_labels
from cryoatom.results.plots import PLOTS
from cryoatom.results.predictions import Predictions, read_predictions
from cryoatom.structure.template import Template, template_from_atoms, write_template

RESIDUES, FRAMES = 30, 6
KEYS = (
    "rmsd_mean rmsd_median rmsd_unaligned_mean emd_rmsd rmsd_template_mean rmsd_static_mean n_images n_frames "
    "rmsd_quantiles bias_mean scatter_mean latent_rank_correlation"
).split()


def calphas(positions: np.ndarray, *, chain: str = "A", first: int = 1, names: str = "ALA") -> Atoms:
    count = len(positions)
    blank = np.full(count, "")
    return Atoms(
        names=np.full(count, "CA"),
        elements=np.full(count, "C"),
        residue_names=np.full(count, names),
        chain_ids=np.full(count, chain),
        residue_numbers=np.arange(first, first + count),
        insertion_codes=blank,
        altlocs=blank,
        positions=np.asarray(positions, dtype=np.float64),
        b_factors=np.zeros(count),
        occupancies=np.ones(count),
    )


def protein(positions: np.ndarray, **changes) -> Template:
    return template_from_atoms(calphas(positions, **changes), "made in the test")[0]


def trajectory(frames: int = FRAMES, residues: int = RESIDUES) -> np.ndarray:
    """A helix that bends more in every frame."""
    turn, height = np.deg2rad(100) * np.arange(residues), 1.5 * np.arange(residues)
    helix = np.stack([2.3 * np.cos(turn), 2.3 * np.sin(turn), height - height.mean()], axis=1)
    bend = np.linspace(0, 0.02, frames)[:, None]
    positions = np.repeat(helix[None], frames, axis=0)
    positions[:, :, 0] += bend * positions[:, :, 2] ** 2
    return positions.astype(np.float32)


def noisy(frames: np.ndarray, labels: np.ndarray, *, noise: float = 0.3, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return (frames[labels] + noise * generator.standard_normal((len(labels), *frames.shape[1:]))).astype(np.float32)


def rotated(conformations: np.ndarray, *, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    rotations = random_rotations(len(conformations), generator)
    return conformations @ rotations.swapaxes(1, 2) + generator.normal(0, 10, (len(conformations), 1, 3))


def read_rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def case(images: int = 60, **changes) -> tuple[Predictions, GroundTruth, np.ndarray]:
    frames = trajectory()
    labels = np.random.default_rng(1).integers(0, FRAMES, images)
    predictions = Predictions(noisy(frames, labels, **changes), protein(frames[0]), labels[:, None] ** 2 / 7.0)
    return predictions, GroundTruth(frames, ()), labels


def evaluated(**changes) -> EvaluationResult:
    predictions, truth, labels = case(**changes)
    return evaluate(predictions, truth, labels=labels)


def figures(result: EvaluationResult) -> dict[str, float]:
    return {key: value for key, value in result.summary().items() if isinstance(value, float)}


def test_true_conformations_in_any_pose_have_no_error():
    frames = trajectory()
    labels = np.arange(40) % FRAMES
    predictions = Predictions(rotated(frames[labels].astype(np.float64)), protein(frames[0]))
    result = evaluate(predictions, GroundTruth(frames, ()), labels=labels)
    summary = result.summary()
    zeros = "rmsd_mean rmsd_nearest_mean emd_rmsd emd_rmsd_sampled_mean bias_mean scatter_mean bias_rms scatter_rms"
    assert all(summary[key] < 1e-5 for key in zeros.split())
    assert summary["rmsd_unaligned_mean"] > 5
    assert summary["coordinate_rank_correlation"] > 0.98  # 1, but for rounding that orders images of one frame
    assert summary["latent_rank_correlation"] is None
    np.testing.assert_array_equal(result.images.nearest_frame, labels)
    np.testing.assert_array_equal(result.images.paired_frame, labels)


def test_aligned_figures_do_not_depend_on_poses():
    predictions, truth, labels = case()
    turned = replace(predictions, conformations=rotated(predictions.conformations.astype(np.float64)))
    before, after = (figures(evaluate(p, truth, labels=labels)) for p in (predictions, turned))
    for key in before.keys() - {"rmsd_unaligned_mean", "rmsd_unaligned_median"}:
        assert after[key] == pytest.approx(before[key], abs=1e-6), key


def test_bias_and_scatter_are_told_apart():
    generator = np.random.default_rng(0)
    frames, labels = trajectory(), np.repeat(np.arange(FRAMES), 400)
    offset = 0.5 * generator.standard_normal((RESIDUES, 3))  # the same for all: bias
    predictions = Predictions(noisy(frames + offset, labels, noise=0.4), protein(frames[0]))
    result = evaluate(predictions, GroundTruth(frames, ()), labels=labels)
    motionless = 1 - 6 / (3 * RESIDUES)  # superposition takes up six degrees of freedom
    summary = result.summary()
    assert summary["scatter_mean"] == pytest.approx(0.4 * np.sqrt(3 * motionless), rel=0.03)
    unbiased = evaluate(
        Predictions(frames + offset, predictions.template), GroundTruth(frames, ()), labels=np.arange(6)
    )
    assert summary["bias_mean"] == pytest.approx(unbiased.summary()["rmsd_mean"], rel=0.03)
    per_frame = np.bincount(labels, result.images.rmsd**2) / 400
    np.testing.assert_allclose(result.frames.bias**2 + result.frames.scatter**2, per_frame, rtol=1e-9)
    residues = result.residues
    np.testing.assert_allclose(residues.bias**2 + residues.scatter**2, residues.deviation**2, rtol=1e-9)
    assert (residues.deviation**2).mean() == pytest.approx((result.images.rmsd**2).mean())
    assert summary["bias_rms"] ** 2 + summary["scatter_rms"] ** 2 == pytest.approx((result.images.rmsd**2).mean())


def test_per_residue_figures_show_where_the_bias_is():
    frames, labels = trajectory(), np.repeat(np.arange(FRAMES), 50)
    conformations = noisy(frames, labels, noise=0.1)
    conformations[:, 10:12] += 3.0
    result = evaluate(Predictions(conformations, protein(frames[0])), GroundTruth(frames, ()), labels=labels)
    assert set(np.argsort(result.residues.bias)[-2:]) == {10, 11}


def test_a_perfect_order_of_latents_is_found_whatever_its_sign():
    predictions, truth, labels = case()
    backwards = replace(predictions, latents=-predictions.latents)
    for latents in (predictions, backwards):
        assert evaluate(latents, truth, labels=labels).latent_rank_correlation == pytest.approx(1)


def test_baselines_are_the_templates_and_the_best_static_structures():
    predictions, truth, labels = case()
    result = evaluate(predictions, truth, labels=labels)
    still = replace(predictions, conformations=np.repeat(predictions.template.positions[None], len(labels), axis=0))
    template = evaluate(still, truth, labels=labels)
    np.testing.assert_allclose(result.images.rmsd_template, template.images.rmsd, atol=1e-6)
    assert result.summary()["rmsd_template_mean"] == pytest.approx(template.summary()["rmsd_mean"], abs=1e-6)
    assert template.emd_rmsd == pytest.approx(result.summary()["emd_rmsd_template"], abs=1e-6)
    np.testing.assert_allclose(result.residues.template, template.residues.deviation, atol=1e-6)
    mean_squares = [(column[labels] ** 2).mean() for column in (result.frames.rmsd_static, result.frames.rmsd_template)]
    assert mean_squares[0] < mean_squares[1]


def test_the_earth_movers_distance_counts_uneven_frames():
    frames = trajectory()
    labels = np.repeat(np.arange(FRAMES), [30, 1, 0, 4, 0, 15])
    predictions = Predictions(rotated(frames[labels[::-1]].astype(np.float64)), protein(frames[0]))
    result = evaluate(predictions, GroundTruth(frames, ()), labels=labels)
    assert result.emd_rmsd < 1e-5 < 0.1 < result.summary()["rmsd_mean"]
    assert evaluate(predictions, GroundTruth(frames, ())).emd_rmsd > 0.1
    assert any("2 of 6 frames have no image" in note for note in result.notes)


def test_the_earth_movers_distance_is_at_most_the_mean_rmsd():
    predictions, truth, labels = case(noise=1.5)
    result = evaluate(predictions, truth, labels=labels, emd_samples=20)
    summary = result.summary()
    assert summary["rmsd_nearest_mean"] <= summary["emd_rmsd"] <= summary["rmsd_mean"]
    assert len(result.emd_draws) == 5 and result.emd_draws.std() > 0


def test_draws_follow_the_seed_and_a_draw_of_all_images_is_all_of_them():
    predictions, truth, labels = case(noise=1.0)
    first, again, other = (
        evaluate(predictions, truth, labels=labels, emd_samples=20, seed=seed).emd_draws for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    whole = evaluate(predictions, truth, labels=labels, emd_samples=10_000)
    assert whole.emd_samples == len(labels)
    np.testing.assert_allclose(whole.emd_draws, [whole.emd_rmsd], atol=1e-12)


def test_too_many_pairs_leave_the_sampled_distance_and_say_so(monkeypatch):
    predictions, truth, labels = case(noise=1.0)
    full = evaluate(predictions, truth, labels=labels, emd_samples=20)
    monkeypatch.setattr(evaluate_module, "FULL_EMD_PAIRS", 10)
    sampled = evaluate(predictions, truth, labels=labels, emd_samples=20)
    np.testing.assert_allclose(sampled.emd_draws, full.emd_draws, atol=1e-9)
    assert sampled.images.rmsd_paired is None and sampled.summary()["emd_rmsd_full"] is None
    assert sampled.emd_rmsd == sampled.emd_draws.mean()
    assert "60 images and 6 frames are more than 10 pairs" in sampled.notes[-1]
    assert PLOTS["emd_pairing.png"](sampled) is None


def test_chunks_change_nothing(monkeypatch):
    whole = figures(evaluated())
    monkeypatch.setattr(predictions_module, "RESIDUES_AT_ONCE", 7 * RESIDUES)
    assert figures(evaluated()) == pytest.approx(whole, abs=1e-9)


def test_without_labels_only_distributions_are_compared(tmp_path):
    predictions, truth, _ = case()
    result = evaluate(predictions, truth)
    summary = result.summary()
    needs_labels = "rmsd_mean rmsd_median rmsd_unaligned_mean rmsd_template_mean rmsd_static_mean bias_mean".split()
    assert all(summary[key] is None for key in (*needs_labels, "latent_rank_correlation"))
    assert all(summary[key] > 0 for key in ("emd_rmsd", "rmsd_nearest_mean", "emd_rmsd_template", "emd_rmsd_static"))
    assert "no labels" in result.notes[0]
    (tmp_path / "frames.png").write_bytes(b"of an earlier evaluation")
    written = write_evaluation(tmp_path, result)
    assert sorted(written) == sorted(tmp_path.iterdir())
    assert not (tmp_path / "frames.png").exists()
    rows = read_rows(tmp_path / "rmsd.csv")
    assert len(rows) == 60 and rows[0]["rmsd"] == "" and float(rows[0]["rmsd_nearest"]) > 0
    assert json.loads((tmp_path / "summary.json").read_text())["rmsd_mean"] is None


def test_files_hold_the_result(tmp_path):
    result = evaluated()
    write_evaluation(tmp_path / "new" / "folder", result)
    folder = tmp_path / "new" / "folder"
    rows = read_rows(folder / "rmsd.csv")
    assert list(rows[0])[:5] == ["image", "frame", "rmsd", "rmsd_unaligned", "rmsd_template"]
    np.testing.assert_allclose([float(row["rmsd"]) for row in rows], result.images.rmsd, atol=1e-4)
    assert [int(row["image"]) for row in rows] == list(range(60))
    assert [int(row["frame"]) for row in rows] == result.images.frame.tolist()
    assert len(read_rows(folder / "per_frame.csv")) == FRAMES
    residues = read_rows(folder / "per_residue.csv")
    assert [row["number"] for row in residues] == [str(number) for number in range(1, RESIDUES + 1)]
    summary = json.loads((folder / "summary.json").read_text())
    assert set(KEYS) <= set(summary)
    assert summary["n_images"] == 60 and summary["n_frames"] == FRAMES
    assert all((folder / name).read_bytes().startswith(b"\x89PNG") for name in PLOTS if name != "poses.png")


def test_one_image_of_one_frame_is_evaluated_and_drawn():
    frames = trajectory(frames=1)
    predictions = Predictions(noisy(frames, np.zeros(1, dtype=np.int64)), protein(frames[0]), np.zeros((1, 8)))
    result = evaluate(predictions, GroundTruth(frames, ()), labels=np.zeros(1, dtype=np.int64))
    assert result.latent_rank_correlation is None
    assert result.summary()["bias_mean"] == pytest.approx(result.summary()["rmsd_mean"])
    assert all(plot(result) is not None for name, plot in PLOTS.items() if name != "poses.png")


def test_several_chains_are_drawn_one_after_the_other():
    frames = trajectory()
    residues = calphas(frames[0])
    two = replace(
        residues, chain_ids=np.repeat(["A", "BB"], RESIDUES // 2), residue_numbers=np.arange(RESIDUES) % (RESIDUES // 2)
    )
    template = template_from_atoms(two, "made in the test")[0]
    labels = np.arange(FRAMES)
    result = evaluate(Predictions(noisy(frames, labels), template), GroundTruth(frames, ()), labels=labels)
    figure = PLOTS["residues.png"](result)
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == ["A", "BB"]


def test_another_frame_of_reference_is_noticed():
    predictions, truth, labels = case()
    away = replace(truth, positions=truth.positions + np.float32(20))
    assert not any("frame of reference" in note for note in evaluate(predictions, truth, labels=labels).notes)
    assert any("frame of reference" in note for note in evaluate(predictions, away, labels=labels).notes)


def test_a_conformation_that_is_not_finite_is_named(monkeypatch):
    monkeypatch.setattr(predictions_module, "RESIDUES_AT_ONCE", 7 * RESIDUES)
    predictions, truth, labels = case()
    predictions.conformations[17, 3, 1] = np.nan
    with pytest.raises(ValueError, match="image 17 .* not finite"):
        evaluate(predictions, truth, labels=labels)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1, 2], "3 labels, the run 4 images"),
        ([1, 2, 3, 1], "counts frames from 1 .* subtract 1"),
        ([0, 1, 2, 3], "labels 0 to 3, the ground truth has frames 0 to 2"),
        ([0, -1, 2, 1], "labels -1 to 2"),
    ],
)
def test_labels_that_do_not_fit(tmp_path, labels, message):
    np.savetxt(tmp_path / "frames.txt", labels, fmt="%d")
    with pytest.raises(ValueError, match=message):
        read_labels(tmp_path / "frames.txt", 4, 3)


@pytest.mark.parametrize("content", ["0\n1\nx\n", "0.5 1 2", ""])
def test_labels_that_are_no_numbers(tmp_path, content):
    (tmp_path / "frames.txt").write_text(content)
    with pytest.raises(ValueError, match=r"frames\.txt"):
        read_labels(tmp_path / "frames.txt", 3, 3)


def test_labels_as_text_and_as_array(tmp_path):
    labels = np.array([2, 0, 1, 2])
    np.savetxt(tmp_path / "frames.txt", labels, fmt="%d")
    np.save(tmp_path / "frames.npy", labels.astype(np.int32))
    for name in ("frames.txt", "frames.npy"):
        np.testing.assert_array_equal(read_labels(tmp_path / name, 4, 3), labels)
    np.save(tmp_path / "half.npy", labels + 0.5)
    with pytest.raises(ValueError, match="half"):
        read_labels(tmp_path / "half.npy", 4, 3)
    with pytest.raises(FileNotFoundError, match="absent"):
        read_labels(tmp_path / "absent.txt", 4, 3)


def write_dcd(path: Path, frames: np.ndarray) -> Path:
    with DcdWriter(path, frames.shape[1]) as writer:
        writer.write(frames)
    return path


def test_a_trajectory_without_names_is_taken_as_calphas_where_the_number_fits(tmp_path):
    frames = trajectory()
    path = write_dcd(tmp_path / "truth.dcd", frames)
    truth = read_ground_truth(path, None, protein(frames[0]))
    np.testing.assert_allclose(truth.positions, frames, atol=1e-5)
    assert truth.notes == ()
    with pytest.raises(ValueError, match="30 atoms a frame and no names, the template 29 residues.*--gt-top"):
        read_ground_truth(path, None, protein(frames[0, 1:]))


def test_more_residues_are_matched_by_number(tmp_path):
    frames = trajectory()
    path = write_dcd(tmp_path / "truth.dcd", frames)
    write_atoms(tmp_path / "truth.cif", calphas(frames[0]))
    kept = np.r_[3:12, 20:28]
    template = template_from_atoms(calphas(frames[0])[kept], "part")[0]
    truth = read_ground_truth(path, tmp_path / "truth.cif", template)
    np.testing.assert_allclose(truth.positions, frames[:, kept], atol=1e-5)
    assert truth.notes == ("17 of the ground truth's 30 residues are matched: A:4-12, A:21-28",)
    other_chain = template_from_atoms(calphas(frames[0], chain="X")[kept], "part")[0]
    np.testing.assert_array_equal(
        read_ground_truth(path, tmp_path / "truth.cif", other_chain).positions, truth.positions
    )


def test_all_atoms_of_a_topology_are_narrowed_to_calphas(tmp_path):
    frames = trajectory()
    atoms = calphas(np.repeat(frames[0], 2, axis=0))
    numbers = np.repeat(np.arange(1, RESIDUES + 1), 2)
    atoms = replace(atoms, names=np.tile(["CA", "CB"], RESIDUES), residue_numbers=numbers)
    write_atoms(tmp_path / "truth.cif", atoms)
    both = np.repeat(frames, 2, axis=1)
    both[:, 1::2] += 1.5
    path = write_dcd(tmp_path / "truth.dcd", both)
    truth = read_ground_truth(path, tmp_path / "truth.cif", protein(frames[0]))
    np.testing.assert_allclose(truth.positions, frames, atol=1e-5)


def matched(truth: Template, template: Template) -> tuple[np.ndarray, tuple[str, ...]]:
    return match_truth(truth, template, "truth.dcd")


def test_residues_that_do_not_match():
    (positions,) = trajectory(frames=1)
    with pytest.raises(ValueError, match="template has 30 residues, the ground truth truth.dcd only 25"):
        matched(protein(positions[:25]), protein(positions))
    with pytest.raises(ValueError, match="20 residues.* 30, and 6 of .* first is A:31"):
        matched(protein(positions), protein(positions[:20], first=17))
    dimer = calphas(positions)
    dimer = replace(dimer, chain_ids=np.repeat(["A", "B"], 15), residue_numbers=np.tile(np.arange(1, 16), 2))
    truth = template_from_atoms(dimer, "dimer")[0]
    with pytest.raises(ValueError, match="chains X, .*chains A, B, .*not unique"):
        matched(truth, protein(positions[:15], chain="X"))
    np.testing.assert_array_equal(matched(truth, protein(positions[:15], chain="B"))[0], np.arange(15, 30))


def test_other_residue_names_are_noted():
    (positions,) = trajectory(frames=1)
    _, notes = matched(protein(positions, names="GLY", first=5), protein(positions))
    assert notes == (
        "neither numbers nor names match: the residues of the ground truth are taken in order",
        "30 of 30 residues have another name in the ground truth, the first is ALA 1 in the template and GLY 5 in the "
        "ground truth",
    )


SEQUENCE = np.array(["ALA", "GLY", "LEU", "SER", "TRP", "LYS", "GLU", "VAL", "THR", "PHE"])


def of_sequence(positions: np.ndarray, names: np.ndarray, **changes) -> Template:
    return template_from_atoms(replace(calphas(positions, **changes), residue_names=names), "made in the test")[0]


def test_equally_many_residues_are_matched_by_number_and_sequence_not_by_order():
    (positions,) = trajectory(frames=1)
    names = SEQUENCE[np.random.default_rng(0).integers(10, size=30)]
    template = of_sequence(positions[:29], names[:29])
    renumbered = of_sequence(positions[:29], names[:29], first=2)
    index, notes = matched(renumbered, template)
    np.testing.assert_array_equal(index, np.arange(29))
    assert notes == ()
    with pytest.raises(ValueError, match="29 residues, .* 29, and 1 of .* first is A:1: choose"):
        matched(of_sequence(positions[1:], names[1:], first=2), template)
    part = of_sequence(positions[2:12], names[2:12], first=103)  # numbered otherwise than the larger truth
    index, notes = matched(of_sequence(positions, names), part)
    np.testing.assert_array_equal(index, np.arange(2, 12))
    assert notes == ("10 of the ground truth's 30 residues are matched: A:3-12",)


@pytest.mark.parametrize("first", [1, 5])
def test_mutated_residues_are_matched_by_their_neighbours(first):
    (positions,) = trajectory(frames=1)
    names = SEQUENCE[np.random.default_rng(0).integers(10, size=30)]
    mutated = names.copy()
    mutated[[0, 13]] = "MET"
    index, notes = matched(of_sequence(positions, mutated, first=first), of_sequence(positions, names))
    np.testing.assert_array_equal(index, np.arange(30))
    assert len(notes) == 1 and notes[0].startswith("2 of 30 residues have another name")


def test_numbers_decide_where_no_names_match():
    (positions,) = trajectory(frames=1)
    index, notes = matched(protein(positions, names="GLY"), protein(positions[4:20], first=5))
    np.testing.assert_array_equal(index, np.arange(4, 20))
    assert notes[0].startswith("16 of 16 residues have another name")


def test_models_of_a_structure_file_are_a_ground_truth(tmp_path):
    frames = trajectory(frames=3)
    structure = gemmi.Structure()
    for number, positions in enumerate(frames, 1):
        model = gemmi.Model(number)
        chain = gemmi.Chain("A")
        for index, position in enumerate(positions.tolist(), 1):
            residue = gemmi.Residue()
            residue.name, residue.seqid = "ALA", gemmi.SeqId(str(index))
            atom = gemmi.Atom()
            atom.name, atom.element, atom.pos = "CA", gemmi.Element("C"), gemmi.Position(*position)
            residue.add_atom(atom)
            chain.add_residue(residue)
        model.add_chain(chain)
        structure.add_model(model)
    structure.write_pdb(str(tmp_path / "truth.pdb"))
    truth = read_ground_truth(tmp_path / "truth.pdb", None, protein(frames[0]))
    np.testing.assert_allclose(truth.positions, frames, atol=1e-3)


def test_shapes_that_do_not_fit():
    predictions, truth, labels = case()
    with pytest.raises(ValueError, match="conformations have 30 residues, the template 30, the truth 29"):
        evaluate(predictions, replace(truth, positions=truth.positions[:, 1:]), labels=labels)
    with pytest.raises(ValueError, match="59 labels, the run 60 images"):
        evaluate(predictions, truth, labels=labels[1:])


@pytest.fixture
def run_folder(tmp_path) -> Path:
    """A finished run, with the truth beside it."""
    predictions, truth, labels = case()
    folder = tmp_path / "run"
    folder.mkdir()
    np.save(folder / "conformations.npy", predictions.conformations)
    np.save(folder / "z.npy", predictions.latents.astype(np.float32))
    write_template(folder / "template.cif", predictions.template)
    write_dcd(tmp_path / "truth.dcd", truth.positions)
    np.savetxt(tmp_path / "frames.txt", labels, fmt="%d")
    return folder


def run(*arguments: object) -> Result:
    return CliRunner().invoke(eval_command, [*map(str, arguments), "--threads", "1"])


def test_eval_of_a_run_folder(run_folder):
    truth = run_folder.parent / "truth.dcd"
    result = run(run_folder, "--gt", truth, "--labels", run_folder.parent / "frames.txt")
    assert result.exit_code == 0, result.output
    assert "RMSD, mean" in result.output and "best static" in result.output
    summary = json.loads((run_folder / "eval" / "summary.json").read_text())
    assert summary["latent_rank_correlation"] == pytest.approx(1)
    expected = evaluated().summary()
    for key in ("rmsd_mean", "emd_rmsd", "rmsd_static_mean"):
        assert summary[key] == pytest.approx(expected[key], abs=1e-3)


def test_eval_of_single_files_and_without_labels(run_folder):
    outdir = run_folder.parent / "elsewhere"
    arguments = ["--predictions", run_folder / "conformations.npy", "--template", run_folder / "template.cif"]
    result = run(*arguments, "--gt", run_folder.parent / "truth.dcd", "-o", outdir, "--emd-samples", 20)
    assert result.exit_code == 0, result.output
    assert "Note: no labels" in result.output and "RMSD, mean" not in result.output
    summary = json.loads((outdir / "summary.json").read_text())
    assert summary["rmsd_mean"] is None and summary["emd_samples"] == 20


def test_eval_without_enough_or_with_too_many_inputs(run_folder):
    truth = ["--gt", run_folder.parent / "truth.dcd"]
    assert "say where to write" in str(run(*truth).exception)
    assert "give a run folder, or" in str(run(*truth, "-o", run_folder / "eval").exception)
    assert "drop --predictions" in str(run(run_folder, *truth, "--template", "x.cif").exception)
    assert "no run folder" in str(run(run_folder / "absent", *truth).exception)
    (run_folder / "conformations.npy").unlink()
    assert "has the training ended" in str(run(run_folder, *truth).exception)
    assert not (run_folder / "eval").exists()


def test_files_of_a_run_that_do_not_fit(run_folder):
    np.save(run_folder / "z.npy", np.zeros((59, 8)))
    with pytest.raises(ValueError, match=r"z\.npy has shape \(59, 8\), expected one row for each of 60"):
        read_predictions(run_folder)
    np.save(run_folder / "conformations.npy", np.zeros((60, 29, 3)))
    with pytest.raises(ValueError, match="29 residues, the template .* 30"):
        read_predictions(run_folder)
    np.save(run_folder / "conformations.npy", np.zeros((60, 90)))
    with pytest.raises(ValueError, match=r"\(images, residues, 3\), found float64 of shape \(60, 90\)"):
        read_predictions(run_folder)
    (run_folder / "conformations.npy").write_bytes(b"not an array")
    with pytest.raises(ValueError, match="not a readable .npy"):
        read_predictions(run_folder)


def test_conformations_stay_on_disk(run_folder):
    assert isinstance(read_predictions(run_folder).conformations, np.memmap)
