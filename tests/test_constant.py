"""One conformation for all images."""

import numpy as np
import pytest
import torch
from fits import settings, trainer_of, write_dataset

from cryoatom.decoders.constant import ConstantDecoder
from cryoatom.training.train import train


def test_all_images_have_the_same_displacements_and_latents_no_gradient():
    decoder = ConstantDecoder(7)
    torch.nn.init.normal_(decoder.displacements)
    z = torch.randn(5, 3, requires_grad=True)
    moved = decoder(z)
    assert moved.shape == (5, 7, 3)
    assert (moved == decoder.displacements).all()
    (of_latents,) = torch.autograd.grad(moved.square().sum(), z, retain_graph=True)
    assert (of_latents == 0).all()
    (of_points,) = torch.autograd.grad(moved.sum(), decoder.displacements)
    assert (of_points == 5).all()


@pytest.mark.parametrize("changes", [{}, {"decoder": "mlp"}, {"encoder": "mlp", "variational": True}])
def test_homogeneous_wins_over_decoder_and_encoder(tmp_path, changes):
    write_dataset(tmp_path, 12)
    with trainer_of(settings(tmp_path, homogeneous=True, held_out=0.0, **changes)) as trainer:
        before = trainer.latents.values.clone()
        for epoch in range(2):
            trainer.train_epoch(epoch, np.arange(12))
        conformations = trainer.decode(np.arange(12))
        assert (conformations == conformations[0]).all()
        assert np.abs(conformations[0] - trainer.model.template_positions.numpy()).max() > 1e-3
        torch.testing.assert_close(trainer.latents.values, before, atol=0, rtol=0)


def test_a_run_of_one_conformation_needs_no_encoder(tmp_path):
    write_dataset(tmp_path, 12)
    run = train(settings(tmp_path, homogeneous=True, held_out=0.0, preset="cryofold", num_epochs=1))
    assert run.homogeneous.exists() and not run.uncertainty.exists()
