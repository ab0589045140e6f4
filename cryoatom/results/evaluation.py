"""The result of an evaluation: errors per image, frame and residue, and their summary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from cryoatom.structure.hand import Hand

WITHIN_DEG = 15.0
SAME_HAND = 0.95
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True)
class ImageErrors:
    """One array entry per image; None where labels are needed and absent. RMSDs in Å.

    Parameters
    ----------
    frame : (images,) int64 or None
        The true frame, zero-based.
    rmsd, rmsd_unaligned : (images,) float64 or None
        To the true frame: minimum over rigid motions, and as the files have it.
    rmsd_template : (images,) float64 or None
        The template's to the same frame.
    nearest_frame, rmsd_nearest : (images,)
        The most similar frame.
    paired_frame, rmsd_paired : (images,) or None
        The optimal pairing of all images with all frames; None where it was skipped.
    pose_error_deg, shift_error : (images,) float64 or None
        Of the pose, after the prediction was superposed on the true frame: angle of the rotation, and distance in the
        image; None without true poses.
    """

    frame: np.ndarray | None
    rmsd: np.ndarray | None
    rmsd_unaligned: np.ndarray | None
    rmsd_template: np.ndarray | None
    nearest_frame: np.ndarray
    rmsd_nearest: np.ndarray
    paired_frame: np.ndarray | None
    rmsd_paired: np.ndarray | None
    pose_error_deg: np.ndarray | None = None
    shift_error: np.ndarray | None = None


@dataclass(frozen=True)
class FrameErrors:
    """One array entry per frame of the ground truth; NaN for frames without images. RMSDs in Å.

    Parameters
    ----------
    images : (frames,) int64
        How many images show the frame: known from labels, else assumed to be equal.
    rmsd_template, rmsd_static : (frames,) float64
        Of the template and of the best static structure.
    rmsd, bias, scatter : (frames,) float64 or None
        Of the frame's predictions, each superposed on the frame: their mean RMSD, the RMSD of their mean, and their
        root mean square distance from their mean. Bias² + scatter² is the mean of RMSD². Of n predictions, the bias
        contains 1/n of the scatter's square.
    """

    images: np.ndarray
    rmsd_template: np.ndarray
    rmsd_static: np.ndarray
    rmsd: np.ndarray | None
    bias: np.ndarray | None
    scatter: np.ndarray | None


@dataclass(frozen=True)
class ResidueErrors:
    """One array entry per residue: root mean squares over all images after superposition on the true frame, Å.

    Parameters
    ----------
    chain, number, insertion_code, name : (residues,)
        As in the template.
    template, static : (residues,) float64
        Deviation of the template and of the best static structure.
    deviation, bias, scatter : (residues,) float64 or None
        Of the predictions; deviation² = bias² + scatter², the bias that of each frame's mean prediction.
    """

    chain: np.ndarray
    number: np.ndarray
    insertion_code: np.ndarray
    name: np.ndarray
    template: np.ndarray
    static: np.ndarray
    deviation: np.ndarray | None
    bias: np.ndarray | None
    scatter: np.ndarray | None


@dataclass(frozen=True)
class HandErrors:
    """Some predictions against the truth and against its mirror image.

    Parameters
    ----------
    images : int
        How many predictions were compared.
    rmsd, rmsd_mirrored : float
        Mean RMSD to the true frames and to their mirror images, minimum over proper rigid motions, Å.
    pose_error_deg_mirrored : float or None
        Median pose error against the mirrored truth in its mirrored poses; None without true poses.
    helices : Hand
        Of the predictions alone.
    """

    images: int
    rmsd: float
    rmsd_mirrored: float
    pose_error_deg_mirrored: float | None
    helices: Hand

    @property
    def hand(self) -> Literal["right", "mirrored", "unknown"]:
        """Which is nearer; unknown where the RMSDs differ by less than 5%."""
        if min(self.rmsd, self.rmsd_mirrored) > SAME_HAND * max(self.rmsd, self.rmsd_mirrored):
            return "unknown"
        return "right" if self.rmsd < self.rmsd_mirrored else "mirrored"


@dataclass(frozen=True)
class EvaluationResult:
    """What `cryoatom eval` finds.

    Parameters
    ----------
    images, frames, residues : ImageErrors, FrameErrors, ResidueErrors
    hand : HandErrors
    geometry : dict of str to dict of str to float
        Of the C-alpha chains of 'prediction', 'template' and 'truth', the means of
        :class:`~cryoatom.structure.alpha_geometry.Geometry`: what real structures have is the measure.
    emd_draws : (draws,) float64
        EMD-RMSD of random draws of images, Å.
    emd_samples : int
        Images in a draw.
    latent_rank_correlation, coordinate_rank_correlation : float or None
        Size of Spearman's rank correlation of the true frame's index with the first principal component of the latents
        and of the superposed coordinates. A perfect order gives slightly less than 1, as images of a frame are tied:
        with m equal frames sqrt(1 - 1/m²).
    notes : tuple of str
        What a reader of the figures must know.
    """

    images: ImageErrors
    frames: FrameErrors
    residues: ResidueErrors
    hand: HandErrors
    geometry: dict[str, dict[str, float]]
    emd_draws: np.ndarray
    emd_samples: int
    latent_rank_correlation: float | None
    coordinate_rank_correlation: float | None
    notes: tuple[str, ...]

    @property
    def emd_rmsd(self) -> float:
        """EMD-RMSD of all images, or where that was skipped the mean of the draws; Å."""
        paired = self.images.rmsd_paired
        return float(self.emd_draws.mean() if paired is None else paired.mean())

    @property
    def geometry_rows(self) -> dict[str, tuple[str, str, str, str]]:
        """Names in the summary of some figures of the C-alpha chains: prediction, none, template, truth."""
        shown = {
            "clashes": "clashes per 100 residues",
            "bond_outliers": "unlikely bonds, %",
            "angle_outliers": "unlikely angles, %",
        }
        return {text: (f"{name}_prediction", "", f"{name}_template", f"{name}_truth") for name, text in shown.items()}

    def summary(self) -> dict[str, Any]:
        """Return the figures of summary.json; None where labels or true poses are needed and absent."""
        images, frames = self.images, self.frames
        template, static = (_weighted(column, frames.images) for column in (frames.rmsd_template, frames.rmsd_static))
        is_labelled, angle = images.frame is not None, images.pose_error_deg
        return {
            "n_images": len(images.nearest_frame),
            "n_frames": len(frames.images),
            "n_residues": len(self.residues.number),
            "rmsd_mean": _mean(images.rmsd),
            "rmsd_median": _median(images.rmsd),
            "rmsd_std": None if images.rmsd is None else float(images.rmsd.std()),
            "rmsd_quantiles": _quantiles(images.rmsd),
            "rmsd_unaligned_mean": _mean(images.rmsd_unaligned),
            "rmsd_unaligned_median": _median(images.rmsd_unaligned),
            "rmsd_nearest_mean": _mean(images.rmsd_nearest),
            "rmsd_nearest_quantiles": _quantiles(images.rmsd_nearest),
            "emd_rmsd": self.emd_rmsd,
            "emd_rmsd_full": _mean(images.rmsd_paired),
            "emd_rmsd_sampled_mean": float(self.emd_draws.mean()),
            "emd_rmsd_sampled_std": float(self.emd_draws.std(ddof=1)) if len(self.emd_draws) > 1 else None,
            "emd_samples": self.emd_samples,
            "emd_draws": len(self.emd_draws),
            "emd_rmsd_template": template,
            "emd_rmsd_static": static,
            "rmsd_template_mean": template if is_labelled else None,
            "rmsd_static_mean": static if is_labelled else None,
            "bias_mean": _weighted(frames.bias, frames.images),
            "scatter_mean": _weighted(frames.scatter, frames.images),
            "bias_rms": _root_mean_square(self.residues.bias),
            "scatter_rms": _root_mean_square(self.residues.scatter),
            "latent_rank_correlation": self.latent_rank_correlation,
            "coordinate_rank_correlation": self.coordinate_rank_correlation,
            "pose_error_deg_median": _median(images.pose_error_deg),
            "pose_error_deg_mean": _mean(images.pose_error_deg),
            f"pose_share_within_{WITHIN_DEG:g}_deg": None if angle is None else float((angle <= WITHIN_DEG).mean()),
            "shift_error_median": _median(images.shift_error),
            "hand": self.hand.hand,
            "hand_images": self.hand.images,
            "hand_rmsd": self.hand.rmsd,
            "hand_rmsd_mirrored": self.hand.rmsd_mirrored,
            "hand_pose_error_deg_median_mirrored": self.hand.pose_error_deg_mirrored,
            "helix_hand": self.hand.helices.hand,
            "helix_turns_right": self.hand.helices.right,
            "helix_turns_mirrored": self.hand.helices.wrong,
            **{f"{name}_{of}": value for of, figures in self.geometry.items() for name, value in figures.items()},
            "notes": list(self.notes),
        }


def _mean(values: np.ndarray | None) -> float | None:
    return None if values is None else float(values.mean())


def _median(values: np.ndarray | None) -> float | None:
    return None if values is None else float(np.median(values))


def _root_mean_square(values: np.ndarray | None) -> float | None:
    return None if values is None else float(np.sqrt((values**2).mean()))


def _quantiles(values: np.ndarray | None) -> dict[str, float] | None:
    if values is None:
        return None
    return {f"{q:g}": value for q, value in zip(QUANTILES, np.quantile(values, QUANTILES).tolist(), strict=True)}


def _weighted(values: np.ndarray | None, counts: np.ndarray) -> float | None:
    """Average over the images of all frames that have some."""
    if values is None:
        return None
    has_images = counts > 0
    return float((values[has_images] * counts[has_images]).sum() / counts.sum())
