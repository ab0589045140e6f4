"""Latents of an encoder: gradients, what trains it, what a checkpoint keeps, draws, and what is left at the end."""

import threading
from typing import Any

import numpy as np
import pytest
import torch
from fits import settings, small_template, trainer_of

import cryoatom
from cryoatom.gaussians import divergence_from_normal
from cryoatom.run_folder import RunFolder
from cryoatom.training.checkpoint import load_checkpoint, save_checkpoint
from cryoatom.training.encoding import EncodedLatents
from cryoatom.training.fit import follow_held_out, refine_latents, start_scale
from cryoatom.training.latents import LatentTable
from cryoatom.training.stage import silent
from cryoatom.training.train import train
from cryoatom.training.trainer import Trainer
from cryoatom.workers import Workers

COUNT = 41
ROWS = np.arange(COUNT)
CNN: dict[str, Any] = {"encoder": "cnn", "decoder": "mlp", "enc_dim": 16, "enc_layers": 2, "zdim": 3, "lr": 1e-2}
VAE: dict[str, Any] = CNN | {"variational": True}


@pytest.fixture(scope="module")
def folder(folder):
    with trainer_of(settings(folder)):  # fills the cache
        return folder


def encoded(trainer: Trainer) -> EncodedLatents:
    assert isinstance(trainer.latents, EncodedLatents)
    return trainer.latents


def network_of(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in encoded(trainer).network.state_dict().items()}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


def open_readout(trainer: Trainer) -> None:
    """An untrained decoder passes no gradient on to latents."""
    torch.manual_seed(5)
    torch.nn.init.normal_(trainer.model.decoder.get_parameter("readout.weight"), std=0.1)


def reads(trainer: Trainer, rows: np.ndarray) -> torch.Tensor:
    """What the network says of images now, as latents."""
    latents = encoded(trainer)
    latents.network.eval()
    with torch.no_grad():
        return latents.network(latents._read_crops(rows))[:, : latents.values.shape[1]]


@pytest.mark.parametrize(("changes", "threads"), [(CNN, 1), (CNN, 2), (VAE, 1), (CNN | {"encoder": "mlp"}, 1)])
def test_gradients_are_those_of_the_encoder_inside_the_objective(folder, changes, threads):
    """The twin: network, draws, objective and divergence of the whole batch, by autograd."""
    with trainer_of(settings(folder, None, batch_size=64, kl=0.3, wd=0.0, threads=threads, **changes)) as trainer:
        open_readout(trainer)
        latents, images = encoded(trainer), torch.from_numpy(ROWS)
        twin = torch.Generator().manual_seed(trainer.seed)
        output = latents.network.train()(latents._read_crops(ROWS))
        drawn, cost = output, torch.zeros(COUNT)
        if "variational" in changes:
            mean, log_variance = output.chunk(2, dim=1)
            drawn = mean + torch.randn(mean.shape, generator=twin) * (0.5 * log_variance).exp()
            cost = 0.3 * divergence_from_normal(mean, log_variance)
        terms = trainer.objective(trainer.model, drawn, trainer.batch(ROWS))
        parameters = list(latents.network.parameters())
        expected = torch.autograd.grad((terms["loss"] + cost).mean(), parameters)

        latents.prepare(images, is_training=True)
        found, gradients = trainer._gradients(ROWS, trainer.parameters)
        latents.step(images, gradients[0], 0.0)
        torch.testing.assert_close(found["loss"], (terms["loss"] + cost).detach(), rtol=1e-4, atol=1e-3)
        if "variational" in changes:
            torch.testing.assert_close(found["kl"], cost.detach())
        for parameter, gradient in zip(parameters, expected, strict=True):
            assert parameter.grad is not None and gradient.abs().sum() > 0
            torch.testing.assert_close(parameter.grad, gradient, rtol=2e-3, atol=1e-3 * gradient.abs().max().item())


def test_the_divergence_is_that_of_torch():
    mean, log_variance = torch.randn(2, 7, 4, generator=torch.Generator().manual_seed(0))
    normal = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    expected = torch.distributions.kl_divergence(normal, torch.distributions.Normal(0.0, 1.0)).sum(dim=1)
    torch.testing.assert_close(divergence_from_normal(mean, log_variance), expected)
    assert not divergence_from_normal(torch.zeros(2, 3), torch.zeros(2, 3)).any()


def test_the_rate_is_lr_times_the_schedule(folder):
    """The first step of Adam moves each weight by its rate."""
    with trainer_of(settings(folder, None, batch_size=64, warmup=4, decay=0, **CNN | {"lr": 4e-3})) as trainer:
        open_readout(trainer)
        before = network_of(trainer)
        trainer.train_epoch(0, ROWS)
        moved = (encoded(trainer).network.state_dict()["network.0.weight"] - before["network.0.weight"]).abs()
        assert moved.median().item() == pytest.approx(1e-3, rel=1e-2)


@pytest.mark.parametrize("changes", [CNN, VAE])
def test_a_resumed_run_goes_on_as_if_it_had_not_stopped(folder, tmp_path, changes):
    def open_trainer():
        return trainer_of(settings(folder, None, **changes))

    with open_trainer() as whole, open_trainer() as first, open_trainer() as second:
        for trainer in (whole, first):
            open_readout(trainer)
            trainer.train_epoch(0, ROWS)
        history = [{"epoch": 1.0}]
        save_checkpoint(tmp_path / "weights.pkl", first, history, {})
        assert load_checkpoint(tmp_path / "weights.pkl", second) == (history, None)
        terms = [trainer.train_epoch(1, ROWS) for trainer in (whole, second)]
        assert terms[0] == terms[1]
        assert same(network_of(whole), network_of(second))
        assert same(whole.model.state_dict(), second.model.state_dict())
        assert torch.equal(whole.latents.values, second.latents.values)
        save_checkpoint(tmp_path / "last.pkl", whole, history, {})
        assert isinstance(second.latents, EncodedLatents)
        whole.latents = whole.latents.settled(whole.batches(ROWS))
        save_checkpoint(tmp_path / "settled.pkl", whole, history, {})
        load_checkpoint(tmp_path / "settled.pkl", second)
        assert isinstance(second.latents, LatentTable)  # what the run left; there is no network any more


def test_only_training_images_train_it(folder):
    training, held_out = np.arange(0, 30), np.arange(30, COUNT)
    with trainer_of(settings(folder, None, **CNN)) as trainer:
        open_readout(trainer)
        start = trainer.latents.values.clone()
        trainer.train_epoch(0, training)
        assert torch.equal(trainer.latents.values[30:], start[30:])
        assert (trainer.latents.values[:30] != start[:30]).any(dim=1).all()
        network, optimizer = network_of(trainer), str(encoded(trainer)._optimizer.state_dict())
        follow_held_out(trainer, held_out, 0)
        assert same(network, network_of(trainer))  # running means of the batch normalisation included
        assert optimizer == str(encoded(trainer)._optimizer.state_dict())
        torch.testing.assert_close(trainer.latents.values[30:], reads(trainer, held_out))


def test_draws_are_random_in_training_alone_and_follow_the_seed(folder):
    drawn = []
    for seed in (0, 0, 1):
        with trainer_of(settings(folder, None, **VAE, seed=seed)) as trainer:
            images = torch.arange(9)
            trainer.latents.prepare(images, is_training=True)
            first = trainer.latents.read(images)
            assert not torch.equal(first, trainer.latents.values[:9])  # the mean is what is kept
            assert torch.equal(trainer.latents.read(images.flip(0)), first.flip(0))
            trainer.latents.prepare(images, is_training=True)
            assert not torch.equal(trainer.latents.read(images), first)
            drawn.append(first)
            trainer.latents.prepare(images, is_training=False)
            assert torch.equal(trainer.latents.read(images), trainer.latents.values[:9])
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


def test_the_divergence_is_in_the_loss(folder):
    with trainer_of(settings(folder, None, **VAE, kl=2.0)) as trainer:
        found = trainer.train_epoch(0, ROWS)
        assert found["kl"] > 0
        assert found["loss"] == pytest.approx(sum(found[name] for name in found if name != "loss"), rel=1e-5)
        with trainer_of(settings(folder, None, **VAE, kl=0.0)) as free:
            assert free.train_epoch(0, ROWS)["kl"] == 0


@pytest.mark.parametrize("changes", [CNN, VAE])
def test_it_settles_into_what_the_final_network_says(folder, changes):
    with trainer_of(settings(folder, None, **changes)) as trainer:
        open_readout(trainer)
        trainer.train_epoch(0, ROWS)
        visited, weights = trainer.latents.values.clone(), network_of(trainer)["network.0.weight"]
        encoder = encoded(trainer)
        trainer.latents = encoder.settled(trainer.batches(ROWS))
        table, trainer.latents = trainer.latents, encoder
        expected = reads(trainer, ROWS)
        assert isinstance(table, LatentTable) and torch.equal(network_of(trainer)["network.0.weight"], weights)
        assert not torch.allclose(table.values, visited, atol=1e-3)  # those of the images' last visits
        torch.testing.assert_close(table.values, expected, atol=1e-5, rtol=1e-4)
        trainer.latents = table
        trainer.fit_latents(ROWS, 1.0)  # free now
        assert (table.values != expected).any(dim=1).all()


def test_batch_normalisation_ends_with_the_statistics_of_all_batches(folder):
    with trainer_of(settings(folder, None, batch_size=64, **CNN)) as trainer:
        encoder = encoded(trainer)
        network = encoder.network
        encoder.settled(trainer.batches(ROWS))
        convolved = network.get_submodule("network.0")(encoder._read_crops(ROWS)[:, None])
        normalisation = network.get_submodule("network.1")
        torch.testing.assert_close(normalisation.running_mean, convolved.mean(dim=(0, 2, 3)), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(normalisation.running_var, convolved.var(dim=(0, 2, 3)), atol=1e-5, rtol=1e-3)


def test_training_and_then_refining_lower_the_objective(folder):
    config = settings(folder, None, num_epochs=5, batch_size=14, z_passes=4, **CNN, r2=10.0)
    with trainer_of(config) as trainer:
        start_scale(trainer, ROWS)
        values = [trainer.losses(ROWS).mean().item()]
        for epoch in range(5):
            trainer.train_epoch(epoch, ROWS)
        trainer.latents = trainer.latents.settled(trainer.batches(ROWS))
        values.append(trainer.losses(ROWS).mean().item())
        refine_latents(trainer, 4, silent)
        values.append(trainer.losses(ROWS).mean().item())
        assert values[0] > values[1] > values[2]


def test_a_run_and_each_of_its_epochs_can_be_opened(folder, tmp_path):
    quiet: dict[str, Any] = {"uncertainty": False, "analysis": False, "dcd": False, "train_on": "odd"}
    config = settings(folder, tmp_path / "run", num_epochs=2, **VAE, **quiet)
    train(config)
    run, first = cryoatom.load(config.outdir), cryoatom.load(config.outdir, 1)
    assert run.latents.shape == first.latents.shape == (COUNT, 3)
    assert not np.array_equal(run.latents, first.latents)
    assert first.decode(first.latents[:2]).shape == (2, len(small_template()), 3)
    np.testing.assert_allclose(run.decode(run.latents), np.load(RunFolder(config.outdir).conformations), atol=1e-3)


@pytest.mark.parametrize("half", ["odd", "even"])
def test_with_half_of_the_images_all_are_encoded(folder, tmp_path, half):
    quiet: dict[str, Any] = {"uncertainty": False, "analysis": False, "dcd": False, "z_passes": 0}
    config = settings(folder, tmp_path / half, num_epochs=2, train_on=half, **CNN, **quiet)
    train(config)
    run = cryoatom.load(config.outdir)
    with trainer_of(config) as trainer:
        load_checkpoint(RunFolder(config.outdir).weights(2), trainer)
        encoded(trainer).settled(trainer.batches(ROWS))
        np.testing.assert_allclose(run.latents, trainer.latents.values.numpy(), atol=1e-4)


def test_the_network_has_all_cores_of_the_workers_and_gives_them_back():
    seen = []
    before = torch.get_num_threads()
    with Workers(3) as workers:
        with workers.idle():
            seen.append(torch.get_num_threads())
        seen.append(torch.get_num_threads())
        seen += workers.map(lambda _: torch.get_num_threads() * (threading.current_thread().name != "MainThread"), [0])
        with pytest.raises(ValueError, match="lost"), workers.idle():
            raise ValueError("lost")
        seen.append(torch.get_num_threads())
    assert seen == [3, 1, 1, 1] and torch.get_num_threads() == before
