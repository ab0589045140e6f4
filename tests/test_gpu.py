"""What a GPU computes, against a CPU: `pytest -m gpu` on a machine that has one."""

import numpy as np
import pytest
import torch
from fits import settings, trainer_of

from cryoatom.training.feed import ImageFeed
from cryoatom.training.train import train

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here"),
]
ROWS = np.arange(16)


def gradients(folder, tmp_path, **changes) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    with trainer_of(settings(folder, tmp_path, **changes)) as trainer:
        trainer.train_epoch(0, np.arange(len(trainer.data)))
        terms, found = trainer._gradients(ROWS, trainer.parameters)
        return terms, torch.cat([g.flatten().cpu() for g in found])


@pytest.mark.parametrize("changes", [{}, {"pose_lr": 0.5}, {"decoder": "mlp", "encoder": "cnn"}, {"beads": "ca"}])
def test_a_step_is_that_of_the_cpu(folder, tmp_path, changes):
    (terms, found), (expected_terms, expected) = (
        gradients(folder, tmp_path, device=device, **changes) for device in ("cuda", "cpu")
    )
    for name, value in expected_terms.items():
        torch.testing.assert_close(terms[name], value, rtol=1e-3, atol=1e-3 * float(value.abs().max()))
    assert torch.nn.functional.cosine_similarity(found, expected, dim=0) > 0.999


def test_bfloat16_leaves_the_direction_of_a_step(folder, tmp_path):
    found, expected = (gradients(folder, tmp_path, device="cuda", amp=amp)[1] for amp in (True, False))
    assert not torch.equal(found, expected)
    assert torch.nn.functional.cosine_similarity(found, expected, dim=0) > 0.98


def test_images_read_ahead_are_those_that_are_kept(folder, tmp_path):
    with trainer_of(settings(folder, tmp_path, device="cuda")) as trainer:
        kept, ahead = (ImageFeed(trainer.data, trainer.device, room) for room in (None, 0))
        parts = np.array_split(np.arange(len(trainer.data)), 5)
        ahead.expect(parts)
        for rows in parts:
            for one, other in zip(kept.read(rows), ahead.read(rows), strict=True):
                assert one.is_cuda and other.is_cuda
                torch.testing.assert_close(one, other)


@pytest.mark.parametrize("poses", ["known", "esl"])
def test_a_run(folder, tmp_path, poses):
    few = {"rotations": 1500, "classes": 3, "search_epochs": 2} if poses == "esl" else {}
    run = train(settings(folder, tmp_path / "run", device="cuda", poses=poses, analysis=False, **few))
    conformations = np.load(run.path / "conformations.npy")
    assert np.isfinite(conformations).all()
    assert (run.path / "uncertainty.npy").exists()
