"""One test for every encoder, then each against its paper."""

import pytest
import torch
from torch import nn

from cryoatom.catalog import ENCODERS
from cryoatom.encoders import build_encoder
from cryoatom.perceptron import Residual
from cryoatom.train_config import TrainConfig

NAMES = [name for name in ENCODERS if name != "none"]


def make(name: str, side: int, **changes: object) -> nn.Module:
    given = {"particles": "p.star", "template": "t.cif", "outdir": "run", "encoder": name, "zdim": 3}
    torch.manual_seed(0)
    return build_encoder(TrainConfig.model_validate(given | changes), side)


def crops(count: int, side: int) -> torch.Tensor:
    return torch.randn(count, side, side, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("side", [1, 2, 7, 24, 45, 72])
def test_every_encoder(name, side):
    encoder = make(name, side)
    latents = encoder(crops(4, side))
    assert latents.shape == (4, 3) and latents.dtype == torch.float32
    (latents - 1).square().sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in encoder.parameters())
    if side > 7:  # in a batch of tiny crops rectifiers may all be shut
        assert all(p.grad.abs().sum() > 0 for p in encoder.parameters() if p.grad is not None)  # nothing is dead
        assert (latents.std(dim=0) > 0.01).all()  # images are told apart before any training

    again = make(name, side)
    again.load_state_dict(encoder.state_dict())
    for each in (encoder, again):
        each.eval()
    one_by_one = torch.cat([encoder(image[None]) for image in crops(4, side)])
    torch.testing.assert_close(encoder(crops(4, side)), one_by_one, atol=1e-5, rtol=1e-4)  # each image on its own
    torch.testing.assert_close(again(crops(4, side)), encoder(crops(4, side)), atol=0, rtol=0)
    assert encoder(crops(4, side)[:0]).shape == (0, 3)


@pytest.mark.parametrize("name", NAMES)
def test_hidden_layers_in_half_precision(name):
    exact, half = make(name, 24), make(name, 24, amp=True)
    far, near = exact(crops(16, 24)), half(crops(16, 24))
    assert near.dtype == torch.float32 and not torch.equal(near, far)
    assert float((near - far).detach().abs().max()) < 0.05 * float(far.detach().std())
    near.square().sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in half.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_settings_are_heard(name):
    assert make(name, 20, variational=True)(crops(2, 20)).shape == (2, 6)  # means and log variances
    assert make(name, 20, enc_layers=1, enc_dim=5)(crops(2, 20)).shape == (2, 3)
    sizes = [sum(p.numel() for p in make(name, 20, enc_layers=n).parameters()) for n in (1, 2)]
    assert sizes[0] != sizes[1]
    kinds = [{type(part) for part in make(name, 20, activation=act).modules()} for act in ("relu", "silu")]
    assert nn.ReLU in kinds[0] and nn.SiLU in kinds[1] - kinds[0] and nn.ReLU not in kinds[1]


def test_the_cnn_is_that_of_prins_in_small():
    """Blocks of convolution, batch normalisation and max pooling, whose channels grow; then two linear maps."""
    encoder = make("cnn", 72)
    convolutions = [part for part in encoder.modules() if isinstance(part, nn.Conv2d)]
    assert [part.out_channels for part in convolutions] == [16, 32, 64, 128]
    for kind in (nn.BatchNorm2d, nn.MaxPool2d):
        assert len([part for part in encoder.modules() if isinstance(part, kind)]) == 4
    linear = [part for part in encoder.modules() if isinstance(part, nn.Linear)]
    assert [(part.in_features, part.out_features) for part in linear] == [(128 * 3 * 3, 256), (256, 3)]


def test_the_cnn_normalises_over_the_batch_in_training_alone():
    encoder = make("cnn", 24)
    images = crops(6, 24)
    torch.testing.assert_close(encoder(5 * images), encoder(images), atol=1e-2, rtol=1e-2)  # brightness is taken away
    encoder.eval()
    assert (encoder(5 * images) - encoder(images)).abs().max() > 0.05


def test_the_perceptron_is_that_of_cryofold():
    """Section 5: three layers of 256 with skip connections."""
    encoder = make("mlp", 20)
    linear = [(part.in_features, part.out_features) for part in encoder.modules() if isinstance(part, nn.Linear)]
    assert linear == [(400, 256), *[(256, 256)] * 3, (256, 3)]
    assert len([part for part in encoder.modules() if isinstance(part, Residual)]) == 3


def test_encoders_do_not_care_where_an_image_lies_in_the_batch():
    for name in NAMES:
        encoder = make(name, 24).eval()
        images, order = crops(5, 24), torch.tensor([3, 0, 4, 1, 2])
        torch.testing.assert_close(encoder(images[order]), encoder(images)[order], atol=1e-6, rtol=1e-5)
