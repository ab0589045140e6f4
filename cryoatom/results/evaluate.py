"""Conformations against a known truth: per image, per frame, per residue, and as distributions."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cryoatom.particles.rows import spaced_rows
from cryoatom.results.deviations import Deviations, measure_deviations, static_deviations
from cryoatom.results.evaluate_config import EvaluateConfig
from cryoatom.results.evaluation import EvaluationResult, FrameErrors, HandErrors, ImageErrors, ResidueErrors
from cryoatom.results.ground_truth import GroundTruth, check_labels, read_ground_truth, read_labels
from cryoatom.results.metrics import Pairing, emd_rmsd, principal_axis, rank_correlation, rmsd_matrix
from cryoatom.results.mirror import compare_hands
from cryoatom.results.poses import PosePairs, pose_errors, read_pose_pairs
from cryoatom.results.predictions import Predictions, read_predictions
from cryoatom.results.transport import ASSIGNMENT_IMAGES, apportion
from cryoatom.structure.alpha_geometry import chain_geometry
from cryoatom.structure.superpose import procrustes_mean, rmsd, superpose

FULL_EMD_PAIRS = 50_000_000
FULL_EMD_FRAMES = 500
PCA_IMAGES = 1000
GEOMETRY_IMAGES = 2000
OTHER_REFERENCE = 5.0
FEW_IMAGES = 10


def evaluate_files(config: EvaluateConfig) -> EvaluationResult:
    """Evaluate a run folder, or a file of conformations with its template.

    Raises
    ------
    FileNotFoundError, ValueError
        When a file is missing or cannot be read, or two of them do not fit; names both numbers.
    """
    if config.gt_poses is not None and (config.labels is None or config.run is None):
        raise ValueError(
            "--gt-poses needs a run folder, whose poses.star is compared, and --labels, as every conformation is "
            "superposed on its true one"
        )
    predictions = read_predictions(config.run, conformations=config.predictions, template=config.template)
    truth = read_ground_truth(config.gt, config.gt_top, predictions.template)
    labels = None if config.labels is None else read_labels(config.labels, len(predictions), len(truth))
    poses = None
    if config.run is not None and config.gt_poses is not None:
        poses = read_pose_pairs(config.run, config.gt_poses, len(predictions), datadir=config.datadir)
    return evaluate(
        predictions,
        truth,
        labels=labels,
        poses=poses,
        emd_samples=config.emd_samples,
        emd_draws=config.emd_draws,
        seed=config.seed,
    )


def evaluate(
    predictions: Predictions,
    truth: GroundTruth,
    *,
    labels: np.ndarray | None = None,
    poses: PosePairs | None = None,
    emd_samples: int = 2000,
    emd_draws: int = 5,
    seed: int = 0,
) -> EvaluationResult:
    """Compare one conformation per image with the true conformations.

    Memory is flat in the number of images, but for 8 bytes per image and frame up to 50,000,000 such pairs; beyond
    these the EMD-RMSD is sampled only.

    Parameters
    ----------
    predictions : Predictions
    truth : GroundTruth
        Of the residues of the predictions' template.
    labels : (images,) int64, optional
        The true frame of each image. Without them only EMD-RMSD and nearest frames are defined, and all frames are
        taken to be equally frequent.
    poses : PosePairs, optional
        The poses found and the true ones; needs labels.
    emd_samples, emd_draws, seed : int
        For the sampled EMD-RMSD: images in each draw (without replacement), number of draws, and their seed.

    Raises
    ------
    ValueError
        When the residues do not fit, labels are no frames, poses lack labels or are not one per image, or a
        conformation is not finite.
    """
    _check_residues(predictions, truth)
    _check_poses(predictions, labels, poses)
    frames = torch.from_numpy(truth.positions).double()
    if labels is None:
        counts = apportion(len(predictions), np.ones(len(frames)))
    else:
        check_labels(labels, len(predictions), len(frames), "the label array")
        counts = np.bincount(labels, minlength=len(frames))
    nearest, nearest_rmsd, matrix = _nearest(predictions, frames)
    pairing = _pair_all(matrix, counts)
    deviations = None if labels is None else measure_deviations(predictions, frames, labels)
    angles, shifts = (None, None)
    if poses is not None and labels is not None:
        angles, shifts = pose_errors(predictions, frames, labels, poses)
    hand = compare_hands(predictions, frames, labels, poses, seed=seed)
    template, static = _baselines(predictions, frames, counts)
    images = ImageErrors(
        frame=labels,
        rmsd=None if deviations is None else deviations.rmsd,
        rmsd_unaligned=None if deviations is None else deviations.rmsd_unaligned,
        rmsd_template=None if labels is None else template[0][labels],
        nearest_frame=nearest,
        rmsd_nearest=nearest_rmsd,
        paired_frame=None if pairing is None else pairing.frames,
        rmsd_paired=None if pairing is None else pairing.rmsds,
        pose_error_deg=angles,
        shift_error=shifts,
    )
    by_frame = FrameErrors(
        images=counts,
        rmsd_template=template[0],
        rmsd_static=static[0],
        rmsd=None if deviations is None else deviations.frame_rmsd,
        bias=None if deviations is None else deviations.frame_bias,
        scatter=None if deviations is None else deviations.frame_scatter,
    )
    return EvaluationResult(
        images=images,
        frames=by_frame,
        residues=_residue_errors(predictions, template[1], static[1], deviations),
        hand=hand,
        geometry=_measure_geometry(predictions, truth),
        emd_draws=_draw_emds(predictions, frames, matrix, labels, samples=emd_samples, draws=emd_draws, seed=seed),
        emd_samples=min(emd_samples, len(predictions)),
        latent_rank_correlation=_latent_rank_correlation(predictions, labels),
        coordinate_rank_correlation=_coordinate_rank_correlation(predictions, labels, seed),
        notes=(
            *truth.notes,
            *(() if poses is None else poses.notes),
            *_hand_notes(hand),
            *_notes(predictions, frames, images, by_frame),
        ),
    )


def _check_residues(predictions: Predictions, truth: GroundTruth) -> None:
    sizes = (predictions.conformations.shape[1], len(predictions.template), truth.positions.shape[1])
    if len(set(sizes)) > 1:
        raise ValueError(f"the conformations have {sizes[0]} residues, the template {sizes[1]}, the truth {sizes[2]}")


def _check_poses(predictions: Predictions, labels: np.ndarray | None, poses: PosePairs | None) -> None:
    if poses is not None and labels is None:
        raise ValueError("the pose errors need labels: every conformation is superposed on its true one")
    if poses is not None and len(poses) != len(predictions):
        raise ValueError(f"there are {len(poses)} poses and {len(predictions)} conformations")


def _nearest(
    predictions: Predictions, frames: Float[Tensor, "frames residues 3"]
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Return the nearest frame of each image, its RMSD, and unless they are too many all RMSDs (images, frames)."""
    images = len(predictions)
    nearest, nearest_rmsd = np.empty(images, dtype=np.int64), np.empty(images)
    matrix = np.empty((images, len(frames))) if images * len(frames) <= FULL_EMD_PAIRS else None
    for rows, block in predictions.chunks():
        rmsds = rmsd_matrix(block, frames).numpy()
        nearest[rows] = rmsds.argmin(axis=1)
        nearest_rmsd[rows] = rmsds.min(axis=1)
        if matrix is not None:
            matrix[rows] = rmsds
    return nearest, nearest_rmsd, matrix


def _pair_all(matrix: np.ndarray | None, counts: np.ndarray) -> Pairing | None:
    """Pair all images with all frames, or return None where that takes too much memory or time."""
    if matrix is None or (len(counts) > FULL_EMD_FRAMES and len(matrix) > ASSIGNMENT_IMAGES):
        return None
    return emd_rmsd(matrix, counts)


def _draw_emds(
    predictions: Predictions,
    frames: Float[Tensor, "frames residues 3"],
    matrix: np.ndarray | None,
    labels: np.ndarray | None,
    *,
    samples: int,
    draws: int,
    seed: int,
) -> np.ndarray:
    """Return the EMD-RMSD of each draw; of the frames as often as the drawn images show them, else equally often.

    A draw of all images would be the same each time: there is one.
    """
    generator = np.random.default_rng(seed)
    samples, draws = (samples, draws) if samples < len(predictions) else (len(predictions), 1)
    values = []
    for _ in range(draws):
        rows = np.sort(generator.choice(len(predictions), samples, replace=False))
        rmsds = rmsd_matrix(predictions.take(rows), frames).numpy() if matrix is None else matrix[rows]
        equal = np.ones(len(frames))
        counts = apportion(samples, equal) if labels is None else np.bincount(labels[rows], minlength=len(frames))
        values.append(emd_rmsd(rmsds, counts).emd_rmsd)
    return np.array(values)


def _baselines(
    predictions: Predictions, frames: Float[Tensor, "frames residues 3"], counts: np.ndarray
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Return (RMSD of each frame, deviation of each residue) of the template and of the best static structure."""
    weights = torch.from_numpy(counts).double()
    template = torch.from_numpy(predictions.template.positions).double()
    static = procrustes_mean(frames, weights)
    return static_deviations(template, frames, weights), static_deviations(static, frames, weights)


def _residue_errors(
    predictions: Predictions, template: np.ndarray, static: np.ndarray, deviations: Deviations | None
) -> ResidueErrors:
    residues = predictions.template
    return ResidueErrors(
        chain=residues.chain_ids,
        number=residues.residue_numbers,
        insertion_code=residues.insertion_codes,
        name=residues.residue_names,
        template=template,
        static=static,
        deviation=None if deviations is None else deviations.residue_deviation,
        bias=None if deviations is None else deviations.residue_bias,
        scatter=None if deviations is None else deviations.residue_scatter,
    )


def _latent_rank_correlation(predictions: Predictions, labels: np.ndarray | None) -> float | None:
    """Compare the order of the frames with that along the latents' first principal component."""
    if predictions.latents is None or labels is None:
        return None
    latents = torch.from_numpy(np.array(predictions.latents, dtype=np.float64))
    mean, axis = principal_axis(latents)
    return _size(rank_correlation(((latents - mean) @ axis).numpy(), labels))


def _coordinate_rank_correlation(predictions: Predictions, labels: np.ndarray | None, seed: int) -> float | None:
    """Compare the order of the frames with that along the superposed coordinates' first principal component."""
    if labels is None:
        return None
    template = torch.from_numpy(predictions.template.positions).double()
    some = np.random.default_rng(seed).permutation(len(predictions))[:PCA_IMAGES]
    mean, axis = principal_axis(superpose(predictions.take(some), template).flatten(1))
    scores = np.empty(len(predictions))
    for rows, block in predictions.chunks():
        scores[rows] = ((superpose(block, template).flatten(1) - mean) @ axis).numpy()
    return _size(rank_correlation(scores, labels))


def _measure_geometry(predictions: Predictions, truth: GroundTruth) -> dict[str, dict[str, float]]:
    """Measure the C-alpha chains of predictions, template and truth; of the first and last at most 2000."""
    template = predictions.template
    chains = {
        "prediction": predictions.conformations,
        "template": template.positions[None],
        "truth": truth.positions,
    }
    found = {}
    for name, structures in chains.items():
        rows = spaced_rows(len(structures), GEOMETRY_IMAGES)
        found[name] = chain_geometry(structures, template.positions, template.chain_position, rows=rows).means()
    return found


def _size(correlation: float | None) -> float | None:
    return None if correlation is None else abs(correlation)  # the sign of a principal component means nothing


def _notes(
    predictions: Predictions, frames: Float[Tensor, "frames residues 3"], images: ImageErrors, by_frame: FrameErrors
) -> list[str]:
    """Say what a reader of the figures must know."""
    notes = []
    if images.frame is None:
        notes.append(
            "no labels: which frame an image shows is not known, so there is no RMSD per image; EMD-RMSD takes all "
            "frames as equally frequent"
        )
    if images.paired_frame is None:
        notes.append(
            f"EMD-RMSD is sampled only: {len(predictions):,} images and {len(frames):,} frames are more than "
            f"{FULL_EMD_PAIRS:,} pairs, or more than {FULL_EMD_FRAMES} frames for more than {ASSIGNMENT_IMAGES:,} "
            "images"
        )
    if images.frame is not None:
        occupied = by_frame.images[by_frame.images > 0]
        if len(occupied) < len(frames):
            notes.append(f"{len(frames) - len(occupied)} of {len(frames)} frames have no image")
        if np.median(occupied) < FEW_IMAGES:
            notes.append(
                f"a frame has {np.median(occupied):g} images (median): of n images, the bias contains 1/n of the "
                "scatter's square"
            )
        template = torch.from_numpy(predictions.template.positions).double()
        as_is = float(rmsd(template, frames, align=False).mean())
        superposed = float(by_frame.rmsd_template.mean())
        if as_is > superposed + OTHER_REFERENCE:
            notes.append(
                "the ground truth is in another frame of reference than the template (mean RMSD of the template "
                f"{as_is:.1f} Å, superposed {superposed:.1f} Å): the figures without alignment mean nothing"
            )
    return notes


def _hand_notes(hand: HandErrors) -> list[str]:
    """Say that a reconstruction is mirrored: its figures against the truth then mean little."""
    if hand.hand != "mirrored":
        return []
    angle = hand.pose_error_deg_mirrored
    poses = "" if angle is None else f", and its poses are {angle:.1f}° (median) from those of the mirrored truth"
    return [
        f"the conformations are mirrored: {hand.rmsd_mirrored:.2f} Å from the mirror image of the truth, "
        f"{hand.rmsd:.2f} Å from the truth{poses}; images alone cannot tell, all other figures are against the truth"
    ]
