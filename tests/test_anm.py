"""The elastic network against a plain dense one, its modes, and the decoder made of them."""

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from molecules import helix, three_helices
from scipy.spatial.transform import Rotation

from cryoatom.decoders.anm import ANMDecoder, build_anm
from cryoatom.structure.elastic import elastic_modes, hessian
from cryoatom.structure.graph import build_graph
from cryoatom.structure.scaffold import Scaffold, alpha_scaffold
from cryoatom.structure.template import center_template, template_from_atoms
from cryoatom.train_config import TrainConfig

TEMPLATE = center_template(template_from_atoms(three_helices(), "helices")[0])
POSITIONS = TEMPLATE.positions


def energy(positions: np.ndarray, start: np.ndarray, cutoff: float) -> float:
    """½ Σ (|x_i - x_j| - |x_i - x_j|_0)² over pairs that start within the cutoff."""
    now, before = (np.linalg.norm(x[:, None] - x, axis=-1) for x in (positions, start))
    return float(0.25 * np.square(now - before)[before <= cutoff].sum())


def dense_hessian(positions: np.ndarray, cutoff: float) -> np.ndarray:
    """The textbook's loop over pairs."""
    count = len(positions)
    matrix = np.zeros((count, 3, count, 3))
    for i in range(count):
        for j in range(count):
            offset = positions[j] - positions[i]
            if i != j and offset @ offset <= cutoff**2:
                block = np.outer(offset, offset) / (offset @ offset)
                matrix[i, :, j] -= block
                matrix[i, :, i] += block
    return matrix.reshape(3 * count, 3 * count)


def rigid_motions(positions: np.ndarray) -> np.ndarray:
    """An orthonormal basis of translations and infinitesimal rotations, (3 residues, 6)."""
    shifts = [np.tile(axis, (len(positions), 1)) for axis in np.eye(3)]
    turns = [np.cross(axis, positions) for axis in np.eye(3)]
    return np.linalg.qr(np.stack([motion.ravel() for motion in shifts + turns], axis=1))[0]


def make_decoder(scaffold: Scaffold, zdim: int = 4) -> ANMDecoder:
    given = {"particles": "p.star", "template": "t.cif", "outdir": "run", "decoder": "anm", "zdim": zdim}
    return build_anm(TrainConfig.model_validate(given), scaffold)


@pytest.mark.parametrize("cutoff", [7.0, 15.0, 100.0])
def test_hessian_is_that_of_the_textbook(cutoff):
    found = hessian(POSITIONS, cutoff)
    np.testing.assert_allclose(found.toarray(), dense_hessian(POSITIONS, cutoff), atol=1e-12)


def test_hessian_is_the_second_derivative_of_the_energy():
    generator = np.random.default_rng(0)
    push = generator.standard_normal(POSITIONS.shape)
    step = 1e-3
    found = sum(energy(POSITIONS + s * step * push, POSITIONS, 15.0) for s in (1, -1)) / step**2
    assert found == pytest.approx(push.ravel() @ hessian(POSITIONS, 15.0) @ push.ravel(), rel=1e-4)


def test_modes_are_those_of_the_dense_matrix():
    modes, stiffness = elastic_modes(POSITIONS, 7)
    values, vectors = np.linalg.eigh(dense_hessian(POSITIONS, 15.0))
    np.testing.assert_allclose(stiffness, values[6:13], rtol=1e-8)
    overlap = np.abs(modes.reshape(7, -1) @ vectors[:, 6:13])
    np.testing.assert_allclose(overlap, np.eye(7), atol=1e-5)


def test_modes_are_orthonormal_and_free_of_rigid_motion():
    modes = elastic_modes(POSITIONS, 10)[0].reshape(10, -1)
    np.testing.assert_allclose(modes @ modes.T, np.eye(10), atol=1e-10)
    assert np.abs(modes @ rigid_motions(POSITIONS)).max() < 1e-7


def test_modes_turn_with_the_structure():
    turn = Rotation.random(rng=np.random.default_rng(1)).as_matrix()
    modes, stiffness = elastic_modes(POSITIONS, 5)
    turned, again = elastic_modes(POSITIONS @ turn.T + [5.0, 6.0, 7.0], 5)
    np.testing.assert_allclose(again, stiffness, rtol=1e-8)
    overlap = np.einsum("krx,lrx->kl", turned, modes @ turn.T)
    np.testing.assert_allclose(np.abs(overlap), np.eye(5), atol=1e-5)


def test_modes_are_the_same_each_time_and_have_a_sign():
    first, again = (elastic_modes(POSITIONS, 6)[0] for _ in range(2))
    np.testing.assert_array_equal(first, again)
    flat = first.reshape(6, -1)
    assert (flat.max(axis=1) == np.abs(flat).max(axis=1)).all()


@pytest.mark.parametrize("gap", [18.0, 30.0])
def test_chains_apart_get_longer_springs(gap, caplog):
    bottom, top = (POSITIONS[:20] + [0, 0, z] for z in (0.0, 27.0 + gap))
    with caplog.at_level(logging.WARNING):
        modes, stiffness = elastic_modes(np.concatenate([bottom, top]), 4)
    assert "parts of the template are far apart" in caplog.text
    assert stiffness[0] > 1e-6 and np.isfinite(modes).all()


def test_one_piece_gets_no_warning(caplog):
    with caplog.at_level(logging.WARNING):
        elastic_modes(POSITIONS, 4)
    assert not caplog.text


def test_pieces_are_an_error():
    with pytest.raises(ValueError, match="falls into pieces that no springs of up to 60 Å hold together"):
        elastic_modes(np.concatenate([POSITIONS, POSITIONS + 500.0]), 4)


def test_too_many_latents_are_an_error():
    few = template_from_atoms(helix(4), "helix")[0].positions
    with pytest.raises(ValueError, match="4 residues have fewer than 6 modes.*--zdim"):
        elastic_modes(few, 6)
    assert elastic_modes(few, 5)[0].shape == (5, 4, 3)


def test_a_latent_of_one_moves_residues_by_one_angstrom():
    decoder = make_decoder(alpha_scaffold(TEMPLATE, build_graph(TEMPLATE)))
    assert (decoder(torch.randn(3, 4)) == 0).all()
    torch.nn.init.ones_(decoder.amplitudes)
    moved = decoder(torch.eye(4))
    rms = moved.square().sum(dim=-1).mean(dim=-1).sqrt()
    torch.testing.assert_close(rms, torch.ones(4))
    torch.testing.assert_close(
        decoder(torch.tensor([[2.0, -1.0, 0.0, 0.5]]))[0], 2 * moved[0] - moved[1] + moved[3] / 2
    )


def test_side_chains_move_with_their_residues():
    alpha = alpha_scaffold(TEMPLATE, build_graph(TEMPLATE))
    residue = np.concatenate([alpha.residue, [3, 3, 17]])
    places = replace(alpha, positions=np.concatenate([POSITIONS, POSITIONS[[3, 3, 17]] + 2.0]), residue=residue)
    decoder = make_decoder(places)
    torch.nn.init.ones_(decoder.amplitudes)
    moved = decoder(torch.randn(2, 4))
    assert moved.shape == (2, len(places), 3)
    assert torch.equal(moved[:, -3:], moved[:, [3, 3, 17]])
