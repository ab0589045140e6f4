"""How well an image tells its conformation: the posterior of its latent, pushed on to residues.

Near its optimum the likelihood (M) of an image is a Gaussian of the latent z with the precision of Gauss and Newton,

    F = Jᵀ κ J,    J = ∂v/∂z    (v the projection, κ the kernel of the matched form; F is the Fisher information),

and the prior a Gaussian of the latents' own covariance Σ (empirical Bayes), or the mixture that has brought them to
their posterior means (:mod:`cryoatom.training.denoise`). With probability p the image fits
and its latent is known to (F + Σ⁻¹)⁻¹; otherwise it may be that of any image of the ensemble, whose mean is μ. About
the latent z that the image has,

    C = p (F + Σ⁻¹)⁻¹ + (1 - p) (Σ + (z - μ)(z - μ)ᵀ).

Poses that were estimated, and the scale of each image where it was profiled, are marginalised: F is then the Schur
complement of the joint precision, and that of a profiled image is taken at its own scale. The columns l of a square
root of C are steps of one standard deviation. They are pushed through the decoder as they are, x(z + l) - x(z), not by
a derivative, which says nothing of steps so large; their rigid motions are taken out, and the sum of their squares is
the variance of a residue.

This is what the image's own noise leaves open. What all images have in common, errors of template, beads, decoder and
regularisers, is no part of it (docs/benchmarks.md has both beside the truth).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cryoatom.files.npy import npy_writer
from cryoatom.run_folder import RunFolder
from cryoatom.train_config import TrainConfig
from cryoatom.training.expected import expected_plan
from cryoatom.training.latent_mixture import Denoised, LatentPrior, latent_prior
from cryoatom.training.objective import Batch
from cryoatom.training.trainer import Trainer

_STEP = 0.02  # of a finite difference, in standard deviations of the latents
_TANGENT = 0.005  # of a finite difference of poses, radians
_POSE_PRIOR = 4.0  # radians: nothing is known of a pose beforehand
_TELLS_NOTHING = 0.9  # of the ensemble's deviation is left


@dataclass(frozen=True)
class ImageUncertainty:
    """How well the conformation of each image is known.

    Parameters
    ----------
    sd : (images,) float64
        Root mean square over residues of their standard deviations, Å.
    left : (images,) float64
        Part of the latent's standard deviation in the ensemble that the image leaves, √(tr(C Σ⁻¹) / latent dimension).
    information : (images,) float64
        What the image tells of its latent, ½ ln(det Σ / det C), nats.
    angle_deg, shift : (images,) float64 or None
        Standard deviations of estimated poses: of the rotation (root of the summed variance about the three axes) and
        of the shift in the image plane, Å.
    """

    sd: np.ndarray
    left: np.ndarray
    information: np.ndarray
    angle_deg: np.ndarray | None = None
    shift: np.ndarray | None = None

    @property
    def is_uninformative(self) -> np.ndarray:
        """(images,) bool: whether the image narrows its latent down by less than a tenth."""
        return self.left > _TELLS_NOTHING


@dataclass(frozen=True)
class Posterior:
    """Of some images; see :class:`ImageUncertainty`.

    Parameters
    ----------
    residue_sd : (batch, residues)
        Å.
    covariance : (batch, latent, latent)
        C.
    left, information : (batch,)
    pose_covariance : (batch, 5, 5) or None
        Of the tangents (rotation vector, shift / reach).
    """

    residue_sd: Tensor
    covariance: Tensor
    left: Tensor
    information: Tensor
    pose_covariance: Tensor | None


def is_uncertainty_measured(config: TrainConfig) -> bool:
    """Return whether a run measures it: not of one conformation for all, nor where poses are expectations."""
    return config.uncertainty and not config.homogeneous and expected_plan(config) is None


def are_poses_uncertain(config: TrainConfig) -> bool:
    """Return whether a run estimates or moves poses."""
    return config.poses == "esl" or bool(config.pose_lr)


def measure_uncertainty(
    trainer: Trainer,
    folder: RunFolder,
    fits: np.ndarray,
    *,
    marginal_poses: bool,
    known: Denoised | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> ImageUncertainty:
    """Write the residues' standard deviations, uncertainty.npy, and return figures of each image.

    Parameters
    ----------
    trainer
        A fit at its end.
    folder
        uncertainty.npy is float16 (images, residues), Å; z_covariance.npy is float32 (images, latent, latent).
    fits
        (images,) probability that an image shows the particle in its pose; 0 for images that could not be used.
    marginal_poses
        Whether poses are uncertain too.
    known
        Σ, and C of each image, where :mod:`cryoatom.training.denoise` has found them.
    progress
        Called with the count of images done.
    """
    count = len(trainer.data)
    everything = torch.arange(count)
    probability = torch.from_numpy(np.asarray(fits, dtype=np.float64))
    if known is None:
        prior = latent_prior(trainer.latents.read(everything), probability.clamp_min(1e-9))
    else:
        prior = known.ensemble
    columns: list[list[Tensor]] = [[] for _ in range(4)]
    starts = range(0, count, trainer.chunk)
    done, latent = 0, len(prior.mean)
    with (
        npy_writer(folder.uncertainty, (count, len(trainer.model.template_positions)), np.float16) as write,
        npy_writer(folder.latent_covariance, (count, latent, latent)) as write_covariance,
    ):
        for part in trainer.workers.stream(
            lambda start: image_posterior(
                trainer,
                np.arange(start, min(start + trainer.chunk, count)),
                prior=prior,
                fits=probability,
                marginal_poses=marginal_poses,
                covariances=None if known is None else known.covariances,
            ),
            starts,
        ):
            write(part.residue_sd.numpy())
            write_covariance(part.covariance.numpy())
            columns[0].append(part.residue_sd.square().mean(dim=1).sqrt())
            columns[1].append(part.left)
            columns[2].append(part.information)
            if part.pose_covariance is not None:
                columns[3].append(part.pose_covariance.diagonal(dim1=1, dim2=2))
            done += len(part.residue_sd)
            progress(done)
    sd, left, information = (torch.cat(column).double().numpy() for column in columns[:3])
    if not columns[3]:
        return ImageUncertainty(sd, left, information)
    variances = torch.cat(columns[3]).double()
    angle = torch.rad2deg(variances[:, :3].sum(dim=1).sqrt()).numpy()
    shift = trainer.poses.reach * variances[:, 3:].mean(dim=1).sqrt().numpy()
    return ImageUncertainty(sd, left, information, angle, shift)


@torch.no_grad()
def image_posterior(
    trainer: Trainer,
    rows: np.ndarray,
    *,
    prior: LatentPrior,
    fits: Float[Tensor, " images"],
    marginal_poses: bool,
    covariances: Float[Tensor, "images latent latent"] | None = None,
) -> Posterior:
    """Return the posterior of some images' latents.

    Parameters
    ----------
    trainer, rows
        A fit, and which of its images.
    prior
        μ and Σ.
    fits
        p of all images.
    marginal_poses
        Whether poses are uncertain too.
    covariances
        C of all images, where they are known already.
    """
    latents = trainer.latents.read(torch.from_numpy(rows)).to(trainer.device)
    own, unknown = len(prior.mean), torch.linalg.inv(prior.covariance)
    fitting = fits[rows].double()[:, None, None]
    away = latents.cpu().double() - prior.mean
    poses = known = covariance = None
    if covariances is None or marginal_poses:
        precision = image_information(trainer, rows, prior.covariance.diagonal().sqrt(), marginal_poses=marginal_poses)
        precision[:, :own, :own] += unknown
        joint = torch.linalg.inv(precision)
        poses = _pose_covariance(joint, own, fitting).float() if marginal_poses else None
        known = fitting * joint[:, :own, :own] + (1 - fitting) * prior.covariance  # whatever the latent is
        covariance = known + (1 - fitting) * away[:, :, None] * away[:, None]
    if covariances is not None:
        known = covariance = covariances[rows]
    assert known is not None and covariance is not None
    return Posterior(
        residue_sd=_residue_deviation(trainer, latents, covariance, away),
        covariance=covariance.float(),
        left=((known @ unknown).diagonal(dim1=1, dim2=2).mean(dim=1).clamp_min(0).sqrt()).float(),
        information=(0.5 * (torch.logdet(prior.covariance) - torch.logdet(known))).float(),
        pose_covariance=poses,
    )


@torch.no_grad()
def image_information(
    trainer: Trainer, rows: np.ndarray, spread: Float[Tensor, " latent"], *, marginal_poses: bool
) -> Float[Tensor, "batch unknowns unknowns"]:
    """Return F of some images, float64: of latents, then poses (with their prior) and the scale where uncertain.

    `spread` is the standard deviation of latents, of which finite differences take a small part.
    """
    batch = trainer.batch(rows)
    latents = trainer.latents.read(torch.from_numpy(rows)).to(trainer.device)
    points = trainer.model.place(latents)
    view = _render(trainer, points, batch.rotations, batch.shifts)[:, None]
    views = [_latent_derivatives(trainer, latents, _STEP * spread.float().to(trainer.device), batch, view)]
    if marginal_poses:
        views.append(_pose_derivatives(trainer, points, batch, view))
    if trainer.objective.nll_is_profiled:
        views.append(view)
    information = fisher_information(torch.cat(views, dim=1), batch.kernels).double().cpu()
    if trainer.objective.nll_is_profiled:
        information = _own_scale(trainer, rows).square()[:, None, None] * information
    own = len(spread)
    information[:, own:, own:] += torch.eye(information.shape[1] - own, dtype=torch.float64) / _POSE_PRIOR**2
    return information


def _residue_deviation(
    trainer: Trainer,
    latents: Float[Tensor, "batch latent"],
    covariance: Float[Tensor, "batch latent latent"],
    away: Float[Tensor, "batch latent"],
) -> Float[Tensor, "batch residues"]:
    """Return the standard deviations of residues, by steps of one standard deviation towards the other images."""
    conformations = trainer.model.decode(latents)
    columns = torch.linalg.cholesky(covariance).mT
    towards = torch.where((columns @ away[:, :, None]) > 0, -1.0, 1.0)
    steps = (towards * columns).float().to(latents)
    moved = trainer.model.decode((latents[:, None] + steps).flatten(0, 1)).unflatten(0, steps.shape[:2])
    internal = _internal(moved - conformations[:, None], conformations)
    return internal.square().sum(dim=(1, 3)).sqrt().cpu()


def _own_scale(trainer: Trainer, rows: np.ndarray) -> Float[Tensor, " rows"]:
    """Return the scale at which each image explains itself best, s* = ⟨w,v⟩ / ⟨v,κ*v⟩; 0 where it is negative."""
    cross, power = trainer.fits.of(rows)
    return torch.from_numpy(np.nan_to_num(cross / power)).clamp_min(0)


def _pose_covariance(joint: Tensor, own: int, fitting: Tensor) -> Float[Tensor, "batch 5 5"]:
    """Return that of the tangents; of an image that does not fit nothing is known of its pose."""
    found = joint[:, own : own + 5, own : own + 5]
    return fitting * found + (1 - fitting) * _POSE_PRIOR**2 * torch.eye(5, dtype=joint.dtype)


def fisher_information(
    views: Float[Tensor, "batch directions side side"], kernels: Float[Tensor, "#batch twice half"]
) -> Float[Tensor, "batch directions directions"]:
    """Return ⟨v_a, κ * v_b⟩ of derivatives of projections, by Parseval's theorem on the zero-padded grid."""
    twice = kernels.shape[-2]
    spectra = torch.fft.rfft2(views, s=(twice, twice))
    both = torch.full((kernels.shape[-1],), 2.0, device=views.device)
    both[0] = both[-1] = 1.0
    weighted = spectra * (kernels * both / twice**2)[:, None]
    first, second = (torch.view_as_real(each).flatten(2) for each in (spectra, weighted))
    return first @ second.mT


def _latent_derivatives(
    trainer: Trainer,
    latents: Float[Tensor, "batch latent"],
    steps: Float[Tensor, " latent"],
    batch: Batch,
    view: Float[Tensor, "batch 1 side side"],
) -> Float[Tensor, "batch latent side side"]:
    """Return ∂v/∂z, by differences over a small part of the ensemble's extent."""
    count, size = latents.shape
    points = trainer.model.place((latents[:, None] + torch.diag(steps)).flatten(0, 1))
    poses = (each.repeat_interleave(size, dim=0) for each in (batch.rotations, batch.shifts))
    views = _render(trainer, points, *poses).unflatten(0, (count, size))
    return (views - view) / steps[:, None, None]


def _pose_derivatives(
    trainer: Trainer,
    points: Float[Tensor, "batch points 3"],
    batch: Batch,
    view: Float[Tensor, "batch 1 side side"],
) -> Float[Tensor, "batch 5 side side"]:
    """Return the derivatives of projections by the tangents of poses."""
    tangents = _TANGENT * torch.eye(5)
    moved = [trainer.poses.read(batch.images, tangent.expand(len(view), 5)) for tangent in tangents]
    rotations, shifts = (torch.stack(part, dim=1).flatten(0, 1).to(view.device) for part in zip(*moved, strict=True))
    views = _render(trainer, points.repeat_interleave(5, dim=0), rotations, shifts)
    return (views.unflatten(0, (-1, 5)) - view) / _TANGENT


def _render(
    trainer: Trainer,
    points: Float[Tensor, "views points 3"],
    rotations: Float[Tensor, "views 3 3"],
    shifts: Float[Tensor, "views 2"],
) -> Float[Tensor, "views side side"]:
    pixel_size = trainer.objective.pixel_size
    return trainer.model.render(points, rotations, shifts, trainer.data.grid.side, pixel_size)


def _internal(
    displacements: Float[Tensor, "batch latent residues 3"], conformations: Float[Tensor, "batch residues 3"]
) -> Float[Tensor, "batch latent residues 3"]:
    """Take the rigid motion of least squares out of displacements: what a superposition would undo."""
    arms = conformations - conformations.mean(dim=1, keepdim=True)
    centered = displacements - displacements.mean(dim=2, keepdim=True)
    square = arms.square().sum(dim=(1, 2))[:, None, None] * torch.eye(3, device=arms.device)
    inertia = square - arms.mT @ arms
    arms = arms[:, None].expand_as(centered)
    momentum = torch.linalg.cross(arms, centered).sum(dim=2)
    turn = (momentum.double() @ torch.linalg.pinv(inertia.double(), hermitian=True)).to(centered)
    return centered - torch.linalg.cross(turn[:, :, None].expand_as(centered), arms)
