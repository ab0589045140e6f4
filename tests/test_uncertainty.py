"""Posteriors of latents: against their definition, and against what a second draw of noise does."""

import numpy as np
import pytest
import torch
from fits import PIXEL_SIZE, settings, trainer_of, write_dataset
from particle_data import write_stack

from cryoatom.analysis.run import load
from cryoatom.files.mrc import open_stack
from cryoatom.imaging.likelihood import quadratic_form
from cryoatom.run_folder import RunFolder
from cryoatom.training.latent_mixture import LatentPrior, latent_prior
from cryoatom.training.train import train
from cryoatom.training.uncertainty import (
    ImageUncertainty,
    _internal,
    fisher_information,
    image_posterior,
    measure_uncertainty,
)

COUNT = 41


@pytest.fixture(scope="module")
def run(folder):
    return train(settings(folder, zdim=2, num_epochs=6))


@pytest.fixture
def trainer(folder, run):
    from cryoatom.training.checkpoint import load_checkpoint

    with trainer_of(settings(folder, zdim=2)) as trainer:
        load_checkpoint(run.weights(), trainer)
        yield trainer


def posterior(trainer, *, fits: float = 1.0, marginal_poses: bool = False, prior: LatentPrior | None = None):
    prior = latent_prior(trainer.latents.values, torch.ones(COUNT)) if prior is None else prior
    probability = torch.full((COUNT,), fits)
    return image_posterior(trainer, np.arange(8), prior=prior, fits=probability, marginal_poses=marginal_poses)


def test_the_information_of_one_direction_is_its_quadratic_form(trainer):
    generator = torch.Generator().manual_seed(0)
    batch = trainer.batch(np.arange(4))
    views = torch.randn(4, 3, *batch.crops.shape[1:], generator=generator)
    information = fisher_information(views, batch.kernels)
    for direction in range(3):
        torch.testing.assert_close(
            information[:, direction, direction], quadratic_form(views[:, direction], batch.kernels), rtol=1e-3, atol=1
        )
    torch.testing.assert_close(information, information.mT, rtol=1e-3, atol=1)


def test_the_information_is_the_curvature_of_the_expected_likelihood(trainer):
    """-log p of an image that is the model's own projection rises by ½ δᵀ F δ."""
    prior = LatentPrior(torch.zeros(2).double(), 1e6 * torch.eye(2).double())  # tells nothing
    precision = torch.linalg.inv(posterior(trainer, prior=prior).covariance.double())
    rows = torch.arange(8)
    batch, latents = trainer.batch(rows.numpy()), trainer.latents.read(rows)
    delta = 0.05 * torch.tensor([0.8, -0.6])
    with torch.no_grad():
        own, moved = (
            trainer.model.render(
                trainer.model.decode(z),
                batch.rotations,
                batch.shifts,
                batch.crops.shape[-1],
                trainer.data.grid.coarse_pixel,
            )
            for z in (latents, latents + delta)
        )
    rise = 0.5 * quadratic_form(moved - own, batch.kernels)
    expected = 0.5 * torch.einsum("k,nkl,l->n", delta.double(), precision, delta.double())
    torch.testing.assert_close(rise.double(), expected, rtol=0.15, atol=0.01)


def test_an_image_that_does_not_fit_is_as_unknown_as_any_of_the_ensemble(trainer):
    known, half, unknown = posterior(trainer), posterior(trainer, fits=0.5), posterior(trainer, fits=0.0)
    torch.testing.assert_close(unknown.information, torch.zeros(8), rtol=0, atol=1e-4)
    torch.testing.assert_close(unknown.left, torch.ones(8))
    torch.testing.assert_close(half.covariance, 0.5 * (known.covariance + unknown.covariance))
    assert (known.information > half.information).all() and (half.information > 0).all()
    assert (known.left < half.left).all() and (half.left < 1).all()
    prior = latent_prior(trainer.latents.values, torch.ones(COUNT))
    away = trainer.latents.values[:8].double() - prior.mean
    expected = prior.covariance + away[:, :, None] * away[:, None]
    torch.testing.assert_close(unknown.covariance.double(), expected, rtol=1e-4, atol=1e-6)


def test_a_linear_decoder_pushes_the_covariance_on_as_a_derivative_does(trainer, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    slope = torch.randn(2, 16, 3, generator=generator)
    start = trainer.model.template_positions
    monkeypatch.setattr(trainer.model, "place", lambda z: start + torch.einsum("nk,krc->nrc", z, slope))
    found = posterior(trainer)
    internal = _internal(slope[None].expand(8, -1, -1, -1), trainer.model.decode(trainer.latents.values[:8]))
    expected = torch.einsum("nkrc,nkl,nlrc->nr", internal, found.covariance, internal).sqrt()
    torch.testing.assert_close(found.residue_sd, expected, rtol=1e-3, atol=1e-5)


def test_a_decoder_that_is_flat_at_an_image_does_not_make_it_well_known(trainer, monkeypatch):
    """Where a step of one deviation moves the molecule, it is not known, whatever the derivative is."""
    start, push = trainer.model.template_positions, torch.zeros(16, 3)
    push[:8, 0] = 5.0
    edge = trainer.latents.values[:8, 0].max() + 0.5  # farther than the step of the derivative, nearer than a deviation
    wide = LatentPrior(torch.full((2,), 10.0).double(), 100 * torch.eye(2).double())
    monkeypatch.setattr(trainer.model, "place", lambda z: start + (z[:, 0] > edge)[:, None, None] * push)
    found = posterior(trainer, prior=wide)
    assert (found.residue_sd.square().mean(dim=1).sqrt() > 1).all() and (found.left > 0.99).all()


def test_an_unknown_pose_leaves_more_open(trainer):
    known, unknown = posterior(trainer), posterior(trainer, marginal_poses=True)
    difference = torch.linalg.eigvalsh(unknown.covariance.double() - known.covariance.double())
    assert (difference > -1e-6).all()
    assert unknown.pose_covariance is not None and known.pose_covariance is None
    angles = torch.rad2deg(unknown.pose_covariance.diagonal(dim1=1, dim2=2)[:, :3].sqrt())
    assert (angles > 0).all() and (angles < 180).all()


def test_a_profiled_scale_leaves_more_open(trainer):
    known = posterior(trainer)
    trainer.objective.nll_is_profiled = True
    trainer.fits.cross = trainer.fits.power.clone()  # scales of 1: what is left is that they are not known
    difference = posterior(trainer).covariance.double() - known.covariance.double()
    assert (torch.linalg.eigvalsh(difference) > -1e-6).all()


def test_a_profiled_scale_does_not_depend_on_the_units_of_the_model(trainer):
    """Twice the overall scale is the same likelihood, so it must be the same uncertainty."""
    trainer.objective.nll_is_profiled = True
    trainer.losses(np.arange(COUNT))
    once = posterior(trainer)
    trainer.model.beads.log_scale.data += float(np.log(2.0))
    trainer.fits.cross, trainer.fits.power = 2 * trainer.fits.cross, 4 * trainer.fits.power
    twice = posterior(trainer)
    torch.testing.assert_close(twice.residue_sd, once.residue_sd, rtol=1e-3, atol=1e-5)


def test_a_rigid_motion_of_the_conformation_is_no_uncertainty(trainer):
    x = trainer.model.template_positions[None]
    turn = torch.linalg.cross(torch.tensor([0.3, -0.2, 0.5]).expand_as(x), x) + torch.tensor([1.0, 2.0, 3.0])
    bend = x.square().flip(-1)
    internal = _internal(torch.stack([turn, bend, bend + turn], dim=1), x)
    torch.testing.assert_close(internal[:, 0], torch.zeros_like(x), atol=1e-4, rtol=0)
    torch.testing.assert_close(internal[:, 1], internal[:, 2], atol=1e-3, rtol=1e-3)
    assert internal[:, 1].norm() > 1


def test_a_run_leaves_what_the_documentation_promises(run):
    sd = np.load(run.uncertainty)
    assert sd.shape == (COUNT, 16) and sd.dtype == np.float16
    assert np.isfinite(sd).all() and (sd > 0).all()
    covariance = np.load(run.latent_covariance)
    assert covariance.shape == (COUNT, 2, 2)
    assert (np.linalg.eigvalsh(covariance) > 0).all()
    header, first = run.image_report.read_text().splitlines()[:2]
    row = dict(zip(header.split(","), first.split(","), strict=True))
    assert float(row["sd"]) == pytest.approx(np.sqrt(np.square(sd[0].astype(float)).mean()), abs=2e-3)
    assert "pose_sd_deg" not in row


def test_the_figures_do_not_depend_on_chunks(trainer, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first = measure_uncertainty(trainer, RunFolder(tmp_path / "a"), np.ones(COUNT), marginal_poses=False)
    trainer.chunk = 7
    second = measure_uncertainty(trainer, RunFolder(tmp_path / "b"), np.ones(COUNT), marginal_poses=False)
    np.testing.assert_allclose(first.sd, second.sd, rtol=1e-2)


def test_images_of_noise_are_not_called_well_known(tmp_path):
    """Of 200 images 20 are noise: they are as unknown as any image of the ensemble, and said to be."""
    particles = write_dataset(tmp_path, 200)
    stack, noise = open_stack(particles.stacks[0]).read(np.arange(200)), np.random.default_rng(3)
    junk = np.arange(0, 200, 10)
    stack[junk] = noise.normal(size=stack[junk].shape)
    write_stack(tmp_path / "particles.mrcs", stack, PIXEL_SIZE)
    run = load(train(settings(tmp_path, zdim=2, num_epochs=8)).path)
    sd, good = run.images["sd"], np.setdiff1d(np.arange(200), junk)
    silent = run.images["is_uninformative"] == 1
    assert silent[junk].mean() > 0.8 and silent[good].mean() < 0.35
    spread = np.sqrt(np.square(run.conformations[good] - run.conformations[good].mean(axis=0)).sum(axis=2).mean())
    assert np.median(sd[junk]) > 0.6 * spread and np.median(sd[junk]) > 2 * np.median(sd[good])


def test_a_run_that_goes_on_without_it_keeps_no_old_uncertainty(folder, tmp_path):
    config = settings(folder, tmp_path / "run", zdim=2, num_epochs=1)
    run = train(config)
    assert run.uncertainty.is_file()
    train(config.model_copy(update={"load": "latest", "uncertainty": False}))
    assert not run.uncertainty.exists() and not run.latent_covariance.exists()


def test_images_without_information_are_named():
    some = ImageUncertainty(np.array([0.3, 0.95]), np.array([0.4, 0.95]), np.array([4.0, 0.1]))
    assert some.is_uninformative.tolist() == [False, True]
