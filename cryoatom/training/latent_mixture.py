"""The distribution of latents behind what images tell of them: extreme deconvolution (Bovy, Hogg and Roweis, 2011).

An image tells its latent z up to noise: near its optimum -log p is ½ zᵀ F z - bᵀ z, with F the Fisher information and
b = F ẑ - g for the gradient g at the present latent ẑ. Taken alone it leaves much of z open, and a conformation that
fits the image best fits its noise too. All images together tell how latents are distributed: as a mixture of Gaussians
p(z) = Σ_k π_k N(z; μ_k, Σ_k), found by expectation and maximisation over all of F and b. Under it the latent of an
image has the posterior of components

    C_k = (F + Σ_k⁻¹)⁻¹,    m_k = C_k (b + Σ_k⁻¹ μ_k),
    r_k ∝ π_k |C_k|^½ |Σ_k|^-½ exp ½ (m_kᵀ C_k⁻¹ m_k - μ_kᵀ Σ_k⁻¹ μ_k),

hence the mean Σ_k r_k m_k, which on average is nearest to the truth of all estimates.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy.cluster.vq import kmeans2
from torch import Tensor

_RIDGE = 1e-6  # of the latents' mean variance, where they do not fill all dimensions
_FLOOR = 0.01  # of the covariance of all latents: the variance of the one image that each component sees beforehand
_ROUNDS = 20
_IMAGES = 5000  # that teach the mixture; the rest is told by it
_AT_ONCE = 2000
_NUMBERS = 3 * 10**7  # that a round of expectation and maximisation holds
_FEWEST = 100  # images for each component


@dataclass(frozen=True)
class LatentPrior:
    """What is known of a latent before its image is seen: the ensemble's mean μ and covariance Σ, float64."""

    mean: Tensor
    covariance: Tensor


def latent_prior(latents: Float[Tensor, "images latent"], weights: Float[Tensor, " images"]) -> LatentPrior:
    """Return the weighted mean and covariance of latents; the latter made invertible."""
    latents, weights = latents.double(), weights.double()
    mean = (weights @ latents) / weights.sum()
    centered = latents - mean
    covariance = centered.mT @ (weights[:, None] * centered) / weights.sum()
    ridge = _RIDGE * covariance.diagonal().mean().clamp_min(_RIDGE)
    return LatentPrior(mean, covariance + ridge * torch.eye(len(covariance), dtype=torch.float64))


@dataclass(frozen=True)
class Denoised:
    """What is known of latents once they are denoised.

    Parameters
    ----------
    ensemble
        Mean and covariance of the mixture as a whole.
    covariances : (images, latent, latent)
        Of each of the trainer's images, about the latent that it has, float64.
    """

    ensemble: LatentPrior
    covariances: Tensor


@dataclass(frozen=True)
class Told:
    """What images tell of their latents, float64.

    Parameters
    ----------
    information : (images, latent, latent)
        F.
    vector : (images, latent)
        b.
    """

    information: Tensor
    vector: Tensor

    def by(self, probability: Float[Tensor, " images"]) -> Told:
        """Return what images tell that fit with some probability each."""
        return Told(probability[:, None, None] * self.information, probability[:, None] * self.vector)

    def of(self, rows: Tensor | np.ndarray | slice) -> Told:
        """Return that of some images."""
        return Told(self.information[rows], self.vector[rows])

    def with_rows(self, rows: np.ndarray, told: Told) -> Told:
        """Return the same with what some images tell now."""
        where = torch.from_numpy(rows)
        return Told(
            self.information.index_copy(0, where, told.information), self.vector.index_copy(0, where, told.vector)
        )


@dataclass(frozen=True)
class LatentMixture:
    """A mixture of Gaussians, float64.

    Parameters
    ----------
    shares : (components,)
        π.
    means : (components, latent)
        μ.
    covariances : (components, latent, latent)
        Σ.
    """

    shares: Tensor
    means: Tensor
    covariances: Tensor

    def posterior(self, told: Told) -> tuple[Float[Tensor, "images latent"], Float[Tensor, "images latent latent"]]:
        """Return the mean and the covariance of the latents of some images."""
        parts = [self._posterior(told.of(slice(s, s + _AT_ONCE))) for s in range(0, len(told.vector), _AT_ONCE)]
        means, covariances = zip(*parts, strict=True)
        return torch.cat(means), torch.cat(covariances)

    def _posterior(self, told: Told) -> tuple[Tensor, Tensor]:
        share, means, covariances = self._components(told)
        mean = (share[..., None] * means).sum(dim=1)
        away = means - mean[:, None]
        spread = covariances + away[..., :, None] * away[..., None, :]
        return mean, (share[..., None, None] * spread).sum(dim=1)

    def _components(self, told: Told) -> tuple[Tensor, Tensor, Tensor]:
        """Return r_k, m_k and C_k of each image."""
        precision = torch.linalg.inv(self.covariances)
        known = told.information[:, None] + precision
        covariances = torch.linalg.inv(known)
        vector = told.vector[:, None] + (precision @ self.means[..., None])[..., 0]
        means = (covariances @ vector[..., None])[..., 0]
        evidence = self.shares.log() + 0.5 * (torch.logdet(precision) - torch.logdet(known))
        evidence = evidence + 0.5 * (vector * means).sum(dim=-1)
        evidence = evidence - 0.5 * (self.means * (precision @ self.means[..., None])[..., 0]).sum(dim=-1)
        return evidence.softmax(dim=1), means, covariances

    def improved(
        self, told: Told, weights: Float[Tensor, " images"], floor: Float[Tensor, "latent latent"]
    ) -> LatentMixture:
        """Return the mixture after one step of expectation and maximisation; `floor` is worth one image."""
        share, means, covariances = self._components(told)
        share = weights[:, None] * share
        total = share.sum(dim=0)
        centers = (share[..., None] * means).sum(dim=0) / (total[:, None] + 1e-9)
        away = means - centers
        spread = torch.einsum("nk,nki,nkj->kij", share, away, away)
        spread = spread + torch.einsum("nk,nkij->kij", share, covariances)
        spread = 0.5 * (spread + spread.mT)
        return LatentMixture(
            (total + 1e-9) / (total + 1e-9).sum(), centers, (spread + floor) / (total[:, None, None] + 1)
        )


def find_mixture(
    latents: Float[Tensor, "images latent"],
    told: Told,
    weights: Float[Tensor, " images"],
    *,
    components: int,
    seed: int,
) -> LatentMixture:
    """Find the mixture behind some images' latents.

    Parameters
    ----------
    latents
        Present ones, which tell where to begin.
    told
        What images tell of them.
    weights
        Of images: the probability that they fit.
    components
        At most; fewer where there are less than a hundred images for each.
    seed
        Of the choice of images and of the start.
    """
    generator = np.random.default_rng(seed)
    most = max(500, min(_IMAGES, _NUMBERS // (components * latents.shape[1] ** 2)))
    some = torch.from_numpy(np.sort(generator.permutation(len(latents))[:most]))
    latents, told = latents[some].double(), told.of(some)
    weights = weights[some].double().clamp_min(1e-9)  # also where no image fits
    weights = weights / weights.max()
    overall = latent_prior(latents, weights)
    floor = _FLOOR * overall.covariance
    count = max(1, min(components, len(latents) // _FEWEST))
    root = torch.linalg.cholesky(overall.covariance)
    white = torch.linalg.solve_triangular(root, (latents - overall.mean).mT, upper=False).mT
    with warnings.catch_warnings(), np.errstate(invalid="ignore"):  # fewer different latents than clusters
        warnings.filterwarnings("ignore", message="One of the clusters is empty")
        _, labels = kmeans2(white.numpy(), count, minit="++", rng=generator)
    owned = torch.nn.functional.one_hot(torch.from_numpy(labels).long(), count).double() * weights[:, None]
    owned = owned[:, owned.sum(dim=0) > 0]
    parts = [latent_prior(latents, share.clamp_min(1e-12)) for share in owned.mT]
    mixture = LatentMixture(
        owned.sum(dim=0) / owned.sum(),
        torch.stack([part.mean for part in parts]),
        torch.stack([part.covariance + floor for part in parts]),
    )
    for _ in range(_ROUNDS):
        mixture = mixture.improved(told, weights, floor)
    return mixture
