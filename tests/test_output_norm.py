"""The learnable output norm, and how little a constant added to images could explain."""

import numpy as np
import pytest
import torch
from fits import BOX, PIXEL_SIZE, SCALE, bent, settings, small_template, trainer_of, write_dataset

from cryoatom.geometry import random_rotations
from cryoatom.imaging.beads import BeadModel, bead_layout
from cryoatom.imaging.direct import direct_nll, simulate_images
from cryoatom.imaging.output_norm import OutputNorm
from cryoatom.records import Optics


def beads(norm: OutputNorm | None = None) -> BeadModel:
    return BeadModel(bead_layout(small_template(), "ca"), small_template(), PIXEL_SIZE, norm)


def test_it_starts_at_one_and_changes_nothing():
    norm = OutputNorm()
    assert norm().item() == 1
    torch.testing.assert_close(beads(norm).amplitudes(), beads().amplitudes())


def test_it_divides_projections():
    norm = OutputNorm()
    torch.nn.init.constant_(norm.readout.bias, -4.0)  # of either sign
    assert norm().item() == 4
    torch.testing.assert_close(4 * beads(norm).amplitudes(), beads().amplitudes())


@pytest.mark.parametrize("rate", [1e-2, 1e-3])
def test_a_step_moves_it_by_about_the_rate(rate):
    """However wide it is: it learns at the rate of bead masses, which are single numbers."""
    torch.manual_seed(0)
    norm = OutputNorm()
    optimizer = torch.optim.Adam(norm.parameters(), lr=rate)
    values = [1.0]
    for _ in range(20):
        optimizer.zero_grad()
        norm().backward()
        optimizer.step()
        values.append(norm().item())
    steps = -np.diff(values) / rate
    assert (steps > 0.5).all() and (steps < 5).all()


@pytest.mark.parametrize("output_norm", ["scale", "mlp"])
def test_training_finds_the_scale_by_either(tmp_path, output_norm):
    write_dataset(tmp_path, 30)
    config = settings(tmp_path, output_norm=output_norm, bead_lr=0.1, num_epochs=15, decay=0, fit_beads=False)
    with trainer_of(config) as trainer:
        model = trainer.model.beads
        with torch.no_grad():
            model.log_scale.fill_(float(np.log(0.6 * SCALE)))
        for parameter in trainer.model.decoder.parameters():
            parameter.requires_grad_(False)
        trainer.parameters = [p for p in trainer.model.parameters() if p.requires_grad]
        start = model.log_scale.item()
        for epoch in range(15):
            trainer.train_epoch(epoch, np.arange(30))
        factor = (model.amplitudes() / model.electrons).mean().item()
        assert factor == pytest.approx(SCALE, rel=0.15)  # the template is not quite what is in the images
        assert (model.log_scale.item() == start) == (output_norm == "mlp")


def test_a_constant_has_nothing_to_explain():
    """μ̂ of Prins: the best constant over a data set, by the direct model, beside what the particle explains.

    Images have the mean of their background taken away, as `cryoatom train` does.
    """
    count = 600
    generator, template = np.random.default_rng(0), small_template()
    model = BeadModel(bead_layout(template, "atoms"), template, PIXEL_SIZE)
    constants = {"voltage_kv": 300.0, "cs_mm": 2.7, "amplitude_contrast": 0.1, "phase_shift": 0.0, "defocus_angle": 0.0}
    defocus = generator.uniform(8e3, 2e4, count)
    optics = Optics(defocus_u=defocus, defocus_v=defocus, **{k: np.full(count, v) for k, v in constants.items()})
    with torch.no_grad():
        truth = torch.from_numpy(bent(generator.uniform(-6, 6, count))).float()
        centers = model.project(truth, torch.from_numpy(random_rotations(count, generator)).float())
        clean = simulate_images(centers, model.amplitudes(), model.variances(), optics, BOX, PIXEL_SIZE)
    images = clean + torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    axis = torch.arange(BOX) - BOX // 2
    background = (axis[:, None] ** 2 + axis**2).float().sqrt() > 0.4 * BOX
    images = images - images[:, background].mean(dim=1)[:, None, None]

    without = direct_nll(images, clean)
    best = (images - clean).mean()
    gain = (without - direct_nll(images, clean + best)).mean().item()
    particle = (direct_nll(images, torch.zeros_like(clean)) - without).mean().item()
    assert 0 <= gain < 0.1 and particle > 50 * gain
