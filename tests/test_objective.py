"""The objective against its parts, each evaluated on its own."""

import numpy as np
import pytest
import torch
from fits import bent, settings, small_template, trainer_of, write_dataset
from reference import bond_loop, center_loop, rigidity_loop

from cryoatom.imaging.direct import simulate_images
from cryoatom.particles.stack import ImageStack
from cryoatom.particles.table import read_particles
from cryoatom.training.assemble import build_objective
from cryoatom.training.objective import Weights

COUNT = 6


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_dataset(folder, COUNT)
    return settings(folder, r0=2.0, r1=3.0, r2=5.0, r2_tolerance=0.0, z_prior=0.7)


@pytest.fixture
def trainer(config):
    with trainer_of(config) as trainer:
        torch.manual_seed(0)
        torch.nn.init.normal_(trainer.model.decoder.readout.weight, std=0.3)
        trainer.model.beads.log_scale.data += -0.5
        yield trainer


def test_every_term_is_its_weight_times_the_papers(trainer):
    latents = trainer.latents.values.clone()
    terms = trainer.objective(trainer.model, latents, trainer.batch(np.arange(COUNT)))
    assert all(value.shape == (COUNT,) for value in terms.values())  # one value per particle, unreduced
    x = trainer.model.decode(latents).detach().double()
    start, template = torch.from_numpy(small_template().positions), small_template()
    loops = {
        "r0": [2.0 * center_loop(one, start) for one in x],
        "r1": [3.0 * bond_loop(one, start, template.bonded.tolist()) for one in x],
        "r2": [5.0 * rigidity_loop(one, start, template.chain_position, 0.25) for one in x],
        "prior": [0.35 * z @ z for z in latents],
    }
    for name, values in loops.items():
        torch.testing.assert_close(terms[name].double(), torch.stack(values).double(), rtol=1e-4, atol=1e-6)
    assert set(terms) == {"nll", "r0", "r1", "r2", "prior", "loss", "cross", "power"}
    added = sum(terms[name] for name in ("nll", "r0", "r1", "r2", "prior"))
    torch.testing.assert_close(terms["loss"], added)
    torch.testing.assert_close(terms["nll"], 0.5 * terms["power"] - terms["cross"])


def test_the_likelihood_is_that_of_the_images_with_shifts_and_ctf(config, trainer):
    particles = read_particles(config.particles)
    images = ImageStack(particles).read_normalized(np.arange(COUNT), 0.4 * 40 * 2.0)
    rows, model = np.array([4, 1, 5]), trainer.model
    assert particles.poses is not None
    x = torch.from_numpy(bent(np.array([3.0, -2.0, 0.0]))).float()
    with torch.no_grad():
        centers = model.beads.project(x, trainer.poses.rotations[rows])
        centers = centers + torch.from_numpy(particles.poses.shifts[rows])[:, None].float()
        beads = (centers, model.beads.amplitudes(), model.beads.variances())
        prediction = simulate_images(*beads, particles.optics[rows], 40, 2.0)
        found = trainer.objective.image_terms(model, x, trainer.batch(rows))["nll"]
    expected = 0.5 * prediction.square().sum(dim=(1, 2)) - (prediction * images[rows]).sum(dim=(1, 2))
    assert expected.abs().min() > 5
    torch.testing.assert_close(found, expected, rtol=0.01, atol=0.5)  # images of 2 Å pixels hold aliases of the beads


def test_the_gradient_of_the_latents_is_that_of_finite_differences(trainer):
    batch = trainer.batch(np.arange(2))
    latents = trainer.latents.values[:2].clone().requires_grad_()

    def loss(z: torch.Tensor) -> torch.Tensor:
        return trainer.objective(trainer.model, z, batch)["loss"]

    (found,) = torch.autograd.grad(loss(latents).sum(), latents)
    step, expected = 1e-2, torch.zeros_like(found)
    with torch.no_grad():
        for row in range(2):
            for column in range(latents.shape[1]):
                change = torch.zeros_like(latents)
                change[row, column] = step
                expected[row, column] = (loss(latents + change) - loss(latents - change))[row] / (2 * step)
    assert (found - expected).norm() < 0.02 * expected.norm()


@pytest.mark.parametrize("column", range(5))
def test_the_gradient_of_the_poses_is_that_of_finite_differences(trainer, column):
    rows, latents, tangents = np.array([3, 0]), trainer.latents.values[[3, 0]], torch.zeros(2, 5)

    def loss(moved: torch.Tensor) -> torch.Tensor:
        return trainer.objective(trainer.model, latents, trainer.batch(rows, moved))["loss"]

    (found,) = torch.autograd.grad(loss(tangents.requires_grad_()).sum(), tangents)
    change = torch.zeros(2, 5)
    change[:, column] = 3e-3
    with torch.no_grad():
        expected = (loss(change) - loss(-change)) / (2 * 3e-3)
        assert torch.equal(
            loss(torch.zeros(2, 5)), trainer.objective(trainer.model, latents, trainer.batch(rows))["loss"]
        )
    torch.testing.assert_close(found[:, column], expected, rtol=0.02, atol=0.01 * float(found.norm()))
    assert found[:, column].abs().max() > 1


def test_terms_without_weight_are_left_out(config, trainer):
    nothing = build_objective(
        config.model_copy(update={"r0": 0, "r1": 0, "r2": 0, "z_prior": 0}), small_template(), 2.0
    )
    terms = nothing(trainer.model, trainer.latents.values, trainer.batch(np.arange(COUNT)))
    assert set(terms) == {"nll", "loss", "cross", "power"} and torch.equal(terms["nll"], terms["loss"])
    assert nothing.weights == Weights(0, 0, 0, 0)


def test_the_profiled_likelihood_needs_no_scale(config, trainer):
    profiled = build_objective(config.model_copy(update={"likelihood": "profiled"}), small_template(), 2.0)
    batch, latents = trainer.batch(np.arange(COUNT)), trainer.latents.values
    before = profiled(trainer.model, latents, batch)["nll"]
    trainer.model.beads.log_scale.data += 1.3
    torch.testing.assert_close(profiled(trainer.model, latents, batch)["nll"], before, rtol=1e-4, atol=1e-4)
    gaussian = trainer.objective(trainer.model, latents, batch)["nll"]
    assert (gaussian >= before - 1e-3).all()  # its best over scales
