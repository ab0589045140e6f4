"""Images that do not fit weigh less, images that do keep their weight, and groups find their scale."""

import numpy as np
import pytest
import torch
from fits import settings, trainer_of

from cryoatom.training.image_fits import LEAST_WEIGHT, ImageFits
from cryoatom.training.mixture import Kind, fit_mixture

COUNT = 41


def draw(kind: Kind, power: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    ratio = generator.normal(kind.mean, kind.spread, len(power))
    return ratio * power + power**0.5 * generator.normal(size=len(power))


KINDS = GOOD, WRONG, NOISE = Kind(1.1, 0.03), Kind(0.5, 0.2), Kind(0.0, 0.0)


def drawn(counts: tuple[int, int, int], seed: int = 0, doses: tuple[float, float] = (200, 200), kinds=KINDS):
    """Images of three kinds and controls, the poses of all of them exchanged."""
    generator = np.random.default_rng(seed)
    power = generator.uniform(*doses, sum(counts))
    ends = np.cumsum(counts)[:-1]
    parts = np.split(power, ends)
    cross = np.concatenate([draw(kind, part, generator) for kind, part in zip(kinds, parts, strict=True)])
    strange = [draw(kinds[1], np.concatenate(parts[:2]), generator), draw(kinds[2], parts[2], generator)]
    some = generator.permutation(len(power))[:500]
    return cross, power, (np.concatenate(strange)[some], power[some])


def test_most_of_some_images_make_their_kind_whatever_the_rest_is():
    generator = np.random.default_rng(0)
    power = generator.uniform(50, 400, 100_000)
    cross = draw(WRONG, power, generator)
    cross[:5000] = draw(NOISE, power[:5000], generator)
    found = Kind.typical(cross, power)
    assert found.mean == pytest.approx(WRONG.mean, abs=0.02) and found.spread == pytest.approx(WRONG.spread, abs=0.02)


def test_a_spread_is_that_above_the_mean_less_the_noise():
    generator = np.random.default_rng(0)
    power = generator.uniform(50, 400, 100_000)
    found = Kind.upper(draw(WRONG, power, generator), power, np.ones(len(power)))
    assert found.mean == pytest.approx(WRONG.mean, abs=0.005) and found.spread == pytest.approx(WRONG.spread, abs=0.005)


@pytest.mark.parametrize("doses", [(200, 200), (60, 400)])
@pytest.mark.parametrize("counts", [(800, 100, 100), (500, 100, 400), (950, 50, 0)])
def test_images_that_do_not_fit_are_told_from_those_that_do(counts, doses):
    cross, power, control = drawn(counts, doses=doses)
    mixture = fit_mixture(cross, power, control)
    assert mixture is not None
    assert mixture.share == pytest.approx(counts[0] / sum(counts), abs=0.03)
    assert mixture.fitting.mean == pytest.approx(GOOD.mean, abs=0.02)
    fits = mixture.probability(cross, power)
    assert (fits[: counts[0]] > 0.5).mean() > 0.98 and (fits[counts[0] :] < 0.5).mean() > 0.85


@pytest.mark.parametrize("seed", range(5))
def test_where_all_fit_all_keep_their_weight(seed):
    cross, power, control = drawn((1000, 0, 0), seed)
    mixture = fit_mixture(cross, power, control)
    assert mixture is not None and mixture.share > 0.99
    assert (mixture.probability(cross, power) > 0.9).mean() > 0.995


@pytest.mark.parametrize("strangers", [Kind(0.7, 0.18), Kind(0.9, 0.05), Kind(0.5, 0.2)])
@pytest.mark.parametrize("own_spread", [0.05, 0.14, 0.3])
@pytest.mark.parametrize("power", [9.0, 30.0, 80.0, 300.0])
def test_good_images_are_hardly_ever_lost_however_alike_the_kinds_are(strangers, own_spread, power):
    """Round particles, weak images, a decoder that has learned little: then all weigh alike."""
    kinds = (Kind(1.0, own_spread), strangers, NOISE)
    for counts in ((1000, 0, 0), (900, 0, 100), (900, 100, 0), (700, 100, 200)):
        cross, powers, control = drawn(counts, doses=(0.8 * power, 1.2 * power), kinds=kinds)
        mixture = fit_mixture(cross, powers, control)
        lost = 0.0 if mixture is None else (mixture.probability(cross, powers)[: counts[0]] < 0.5).mean()
        assert lost < 0.04


def test_bright_junk_does_not_pass_for_a_particle():
    cross, power, control = drawn((1000, 100, 0))
    mixture = fit_mixture(cross, power, control)
    assert mixture is not None
    assert mixture.probability(np.array([2.5 * 200.0]), np.array([200.0])) < 0.01


def test_too_few_images_or_images_that_fit_no_better_than_controls_tell_nothing():
    assert fit_mixture(*drawn((40, 0, 0))) is None
    generator = np.random.default_rng(0)
    power = np.full(500, 200.0)
    low = draw(Kind(0.3, 0.05), power, generator)
    assert fit_mixture(low, power, (draw(WRONG, power, generator), power)) is None


def test_the_gradient_is_weighted_image_by_image(folder):
    rows = np.arange(COUNT)
    with trainer_of(settings(folder)) as trainer:
        torch.nn.init.normal_(trainer.model.decoder.readout.weight, std=0.1)
        sizes = [parameter.numel() for parameter in trainer.parameters]
        single = [trainer._gradients(rows[i : i + 1], trainer.parameters)[1][2].split(sizes) for i in rows]
        weights = torch.rand(COUNT, generator=torch.Generator().manual_seed(0))
        trainer.fits.weights[:] = weights
        whole = trainer._gradients(rows, trainer.parameters)[1][2].split(sizes)
        for index, gradient in enumerate(whole):
            expected = torch.stack([w * one[index] for w, one in zip(weights, single, strict=True)]).sum(dim=0)
            torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-3 * float(gradient.abs().max()))


def test_an_image_that_does_not_fit_may_come_back():
    fits = ImageFits(np.zeros(3, np.int64))
    fits.weigh(np.array([0, 2]), np.array([0.0, 0.7]))
    assert fits.weights.tolist() == pytest.approx([LEAST_WEIGHT, 1.0, 0.7])


def test_groups_find_their_scale(folder):
    """What a group's images are stronger by, in their w, is its gain; then both groups fit alike."""
    rows, group = np.arange(COUNT), np.arange(COUNT) % 3
    with trainer_of(settings(folder)) as trainer:
        trainer.fits = ImageFits(group)
        trainer.model.beads.log_scale.data += 0.7
        truth = torch.tensor([0.5, 1.0, 2.0])
        rotations = trainer.poses.rotations
        conformations = trainer.model.template_positions.expand(COUNT, -1, -1)
        with torch.no_grad():
            data = trainer.data
            side, size = data.grid.side, data.grid.coarse_pixel
            views = trainer.model.render(conformations, rotations, torch.zeros(COUNT, 2), side, size)
            padded = torch.fft.rfft2(views, s=(2 * side, 2 * side)) * data.read(rows)[1]
            noiseless = torch.fft.irfft2(padded, s=(2 * side, 2 * side))[..., :side, :side]
            object.__setattr__(data, "crops", (truth[group, None, None] * noiseless).numpy())
        terms = trainer.objective(trainer.model, trainer.latents.values, trainer.batch(rows))
        trainer.fits.note(torch.from_numpy(rows), terms)
        trainer.fits.scale_groups(rows)
        gains = trainer.fits.gains
        torch.testing.assert_close(gains / gains[1], truth, rtol=2e-3, atol=0)
        terms = trainer.objective(trainer.model, trainer.latents.values, trainer.batch(rows))
        ratio = terms["cross"] / terms["power"]
        torch.testing.assert_close(ratio, ratio.mean().expand(COUNT), rtol=5e-3, atol=0)


def test_a_gain_is_a_factor_of_the_model(folder):
    rows = np.arange(COUNT)
    with trainer_of(settings(folder)) as trainer, torch.no_grad():
        trainer.fits.gains = torch.tensor([1.7])
        scaled = trainer.objective(trainer.model, trainer.latents.values, trainer.batch(rows))["nll"]
        trainer.fits.gains = torch.ones(1)
        trainer.model.beads.log_scale.data += np.log(1.7)
        torch.testing.assert_close(
            scaled, trainer.objective(trainer.model, trainer.latents.values, trainer.batch(rows))["nll"]
        )
