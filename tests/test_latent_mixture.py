"""Extreme deconvolution: against closed forms, and against ensembles whose distribution is known."""

import numpy as np
import pytest
import torch
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from cryoatom.training.denoise import moments
from cryoatom.training.latent_mixture import LatentMixture, Told, find_mixture, latent_prior


def spread_matrices(count: int, size: int, generator: torch.Generator, *, least: float = 0.2) -> torch.Tensor:
    """Symmetric positive matrices, float64."""
    roots = torch.randn(count, size, size, generator=generator, dtype=torch.float64)
    return roots @ roots.mT / size + least * torch.eye(size, dtype=torch.float64)


def any_mixture(components: int, size: int, seed: int = 0) -> LatentMixture:
    generator = torch.Generator().manual_seed(seed)
    shares = torch.rand(components, generator=generator, dtype=torch.float64) + 0.2
    means = 3 * torch.randn(components, size, generator=generator, dtype=torch.float64)
    return LatentMixture(shares / shares.sum(), means, spread_matrices(components, size, generator))


def observed(points: torch.Tensor, seed: int, *, least: float = 0.2) -> tuple[torch.Tensor, Told, torch.Tensor]:
    """Points with noise, each of its own covariance, what they tell, and those covariances."""
    generator = torch.Generator().manual_seed(seed)
    count, size = points.shape
    noise = spread_matrices(count, size, generator, least=least)
    drawn = torch.randn(points.shape, generator=generator, dtype=torch.float64)
    noisy = points + (torch.linalg.cholesky(noise) @ drawn[..., None])[..., 0]
    information = torch.linalg.inv(noise)
    return noisy, Told(information, (information @ noisy[..., None])[..., 0]), noise


def nothing(count: int, size: int) -> Told:
    zeros = torch.zeros(count, size, size, dtype=torch.float64)
    return Told(zeros, zeros[:, 0].clone())


# --- the posterior --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 3])
def test_the_posterior_under_one_gaussian_is_the_closed_form(size):
    mixture = any_mixture(1, size)
    noisy, told, noise = observed(torch.randn(7, size, dtype=torch.float64), 1)
    mean, covariance = mixture.posterior(told)
    gain = mixture.covariances @ torch.linalg.inv(mixture.covariances + noise)  # Kalman's
    expected = mixture.means + (gain @ (noisy - mixture.means)[..., None])[..., 0]
    torch.testing.assert_close(mean, expected)
    torch.testing.assert_close(covariance, mixture.covariances - gain @ mixture.covariances)


def test_responsibilities_are_those_of_the_distributions_of_noisy_points():
    """r_k ∝ π_k N(ẑ; μ_k, Σ_k + noise), which the code never forms: F may be singular."""
    mixture = any_mixture(3, 2)
    noisy, told, noise = observed(2 * torch.randn(50, 2, dtype=torch.float64), 2)
    density = MultivariateNormal(mixture.means, mixture.covariances + noise[:, None]).log_prob(noisy[:, None])
    share, means, covariances = mixture._components(told)
    torch.testing.assert_close(share, (mixture.shares.log() + density).softmax(dim=1))
    mean, covariance = mixture.posterior(told)
    for image in range(0, 50, 10):  # the moments of each posterior, from many draws of it
        drawn = MixtureSameFamily(Categorical(share[image]), MultivariateNormal(means[image], covariances[image]))
        torch.testing.assert_close(drawn.mean, mean[image])
        torch.testing.assert_close(drawn.variance, covariance[image].diagonal())


def test_the_posterior_is_that_of_a_sum_over_a_grid():
    """Mean and covariance of p(z) exp(bᵀz - ½ zᵀFz), F of rank one, by a sum over a fine grid."""
    mixture = any_mixture(2, 2)
    axis = torch.linspace(-14, 14, 561, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    prior = MixtureSameFamily(Categorical(mixture.shares), MultivariateNormal(mixture.means, mixture.covariances))
    direction = torch.tensor([0.8, -1.1], dtype=torch.float64)
    told = Told(torch.outer(direction, direction)[None], 0.7 * direction[None])
    weight = (prior.log_prob(grid) + grid @ told.vector[0] - 0.5 * (grid @ direction).square()).softmax(dim=0)
    mean, covariance = mixture.posterior(told)
    torch.testing.assert_close(mean[0], weight @ grid, rtol=1e-4, atol=1e-4)
    away = grid - weight @ grid
    torch.testing.assert_close(covariance[0], away.mT @ (weight[:, None] * away), rtol=1e-4, atol=1e-4)


def test_points_that_tell_nothing_get_mean_and_covariance_of_the_mixture():
    mixture = any_mixture(4, 3)
    mean, covariance = mixture.posterior(nothing(5, 3))
    whole = moments(mixture)
    torch.testing.assert_close(mean, whole.mean.expand(5, 3))
    torch.testing.assert_close(covariance, whole.covariance.expand(5, 3, 3))


def test_points_that_tell_everything_keep_their_place():
    mixture = any_mixture(4, 3)
    places = torch.randn(6, 3, dtype=torch.float64)
    information = 1e9 * torch.eye(3, dtype=torch.float64).expand(6, 3, 3)
    mean, covariance = mixture.posterior(Told(information, 1e9 * places))
    torch.testing.assert_close(mean, places, atol=1e-6, rtol=0)
    assert covariance.abs().max() < 1e-8


def test_moments_are_those_of_the_distribution():
    mixture = any_mixture(3, 2)
    known = MixtureSameFamily(Categorical(mixture.shares), MultivariateNormal(mixture.means, mixture.covariances))
    found = moments(mixture)
    torch.testing.assert_close(found.mean, known.mean)
    torch.testing.assert_close(found.covariance.diagonal(), known.variance)


def test_the_posterior_does_not_depend_on_how_many_are_done_at_once(monkeypatch):
    mixture = any_mixture(3, 2)
    _, told, _ = observed(torch.randn(23, 2, dtype=torch.float64), 3)
    whole = mixture.posterior(told)
    monkeypatch.setattr("cryoatom.training.latent_mixture._AT_ONCE", 5)
    for first, second in zip(whole, mixture.posterior(told), strict=True):
        torch.testing.assert_close(first, second)


# --- the mixture that many points teach -----------------------------------------------------------------------------


def two_clusters(count: int, seed: int = 0) -> tuple[LatentMixture, torch.Tensor]:
    """A narrow cluster of a third beside an oblong one, and points drawn from them."""
    covariances = torch.tensor([[[0.3, 0.0], [0.0, 0.3]], [[2.0, 1.2], [1.2, 1.0]]], dtype=torch.float64)
    means = torch.tensor([[-3.0, 1.0], [2.0, -1.0]], dtype=torch.float64)
    truth = LatentMixture(torch.tensor([1 / 3, 2 / 3], dtype=torch.float64), means, covariances)
    generator = torch.Generator().manual_seed(seed)
    which = (torch.rand(count, generator=generator) > 1 / 3).long()
    drawn = torch.randn(count, 2, generator=generator, dtype=torch.float64)
    return truth, means[which] + (torch.linalg.cholesky(covariances)[which] @ drawn[..., None])[..., 0]


def test_a_known_mixture_is_recovered_from_behind_the_noise():
    truth, points = two_clusters(3000)
    noisy, told, _ = observed(points, 1, least=0.3)
    found = find_mixture(noisy, told, torch.ones(3000), components=2, seed=0)
    order = found.means[:, 0].argsort()
    torch.testing.assert_close(found.shares[order], truth.shares, atol=0.03, rtol=0)
    torch.testing.assert_close(found.means[order], truth.means, atol=0.15, rtol=0)
    torch.testing.assert_close(found.covariances[order], truth.covariances, atol=0.25, rtol=0)
    widths = found.covariances[order].diagonal(dim1=1, dim2=2).mean(dim=1)
    assert widths[0] < 0.45  # of 0.3; with the noise it would be 1.6


@pytest.mark.parametrize("components", [1, 2, 5])
def test_posterior_means_are_nearer_to_the_truth_than_noisy_points(components):
    truth, points = two_clusters(1500)
    noisy, told, _ = observed(points, 1)
    found = find_mixture(noisy, told, torch.ones(1500), components=components, seed=0)
    mean, covariance = found.posterior(told)
    error, before = ((each - points).square().sum(dim=1).mean() for each in (mean, noisy))
    best = (truth.posterior(told)[0] - points).square().sum(dim=1).mean()  # no estimate is better on average
    assert best <= 1.01 * error and error < 0.75 * before
    promised = covariance.diagonal(dim1=1, dim2=2).sum(dim=1).mean()
    assert float(promised / error) == pytest.approx(1, abs=0.15)  # covariances say how large the error is


def test_it_does_not_matter_where_points_of_no_information_are():
    """They are said to lie far off; neither the mixture nor anyone's mean follows them."""
    _, points = two_clusters(1200)
    noisy, told, _ = observed(points, 1)
    fits = torch.ones(1200)
    fits[::4] = 0.0
    noisy[::4] += 50
    found = find_mixture(noisy, told.by(fits.double()), fits, components=3, seed=0)
    whole, seen = moments(found), points[fits > 0]
    torch.testing.assert_close(whole.mean, seen.mean(dim=0), atol=0.2, rtol=0)
    torch.testing.assert_close(whole.covariance, torch.cov(seen.mT), atol=0.5, rtol=0)


def test_expectation_and_maximisation_raise_the_evidence():
    _, points = two_clusters(800)
    noisy, told, noise = observed(points, 1)
    mixture, weights = any_mixture(3, 2), torch.ones(800, dtype=torch.float64)
    evidence = []
    for _ in range(8):
        parts = MultivariateNormal(mixture.means, mixture.covariances + noise[:, None]).log_prob(noisy[:, None])
        evidence.append(float((mixture.shares.log() + parts).logsumexp(dim=1).sum()))
        mixture = mixture.improved(told, weights, torch.zeros(2, 2, dtype=torch.float64))
    # a covariance counts one image more than there are, which costs next to nothing
    assert np.all(np.diff(evidence) > -0.05) and evidence[-1] > evidence[0] + 10


def test_the_same_seed_finds_the_same_mixture(monkeypatch):
    _, points = two_clusters(900)
    noisy, told, _ = observed(points, 1)
    monkeypatch.setattr("cryoatom.training.latent_mixture._IMAGES", 600)
    first, second, other = (find_mixture(noisy, told, torch.ones(900), components=3, seed=s) for s in (4, 4, 5))
    assert torch.equal(first.means, second.means) and torch.equal(first.covariances, second.covariances)
    assert not torch.equal(first.means, other.means)


def test_a_mixture_has_no_component_for_less_than_a_hundred_images():
    _, points = two_clusters(350)
    noisy, told, _ = observed(points, 1)
    assert len(find_mixture(noisy, told, torch.ones(350), components=16, seed=0).shares) == 3
    assert len(find_mixture(noisy, told, torch.ones(350), components=2, seed=0).shares) == 2


# --- what may go wrong ----------------------------------------------------------------------------------------------


def is_sound(mixture: LatentMixture, told: Told) -> bool:
    mean, covariance = mixture.posterior(told)
    parts = (mixture.shares, mixture.means, mixture.covariances, mean, covariance)
    is_positive = all(bool((torch.linalg.eigvalsh(each) > 0).all()) for each in (mixture.covariances, covariance))
    return all(bool(part.isfinite().all()) for part in parts) and is_positive


@pytest.mark.parametrize("size", [1, 2, 8])
@pytest.mark.parametrize("count", [1, 2, 7, 230])
def test_few_images_do_no_harm(count, size):
    generator = torch.Generator().manual_seed(0)
    noisy, told, _ = observed(torch.randn(count, size, generator=generator, dtype=torch.float64), 1)
    found = find_mixture(noisy.float(), told, torch.ones(count), components=16, seed=0)
    assert is_sound(found, told) and float(found.shares.sum()) == pytest.approx(1)


@pytest.mark.parametrize("count", [1, 450])
def test_latents_that_are_all_the_same_do_no_harm(count):
    _, told, _ = observed(torch.zeros(count, 3, dtype=torch.float64), 1)
    for each in (told, nothing(count, 3)):
        found = find_mixture(torch.full((count, 3), 0.7), each, torch.ones(count), components=4, seed=0)
        assert is_sound(found, each)


def test_two_places_for_many_components_do_no_harm():
    latents = torch.tensor([[0.0, 0.0], [1.0, 2.0]]).repeat(300, 1)
    information = 5 * torch.eye(2, dtype=torch.float64).expand(600, 2, 2)
    told = Told(information, 5 * latents.double())
    found = find_mixture(latents, told, torch.ones(600), components=6, seed=0)
    assert is_sound(found, told)
    torch.testing.assert_close(moments(found).mean, latents.double().mean(dim=0), atol=0.05, rtol=0)


@pytest.mark.parametrize("count", [3, 300])
def test_images_of_which_none_fits_do_no_harm(count):
    """Nothing is told: the mixture stays where the latents are."""
    _, points = two_clusters(count)
    noisy, told, _ = observed(points, 1)
    weights = torch.zeros(count, dtype=torch.float64)
    found = find_mixture(noisy, told.by(weights), weights, components=3, seed=0)
    assert is_sound(found, told.by(weights))
    torch.testing.assert_close(moments(found).mean, noisy.mean(dim=0), atol=0.1, rtol=0)


def test_an_only_image_that_fits_does_no_harm():
    _, points = two_clusters(300)
    noisy, told, _ = observed(points, 1)
    weights = torch.zeros(300, dtype=torch.float64)
    weights[17] = 1.0
    assert is_sound(find_mixture(noisy, told.by(weights), weights, components=3, seed=0), told)


def test_latents_on_a_line_do_no_harm():
    along = torch.randn(400, 1, generator=torch.Generator().manual_seed(0))
    latents = along * torch.tensor([1.0, 2.0, -1.0])
    told = Told(1e4 * torch.eye(3, dtype=torch.float64).expand(400, 3, 3), 1e4 * latents.double())
    found = find_mixture(latents, told, torch.ones(400), components=4, seed=0)
    assert is_sound(found, told)
    torch.testing.assert_close(found.posterior(told)[0], latents.double(), atol=0.05, rtol=0)


def test_the_prior_weighs_latents():
    latents = torch.tensor([[0.0, 1.0], [2.0, 1.0], [100.0, -100.0]])
    prior = latent_prior(latents, torch.tensor([1.0, 1.0, 0.0]))
    torch.testing.assert_close(prior.mean, torch.tensor([1.0, 1.0], dtype=torch.float64))
    torch.testing.assert_close(prior.covariance.diagonal(), torch.tensor([1.0, 0.0]).double(), atol=1e-5, rtol=0)
    assert (torch.linalg.eigvalsh(prior.covariance) > 0).all()
