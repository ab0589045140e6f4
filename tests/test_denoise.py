"""Latents at their posterior means: slopes, damped steps, checked steps, and whole runs, also ones that are resumed."""

import logging
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fits import PIXEL_SIZE, settings, trainer_of, write_dataset
from particle_data import write_stack

from cryoatom.files.mrc import open_stack
from cryoatom.imaging.likelihood import quadratic_form
from cryoatom.run_folder import RunFolder
from cryoatom.train_config import TrainConfig
from cryoatom.training import denoise as module
from cryoatom.training import fit as loop
from cryoatom.training.checkpoint import load_checkpoint
from cryoatom.training.denoise import (
    Slopes,
    _approach,
    are_latents_denoised,
    denoise_latents,
    linearised,
    measure_slopes,
    moments,
)
from cryoatom.training.fit import held_from, split_rows
from cryoatom.training.latent_mixture import LatentMixture, latent_prior
from cryoatom.training.train import train
from cryoatom.training.trainer import Schedule
from cryoatom.training.uncertainty import image_information

COUNT = 41
EPOCHS, HELD = 4, 2  # of four epochs latents are held in the last two
ROWS = np.arange(0, COUNT, 3)


@pytest.fixture(autouse=True, scope="module")
def images_tell_enough():
    """So few and small images tell next to nothing: denoise all the same."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cryoatom.training.denoise._LEAST_TOLD", 0.0)
        yield


def quick(folder: Path, outdir: Path | None = None, **changes: object) -> TrainConfig:
    """Settings of a run that soon learns something."""
    given = {"zdim": 2, "decoder": "linear", "lr": 0.05, "crop_pixel": 3.0, "num_epochs": EPOCHS, "decay": 0.5}
    return settings(folder, outdir, **given | {"dcd": False} | changes)


@pytest.fixture(scope="module")
def run(folder):
    return train(quick(folder), is_checked=True)


@pytest.fixture
def trainer(folder, run):
    """The run as it was before latents were held."""
    with trainer_of(quick(folder)) as trainer:
        load_checkpoint(run.weights(HELD), trainer)
        yield trainer


def spread(trainer) -> torch.Tensor:
    return latent_prior(trainer.latents.values, torch.ones(COUNT)).covariance.diagonal().sqrt()


def any_slopes(count: int, size: int, *, least: float = 0.0, seed: int = 0) -> Slopes:
    generator = torch.Generator().manual_seed(seed)
    roots = torch.randn(count, size, size, generator=generator, dtype=torch.float64)
    gradient = torch.randn(count, size, generator=generator, dtype=torch.float64)
    return Slopes(roots @ roots.mT + least * torch.eye(size, dtype=torch.float64), gradient)


# --- what an image tells, linearised --------------------------------------------------------------------------------


def step_asked_for(latents: torch.Tensor, slopes: Slopes, covariance: torch.Tensor) -> torch.Tensor:
    told = linearised(latents, slopes, covariance)
    return torch.linalg.solve(told.information, told.vector) - latents


def test_what_a_quadratic_tells_is_where_its_minimum_lies():
    """Of ½ (z-c)ᵀ F (z-c) the vector is F c wherever it is linearised, and each step stops short by e / (e + λ)."""
    generator = torch.Generator().manual_seed(1)
    latents, minimum = torch.randn(2, 9, 3, generator=generator, dtype=torch.float64)
    information = any_slopes(9, 3, least=1.0).information
    unit = torch.eye(3, dtype=torch.float64)
    for stiffness, tolerance in ((1.0, 0.25), (1e4, 1e-4)):  # λ is 0.3, the least eigenvalue 1
        stiff = stiffness * information
        slopes = Slopes(stiff, (stiff @ (latents - minimum)[..., None])[..., 0])
        left = minimum - latents - step_asked_for(latents, slopes, unit)
        assert (left.norm(dim=1) <= tolerance * (minimum - latents).norm(dim=1)).all()
        values, vectors = torch.linalg.eigh(stiff)
        part = (vectors.mT @ (minimum - latents)[..., None])[..., 0] * module._DAMPING / (values + module._DAMPING)
        torch.testing.assert_close(left, (vectors @ part[..., None])[..., 0])
        torch.testing.assert_close(linearised(latents, slopes, unit).information, stiff)


def test_an_image_that_tells_nothing_asks_for_no_step():
    slopes = Slopes(torch.zeros(4, 2, 2, dtype=torch.float64), 1e3 * torch.ones(4, 2, dtype=torch.float64))
    told = linearised(torch.randn(4, 2), slopes, torch.eye(2, dtype=torch.float64))
    assert not told.information.any() and not told.vector.any()


@pytest.mark.parametrize("stiffness", [1e-8, 1e-3, 1.0])
def test_a_step_is_at_most_the_gradient_over_lambda_long(stiffness):
    """In units of the latents' own deviations, whatever their covariance; a bare Newton step would be endless."""
    covariance = any_slopes(1, 3, least=0.1, seed=5).information[0]
    root = torch.linalg.cholesky(covariance)
    slopes = replace(any_slopes(20, 3), information=stiffness * any_slopes(20, 3, least=0.1).information)
    latents = torch.zeros(20, 3, dtype=torch.float64)
    step = torch.linalg.solve_triangular(root, step_asked_for(latents, slopes, covariance).mT, upper=False).mT
    gradient = slopes.gradient @ root
    assert (step.norm(dim=1) <= gradient.norm(dim=1) / module._DAMPING * 1.001).all()


def test_a_step_does_not_depend_on_the_units_of_latents():
    covariance, slopes = any_slopes(1, 3, least=0.1, seed=5).information[0], any_slopes(8, 3, least=0.1)
    latents, units = torch.randn(8, 3, dtype=torch.float64), any_slopes(1, 3, least=1.0, seed=6).information[0]
    back = torch.linalg.inv(units)  # z' = units z
    other = Slopes(back.mT @ slopes.information @ back, slopes.gradient @ back)
    step = step_asked_for(latents @ units.mT, other, units @ covariance @ units.mT)
    torch.testing.assert_close(step, step_asked_for(latents, slopes, covariance) @ units.mT, rtol=1e-5, atol=1e-6)


def test_negative_curvature_counts_as_none():
    """Rounding may leave an information slightly indefinite (a Schur complement)."""
    information = torch.diag(torch.tensor([4.0, -1e-3], dtype=torch.float64))[None]
    slopes = Slopes(information, torch.ones(1, 2, dtype=torch.float64))
    told = linearised(torch.zeros(1, 2), slopes, torch.eye(2, dtype=torch.float64))
    torch.testing.assert_close(told.information[0], torch.diag(torch.tensor([4.0, 0.0], dtype=torch.float64)))
    assert told.vector[0, 1] == 0 and told.vector[0, 0] == pytest.approx(-4 / 4.3)


def test_the_change_is_that_of_the_quadratic_form():
    slopes, step = any_slopes(5, 3), torch.randn(5, 3, dtype=torch.float64)
    expected = [
        float(g @ d + 0.5 * d @ f @ d) for f, g, d in zip(slopes.information, slopes.gradient, step, strict=True)
    ]
    torch.testing.assert_close(slopes.change(step), torch.tensor(expected, dtype=torch.float64))


# --- slopes of images -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("likelihood", ["gaussian", "profiled"])
def test_gradients_are_those_of_the_likelihood_alone(folder, run, likelihood):
    """By finite differences; restraints, here huge, have no part in them, nor have the weights of images."""
    with trainer_of(quick(folder, likelihood=likelihood, r0=1e6, r1=1e6, r2=1e6)) as trainer:
        load_checkpoint(run.weights(HELD), trainer)
        trainer.fits.weights.fill_(0.01)
        found = trainer.likelihood_gradients(ROWS)
        assert found.shape == (len(ROWS), 2 + 5)

        def nll(unknowns: torch.Tensor) -> torch.Tensor:
            points = trainer.model.place(latents + unknowns[:, :2])
            batch = trainer.batch(ROWS, unknowns[:, 2:])
            return trainer.objective.image_terms(trainer.model, points, batch)["nll"].detach()

        latents = trainer.latents.read(torch.from_numpy(ROWS))
        for place, step in enumerate([0.02, 0.02, *5 * [2e-3]]):
            change = torch.zeros(len(ROWS), 7)
            change[:, place] = step
            slope = (nll(change) - nll(-change)) / (2 * step)
            torch.testing.assert_close(found[:, place], slope, rtol=0.05, atol=0.02 * float(found.abs().max()))


def test_gradients_are_those_of_autograd(trainer):
    latents = trainer.latents.read(torch.from_numpy(ROWS)).requires_grad_()
    tangents = torch.zeros(len(ROWS), 5, requires_grad=True)
    batch = trainer.batch(ROWS, tangents)
    terms = trainer.objective.image_terms(trainer.model, trainer.model.place(latents), batch)
    terms["nll"].sum().backward()
    assert latents.grad is not None and tangents.grad is not None
    expected = torch.cat([latents.grad, tangents.grad], dim=1)
    torch.testing.assert_close(trainer.likelihood_gradients(ROWS), expected, rtol=1e-4, atol=1e-3)


def test_the_information_is_the_curvature_of_the_projections(trainer):
    """½ δᵀ F δ is the quadratic form of what a small step changes in an image, as in test_uncertainty."""
    slopes = measure_slopes(trainer, ROWS, spread(trainer), marginal_poses=False)
    rows, delta = torch.from_numpy(ROWS), 0.05 * spread(trainer).float() * torch.tensor([0.8, -0.6])
    batch, latents = trainer.batch(ROWS), trainer.latents.read(rows)
    side, pixel = batch.crops.shape[-1], trainer.data.grid.coarse_pixel
    with torch.no_grad():
        own, moved = (
            trainer.model.render(trainer.model.place(z), batch.rotations, batch.shifts, side, pixel)
            for z in (latents, latents + delta)
        )
    expected = torch.einsum("k,nkl,l->n", delta.double(), slopes.information, delta.double())
    torch.testing.assert_close(quadratic_form(moved - own, batch.kernels).double(), expected, rtol=0.2, atol=1e-4)
    expected_gradient = trainer.likelihood_gradients(ROWS)[:, :2].double()
    torch.testing.assert_close(slopes.gradient, expected_gradient, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("likelihood", ["gaussian", "profiled"])
def test_poses_are_solved_for_jointly(folder, run, likelihood):
    """Newton's step of latents by the Schur complement is that of latents, poses and scale together."""
    with trainer_of(quick(folder, likelihood=likelihood, pose_lr=0.1)) as trainer:
        load_checkpoint(run.weights(HELD), trainer)
        trainer.chunk = COUNT  # else finite differences differ by rounding
        slopes = measure_slopes(trainer, ROWS, spread(trainer), marginal_poses=True)
        joint = image_information(trainer, ROWS, spread(trainer), marginal_poses=True)
        gradient = torch.zeros(len(ROWS), joint.shape[1], dtype=torch.float64)  # that of a profiled scale is 0
        gradient[:, :7] = trainer.likelihood_gradients(ROWS).double()
        assert joint.shape[1] == (8 if likelihood == "profiled" else 7)
        together = torch.linalg.solve(joint, -gradient)[:, :2]
        torch.testing.assert_close(
            torch.linalg.solve(slopes.information, -slopes.gradient), together, rtol=1e-3, atol=1e-4
        )
        fixed = measure_slopes(trainer, ROWS, spread(trainer), marginal_poses=False)
        assert (torch.linalg.eigvalsh(fixed.information - slopes.information) > -1e-6).all()  # less is told


# --- steps that are checked -----------------------------------------------------------------------------------------


def parabola(trainer, slopes: Slopes, monkeypatch, *, steepness: float = 1.0) -> torch.Tensor:
    """Let the objective be the quadratic form itself, or a steeper one; return where latents begin."""
    begin = trainer.latents.read(torch.from_numpy(ROWS)).double().clone()

    def losses(rows):
        assert np.array_equal(rows, ROWS)
        return (steepness * slopes.change(trainer.latents.read(torch.from_numpy(rows)).double() - begin)).float()

    monkeypatch.setattr(trainer, "losses", losses)
    return begin


def test_a_step_that_the_form_foresees_is_taken_in_full(trainer, monkeypatch):
    slopes = any_slopes(len(ROWS), 2)
    begin = parabola(trainer, slopes, monkeypatch)
    goals = begin + 30 * torch.randn(begin.shape, generator=torch.Generator().manual_seed(0))  # up by hundreds of nats
    others = torch.from_numpy(np.setdiff1d(np.arange(COUNT), ROWS))
    kept = trainer.latents.read(others).clone()
    _approach(trainer, ROWS, goals, slopes, torch.ones(len(ROWS), dtype=torch.float64))
    torch.testing.assert_close(trainer.latents.read(torch.from_numpy(ROWS)), goals.float())
    assert torch.equal(trainer.latents.read(others), kept)


@pytest.mark.parametrize("steepness", [0.5, 1.4, 3.0, 100.0])
def test_no_step_raises_the_objective_by_more_than_its_rule(trainer, monkeypatch, steepness, caplog):
    slopes = any_slopes(len(ROWS), 2)
    begin = parabola(trainer, slopes, monkeypatch, steepness=steepness)
    goals = begin + 3 * torch.randn(begin.shape, generator=torch.Generator().manual_seed(0))
    fits = torch.linspace(0.2, 1, len(ROWS), dtype=torch.float64)
    with caplog.at_level(logging.INFO, module.__name__):
        _approach(trainer, ROWS, goals, slopes, fits)
    done = trainer.latents.read(torch.from_numpy(ROWS)).double() - begin
    share = (done * (goals - begin)).sum(dim=1) / (goals - begin).square().sum(dim=1)
    torch.testing.assert_close(done, share[:, None] * (goals - begin), atol=1e-5, rtol=0)  # on the straight way
    halves = torch.tensor([0, 1 / 8, 1 / 4, 1 / 2, 1], dtype=torch.float64)
    assert ((share[:, None] - halves).abs().min(dim=1).values < 1e-4).all()
    rise, expected = fits * trainer.losses(ROWS).double(), fits * slopes.change(done)
    assert (rise <= expected + module._SURPRISE + 0.5 * expected.abs() + 1e-4).all()
    full, none = int((share > 0.99).sum()), int((share < 0.01).sum())
    assert f"{full} of {len(ROWS)} latents went" in caplog.text and f"{none} not at all" in caplog.text
    assert full == len(ROWS) if steepness <= 1.4 else full < len(ROWS)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("fit", [0.0, 1.0])
def test_a_step_to_where_the_objective_is_no_number_is_not_taken(trainer, monkeypatch, value, fit):
    begin = trainer.latents.read(torch.from_numpy(ROWS)).clone()

    def losses(rows):
        moved = (trainer.latents.read(torch.from_numpy(rows)) != begin).any(dim=1)
        moved[3:] = False  # the others are as before
        return torch.where(moved, value, 7.0)

    monkeypatch.setattr(trainer, "losses", losses)
    slopes = Slopes(torch.zeros(len(ROWS), 2, 2, dtype=torch.float64), torch.zeros(len(ROWS), 2, dtype=torch.float64))
    _approach(trainer, ROWS, begin.double() + 1, slopes, torch.full((len(ROWS),), fit, dtype=torch.float64))
    after = trainer.latents.read(torch.from_numpy(ROWS))
    assert torch.equal(after[:3], begin[:3])
    torch.testing.assert_close(after[3:], begin[3:] + 1)


def test_images_that_do_not_fit_go_wherever_they_are_sent(trainer, monkeypatch):
    slopes = any_slopes(len(ROWS), 2)
    begin = parabola(trainer, slopes, monkeypatch, steepness=1e4)
    goals, fits = begin + 100, torch.zeros(len(ROWS), dtype=torch.float64)
    fits[0] = 1.0
    _approach(trainer, ROWS, goals, slopes, fits)
    after = trainer.latents.read(torch.from_numpy(ROWS))
    torch.testing.assert_close(after[1:], goals[1:].float())
    torch.testing.assert_close(after[0], begin[0].float())


# --- all of it ------------------------------------------------------------------------------------------------------


def mixture_of(monkeypatch) -> list[LatentMixture]:
    """Let what is found be seen."""
    found, find = [], module.find_mixture
    monkeypatch.setattr(module, "find_mixture", lambda *a, **k: found.append(find(*a, **k)) or found[-1])
    return found


def test_latents_of_which_images_tell_too_little_are_left_alone(trainer, monkeypatch):
    monkeypatch.setattr("cryoatom.training.denoise._LEAST_TOLD", 1e9)
    before = trainer.latents.values.clone()
    assert denoise_latents(trainer, ROWS, np.ones(COUNT), components=2, marginal_poses=False) is None
    assert torch.equal(trainer.latents.values, before)


def test_covariances_are_about_the_latents_that_are_kept(trainer, monkeypatch):
    """p (C + (m-z)(m-z)ᵀ) + (1-p) (Σ + (z-μ)(z-μ)ᵀ); images that are not asked for are as any of the ensemble."""
    probability, mixtures = np.linspace(0, 1, COUNT), mixture_of(monkeypatch)
    monkeypatch.setattr(module, "_approach", lambda t, rows, *others: np.full(len(rows), True))  # no step is taken
    known = denoise_latents(trainer, ROWS, probability, components=4, marginal_poses=False)
    values, mean, whole = trainer.latents.values.double(), known.ensemble.mean, known.ensemble.covariance
    torch.testing.assert_close(mean, moments(mixtures[0]).mean)
    slopes = measure_slopes(trainer, ROWS, spread(trainer), marginal_poses=False)
    begin = trainer.latents.read(torch.from_numpy(ROWS)).double()
    fits = torch.from_numpy(probability)
    covariance = latent_prior(begin, fits[ROWS].clamp_min(1e-9)).covariance
    means, covariances = mixtures[0].posterior(linearised(begin, slopes, covariance))
    for place, row in enumerate(ROWS):
        missed, away = means[place] - values[row], values[row] - mean
        fitting = covariances[place] + torch.outer(missed, missed)
        expected = fits[row] * fitting + (1 - fits[row]) * (whole + torch.outer(away, away))
        torch.testing.assert_close(known.covariances[row], expected, rtol=1e-2, atol=1e-4)
    others = np.setdiff1d(np.arange(COUNT), ROWS)
    away = values[others] - mean
    torch.testing.assert_close(known.covariances[others], whole + away[:, :, None] * away[:, None])


def test_latents_that_came_part_of_the_way_go_on_with_what_is_told_there(trainer, monkeypatch):
    begin, steps, mixtures = trainer.latents.values.clone(), [], mixture_of(monkeypatch)

    def approach(trainer, rows, goals, slopes, fits):
        steps.append((rows, goals))
        share = torch.ones(len(rows), 1, dtype=torch.float64)
        share[:2] = 0.5 if len(steps) == 1 else 1.0
        here = trainer.latents.read(torch.from_numpy(rows)).double()
        trainer.latents.values[rows] = (here + share * (goals - here)).float()
        return (share == 1)[:, 0].numpy()

    monkeypatch.setattr(module, "_approach", approach)
    known = denoise_latents(trainer, ROWS, np.ones(COUNT), components=4, marginal_poses=False)
    (first, goals), (second, last) = steps
    assert first.tolist() == ROWS.tolist() and second.tolist() == ROWS[:2].tolist()
    reached = trainer.latents.values.clone()
    torch.testing.assert_close(reached[second], last.float())
    trainer.latents.values[second] = (0.5 * (begin[second].double() + goals[:2])).float()  # where they were told again
    covariance = latent_prior(begin[ROWS], torch.ones(len(ROWS))).covariance
    slopes = measure_slopes(trainer, second, covariance.diagonal().sqrt(), marginal_poses=False)
    told = linearised(trainer.latents.values[second], slopes, covariance)
    means, covariances = mixtures[0].posterior(told)
    torch.testing.assert_close(means, last, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(known.covariances[second], covariances, rtol=1e-3, atol=1e-5)


def test_denoised_latents_are_where_the_posterior_says(trainer):
    """They move towards the others, not away: their spread shrinks; none is moved that is not asked for."""
    others, before = np.setdiff1d(np.arange(COUNT), ROWS), trainer.latents.values.clone()
    known = denoise_latents(trainer, ROWS, np.ones(COUNT), components=1, marginal_poses=False)
    after = trainer.latents.values
    assert torch.equal(after[others], before[others]) and not torch.equal(after[ROWS], before[ROWS])
    assert (torch.linalg.eigvalsh(known.covariances) > 0).all()
    first, second = (latent_prior(each[ROWS], torch.ones(len(ROWS))).covariance for each in (before, after))
    assert torch.logdet(second) < torch.logdet(first)


def test_denoising_depends_on_the_seed_alone(trainer):
    begin, found = trainer.latents.values.clone(), []
    for chunk in (5, 5, 9):
        trainer.chunk = chunk
        trainer.latents.table.values = begin.clone()
        denoise_latents(trainer, ROWS, np.ones(COUNT), components=4, marginal_poses=False)
        found.append(trainer.latents.values.clone())
    assert torch.equal(found[0], found[1])
    torch.testing.assert_close(found[0], found[2], rtol=1e-2, atol=1e-3)


def test_where_no_image_fits_all_go_to_the_mean(trainer):
    known = denoise_latents(trainer, ROWS, np.zeros(COUNT), components=4, marginal_poses=False)
    torch.testing.assert_close(trainer.latents.values[ROWS], known.ensemble.mean.float().expand(len(ROWS), 2))
    torch.testing.assert_close(known.covariances[ROWS], known.ensemble.covariance.expand(len(ROWS), 2, 2))


# --- when it happens ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"z_components": 0},
        {"encoder": "mlp"},
        {"encoder": "mlp", "variational": True},
        {"homogeneous": True},
        {"poses": "esl", "pose_loss": "expected"},
    ],
)
def test_some_runs_denoise_nothing(folder, changes):
    assert are_latents_denoised(settings(folder))
    config = settings(folder, **changes)
    assert not are_latents_denoised(config)
    assert held_from(config, Schedule(6, 1, 0.4, lr=1.0, bead_lr=1.0, z_lr=1.0)) == float("inf")


@pytest.mark.parametrize("changes", [{"z_components": 0}, {"encoder": "mlp"}, {"homogeneous": True}])
def test_their_latents_are_not_touched(folder, tmp_path, monkeypatch, changes):
    def fail(*arguments: object, **options: object) -> None:
        raise AssertionError("denoised")

    refined = []
    for place in (loop, __import__("cryoatom.training.train", fromlist=["train"])):
        monkeypatch.setattr(place, "denoise_latents", fail)
    refine = loop.refine_latents
    monkeypatch.setattr(
        loop,
        "refine_latents",
        lambda trainer, *a: (refine(trainer, *a), refined.append(trainer.latents.values.clone())),
    )
    run = train(quick(folder, tmp_path, uncertainty=False, **changes), is_checked=True)
    if "homogeneous" in changes:
        assert not refined
    else:
        assert torch.equal(torch.from_numpy(np.load(run.latents())), refined[0])  # as the old path leaves them


@pytest.mark.parametrize("epochs", [1, 2, 5, 20])
@pytest.mark.parametrize("decay", [0.0, 0.3, 0.4, 0.9, 1.0])
@pytest.mark.parametrize("stalled", [None, 1, 3, 7])
def test_latents_are_free_for_half_of_a_run_and_until_rates_fall(folder, epochs, decay, stalled):
    schedule = Schedule(epochs, 1, decay, lr=1.0, bead_lr=1.0, z_lr=1.0)
    if stalled is not None and stalled < schedule.decay_start:
        schedule = schedule.ended_early(stalled)
    for warmup in (0, 3):
        first = held_from(settings(folder, warmup=warmup), schedule)
        assert first >= max(0.5 * schedule.epochs, schedule.decay_start)
        assert first >= max(1, warmup) + 1  # images are weighed by then, and have had an epoch of it


# --- whole runs -----------------------------------------------------------------------------------------------------


def same(first: RunFolder, second: RunFolder) -> None:
    names = ["z.npy", "conformations.npy"]
    names += ["z_covariance.npy", "uncertainty.npy"] if first.uncertainty.is_file() else []
    for name in names:
        np.testing.assert_array_equal(np.load(first.path / name), np.load(second.path / name), err_msg=name)
    assert first.image_report.read_text() == second.image_report.read_text()
    a, b = (torch.load(each.weights()) for each in (first, second))
    assert all(torch.equal(value, b["model"][name]) for name, value in a["model"].items())


def resumed(whole: RunFolder, after: int, config: TrainConfig) -> RunFolder:
    """The run as if it had been killed after an epoch, and gone on."""
    folder = RunFolder(config.outdir)
    folder.path.mkdir()
    shutil.copy(whole.weights(after), folder.weights(after))
    return train(config.model_copy(update={"load": "latest"}))


def test_latents_stay_at_their_posterior_means_while_rates_fall(run):
    training, held_out = split_rows(COUNT, 0.1, 0)
    z = [np.load(run.latents(epoch)) for epoch in range(1, EPOCHS + 1)]
    for first, second in zip(z[:HELD], z[1 : HELD + 1], strict=True):  # the last pair: they go there
        assert (first[training] != second[training]).any(axis=1).all()
    np.testing.assert_array_equal(z[HELD][training], z[HELD + 1][training])
    assert (z[HELD][held_out] != z[HELD + 1][held_out]).all()  # which train nothing, and are followed
    assert (np.load(run.latents())[training] != z[-1][training]).any(axis=1).all()  # by the final decoder, once more


def test_a_run_leaves_positive_covariances(run):
    covariance = np.load(run.latent_covariance)
    assert covariance.shape == (COUNT, 2, 2) and np.isfinite(covariance).all()
    np.testing.assert_array_equal(covariance, covariance.transpose(0, 2, 1))
    assert (np.linalg.eigvalsh(covariance.astype(np.float64)) > 0).all()


@pytest.mark.parametrize("after", range(1, EPOCHS + 1))
def test_a_run_killed_after_any_epoch_is_the_uninterrupted_one(run, folder, tmp_path, after):
    again = resumed(run, after, quick(folder, tmp_path / "run"))
    same(run, again)
    for epoch in range(after + 1, EPOCHS + 1):
        np.testing.assert_array_equal(np.load(again.latents(epoch)), np.load(run.latents(epoch)))


@pytest.mark.parametrize(
    ("options", "after"),
    [({"pose_lr": 0.2, "checkpoint": 3}, 3), ({"decay": 0.0}, 4)],
)
def test_other_runs_too(folder, tmp_path, options, after):
    config = quick(folder, tmp_path / "whole", uncertainty=False, **options)
    whole = train(config, is_checked=True)
    same(whole, resumed(whole, after, config.model_copy(update={"outdir": tmp_path / "again"})))


def test_a_run_that_ends_early_too(folder, tmp_path, monkeypatch):
    """Nothing is gained on held-out images: rates fall after two epochs, three more follow, the last two of them held.

    Killed before they are (test_train has other epochs).
    """
    follow = loop.follow_held_out
    monkeypatch.setattr(loop, "follow_held_out", lambda *arguments: follow(*arguments) | {"nll": 1.0})
    options = {"num_epochs": 9, "patience": 1, "decay": 0.3, "uncertainty": False}
    config, (training, _) = quick(folder, tmp_path / "whole", **options), split_rows(COUNT, 0.1, 0)
    whole = train(config, is_checked=True)
    assert whole.latest_checkpoint() == whole.weights(5)
    z = [np.load(whole.latents(epoch))[training] for epoch in range(1, 6)]
    is_held = [np.array_equal(first, second) for first, second in zip(z[:-1], z[1:], strict=True)]
    assert is_held == [False, False, False, True]
    same(whole, resumed(whole, 3, config.model_copy(update={"outdir": tmp_path / "again"})))


def test_junk_and_dead_images_are_as_any_of_the_ensemble(tmp_path):
    """Of 120 images 12 are noise and two are flat. Noise goes to the ensemble's mean, and is known as badly as any."""
    count, noise = 120, np.random.default_rng(3)
    particles = write_dataset(tmp_path, count)
    stack, junk, dead = open_stack(particles.stacks[0]).read(np.arange(count)), np.arange(0, count, 10), [5, 55]
    stack[junk] = noise.normal(size=stack[junk].shape)
    stack[dead] = 0.0
    write_stack(tmp_path / "particles.mrcs", stack, PIXEL_SIZE)
    run = train(quick(tmp_path, num_epochs=5), is_checked=True)
    z, covariance = np.load(run.latents()), np.load(run.latent_covariance).astype(np.float64)
    for values in (z, covariance, np.load(run.conformations), np.load(run.uncertainty)):
        assert np.isfinite(values).all()
    good = np.setdiff1d(np.arange(count), np.concatenate([junk, dead]))
    away, spread = z - z[good].mean(axis=0), np.cov(z[good].T)
    distance = np.sqrt((away @ np.linalg.inv(spread) * away).sum(axis=1))  # in deviations of the ensemble
    assert np.median(distance[junk]) < 0.3 and np.median(distance[good]) > 0.8
    volume = np.sqrt(np.linalg.det(covariance) / np.linalg.det(spread))
    assert np.median(volume[good]) < 0.6 * np.median(volume[junk]) and np.median(volume[junk]) > 0.8
    assert (volume[dead] > 0.8).all() and (np.linalg.eigvalsh(covariance) > 0).all()
