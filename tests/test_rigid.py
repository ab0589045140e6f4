"""The decoder of segments that move rigidly, against the paper's section 3.4 residue by residue."""

import csv

import numpy as np
import pytest
import torch
from fits import settings, write_dataset
from molecules import helix

from cryoatom.decoders.rigid import RigidDecoder, rotation_vectors, turn_successively
from cryoatom.decoders.segmentation import Stretch
from cryoatom.rotations import exp_rotation, rotations_from_quaternions
from cryoatom.run_folder import RunFolder
from cryoatom.structure.template import template_from_atoms
from cryoatom.training.segments import kept_segments, segment_parts
from cryoatom.training.train import train

RESIDUES, LATENT = 30, 3
POSITIONS = torch.from_numpy(template_from_atoms(helix(RESIDUES), "helix")[0].positions)


def make_decoder(count: int = 3, tau: float = 20.0, positions: torch.Tensor = POSITIONS) -> RigidDecoder:
    torch.manual_seed(0)
    residue = torch.arange(len(positions)) % RESIDUES
    stretches = [Stretch(np.arange(RESIDUES), count)]
    decoder = RigidDecoder(positions, residue, stretches, tau, latent=LATENT, width=16, layers=2)
    torch.nn.init.normal_(decoder.readout.weight, std=2.0)
    torch.nn.init.normal_(decoder.readout.bias, std=2.0)
    return decoder.double()


def latents(count: int = 2) -> torch.Tensor:
    return torch.randn(count, LATENT, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_rotation_vectors_are_those_of_the_quaternions():
    v = torch.randn(20, 3, dtype=torch.float64) * torch.logspace(-9, 3, 20, dtype=torch.float64)[:, None]
    quaternions = torch.cat([torch.ones(20, 1), v], dim=1)
    torch.testing.assert_close(exp_rotation(rotation_vectors(v)), rotations_from_quaternions(quaternions))


def test_a_turn_of_nothing_has_a_gradient():
    v = torch.zeros(1, 2, 3, dtype=torch.float64, requires_grad=True)
    share = torch.tensor([[1.0, 0.0], [0.4, 0.6], [0.0, 1.0]], dtype=torch.float64)
    points, centers = POSITIONS[:3], POSITIONS[3:5]
    assert torch.autograd.gradcheck(lambda v: turn_successively(points, share, rotation_vectors(v), centers), v)
    assert torch.autograd.gradcheck(rotation_vectors, (0.9e-3 * torch.ones(1, 3, dtype=torch.float64)).requires_grad_())


@pytest.mark.parametrize("tau", [0.5, 20.0])
def test_motion_is_that_of_the_paper_residue_by_residue(tau):
    decoder, z = make_decoder(4, tau), latents()
    with torch.no_grad():
        share = decoder.segmentation()
        turns, shifts = decoder.transforms(z)
        _, _, centers = decoder._motions(z, share)
        found = decoder(z)
    for image in range(len(z)):
        for i in range(RESIDUES):
            x = decoder.positions[i]
            for m in range(4):
                x = centers[m] + exp_rotation(share[i, m] * turns[image, m]) @ (x - centers[m])
            for m in range(4):
                x = x + share[i, m] * shifts[image, m]
            torch.testing.assert_close(found[image, i], x - decoder.positions[i], atol=1e-5, rtol=0)


def test_a_segment_keeps_its_distances():
    decoder = make_decoder(3, 4000.0)
    with torch.no_grad():
        moved = decoder.positions + decoder(latents())
        share = decoder.segmentation()
    owner = share.argmax(dim=1)
    for segment in range(3):
        body = (owner == segment) & (share.max(dim=1).values > 1 - 1e-9)
        assert body.sum() > 4
        before = torch.cdist(decoder.positions[body], decoder.positions[body])
        after = torch.cdist(moved[:, body], moved[:, body])
        torch.testing.assert_close(after, before.expand_as(after), atol=1e-6, rtol=0)
    assert (torch.cdist(moved, moved) - torch.cdist(decoder.positions, decoder.positions)).abs().max() > 1  # they part


def test_turned_template_with_turned_motions_gives_turned_displacements():
    decoder, z = make_decoder(3, 2.0), latents()
    rotation = exp_rotation(torch.tensor([0.3, -1.1, 0.7], dtype=torch.float64))
    turned = make_decoder(3, 2.0, POSITIONS @ rotation.T + 5.0)
    turned.load_state_dict(decoder.state_dict())
    with torch.no_grad():
        outputs = turned.readout.weight.view(3, 2, 3, -1), turned.readout.bias.view(3, 2, 3, 1)
        for part in outputs:
            part.copy_(torch.einsum("ij,skjc->skic", rotation, part))
        expected = decoder(z) @ rotation.T
        torch.testing.assert_close(turned(z), expected, atol=1e-4, rtol=0)


def test_gradients_reach_all_weights_and_the_segmentation():
    decoder, z = make_decoder(3, 2.0), latents(1).requires_grad_()
    decoder.draw(torch.Generator().manual_seed(0))
    weights = list(decoder.parameters())

    def moved(*values: torch.Tensor) -> torch.Tensor:
        named = dict(zip([name for name, _ in decoder.named_parameters()], values[1:], strict=True))
        return torch.func.functional_call(decoder, named, values[0])[:, ::7]

    assert torch.autograd.gradcheck(moved, (z, *weights), fast_mode=True)


def test_side_chains_move_with_their_residue():
    decoder = make_decoder(2, 4000.0, torch.cat([POSITIONS, POSITIONS + 1.5]))
    with torch.no_grad():
        moved = decoder.positions + decoder(latents())
    span = (moved[:, :RESIDUES] - moved[:, RESIDUES:]).norm(dim=-1)
    torch.testing.assert_close(span, torch.full_like(span, 1.5 * 3**0.5), atol=1e-5, rtol=0)


def test_segments_without_residues_are_left_out():
    share = np.array([[0.1, 0.3, 0.6], [0.1, 0.2, 0.7], [0.8, 0.1, 0.1]])
    assert kept_segments(share).tolist() == [[0.6, 0.1], [0.7, 0.1], [0.1, 0.8]]
    template = template_from_atoms(helix(7), "helix")[0]
    assert segment_parts(np.array([0, 0, 1, 1, 1, 0, 2]), template) == [["A:1-2", "A:6"], ["A:3-5"], ["A:7"]]


@pytest.mark.parametrize(
    "changes",
    [{"likelihood": "profiled"}, {"encoder": "mlp", "enc_dim": 8, "variational": True}],
    ids=["autodecoder", "vae"],
)
def test_a_run_writes_its_segments(tmp_path, changes):
    write_dataset(tmp_path)
    small = {"decoder": "rigid", "segments": "3", "dec_dim": 8, "num_epochs": 2, "analysis": False, "clash": 1.0}
    folder = train(settings(tmp_path, tmp_path / "run", **small, **changes))
    share = np.load(folder.segments)
    rows = list(csv.DictReader(folder.segment_table.read_text().splitlines()))
    assert share.shape == (16, 3) and len(rows) == 16
    np.testing.assert_allclose(share.sum(axis=1), 1, atol=1e-5)
    assert [int(row["segment"]) for row in rows] == (share.argmax(axis=1) + 1).tolist()
    assert [float(row["probability"]) for row in rows] == pytest.approx(share.max(axis=1), abs=1e-4)
    script = folder.segment_script.read_text()
    assert script.count("color #1/A:") == 3 and 'open "template.cif"' in script
    assert {folder.segments, folder.segment_table, folder.segment_script} <= set(folder.outputs())
    assert np.isfinite(np.load(folder.conformations)).all()


def test_segments_that_cannot_be_are_said_before_anything_is_written(tmp_path):
    write_dataset(tmp_path)
    with pytest.raises(ValueError, match="asks for 17 segments in 16 residues"):
        train(settings(tmp_path, tmp_path / "run", decoder="rigid", segments="17"))
    assert RunFolder(tmp_path / "run").outputs() == []
