"""Rotations of geometry (numpy, files) and of rotations (torch): they must agree, and keep their digits."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial import ConvexHull, KDTree
from scipy.spatial.transform import Rotation

from cryoatom.geometry import (
    euler_from_rotations,
    random_rotations,
    rotations_from_euler,
    rotations_from_vectors,
    rounded_rotations,
    vectors_from_rotations,
)
from cryoatom.rotations import (
    exp_rotation,
    log_rotation,
    quaternions_from_rotations,
    rotation_angle,
    rotation_grid,
    rotations_from_quaternions,
    super_fibonacci,
)

PRECISION = {torch.float32: 5e-7, torch.float64: 2e-15}
SPEC_GRID = 14761


def axes(count: int) -> torch.Tensor:
    vectors = np.random.default_rng(0).normal(size=(count, 3))
    return torch.from_numpy(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def random_matrices(count: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(random_rotations(count, np.random.default_rng(seed)))


def test_euler_angles_of_random_rotations_come_back():
    rotations = random_rotations(50, np.random.default_rng(0))
    np.testing.assert_allclose(rotations_from_euler(*euler_from_rotations(rotations).T), rotations, atol=1e-12)


def test_rotation_vectors_are_those_of_cryosparc():
    """A quarter turn about z, as pyem and cryoDRGN write it out: the transpose of the turn that the vector is."""
    (rotation,) = rotations_from_vectors(np.array([[0, 0, np.pi / 2]]))
    np.testing.assert_allclose(rotation, [[0, 1, 0], [-1, 0, 0], [0, 0, 1]], atol=1e-15)
    rotations = random_rotations(50, np.random.default_rng(0))
    np.testing.assert_allclose(rotations_from_vectors(vectors_from_rotations(rotations)), rotations, atol=1e-12)


def test_rounded_rotations_are_near_are_rotations_and_stay():
    generator = np.random.default_rng(0)
    exact = random_rotations(2000, generator)
    rounded = rounded_rotations(exact)
    angle = rotation_angle(torch.from_numpy(exact), torch.from_numpy(rounded)).max()
    assert math.degrees(float(angle)) < 3e-6
    np.testing.assert_allclose(rounded @ rounded.mT, np.broadcast_to(np.eye(3), rounded.shape), atol=1e-15)
    np.testing.assert_array_equal(rounded_rotations(rounded), rounded)
    noise = generator.uniform(-1e-9, 1e-9, exact.shape)  # ten times what written angles have
    np.testing.assert_array_equal(rounded_rotations(rounded + noise), rounded)


@pytest.mark.parametrize("vector", [(0, 0, 0), (0, 0, 90), (180, 0, 0), (0, 180, 0), (120, 0, 0), (90, 90, 0)])
def test_rounding_does_not_depend_on_the_last_bit(vector):
    """Where components of a quaternion are equal, or 0, which is the largest is chance."""
    matrix = Rotation.from_rotvec(vector, degrees=True).as_matrix()
    expected = rounded_rotations(matrix[None])
    noise = np.random.default_rng(0).uniform(-3e-16, 3e-16, (50, 3, 3))
    np.testing.assert_array_equal(rounded_rotations(matrix + noise), np.broadcast_to(expected, (50, 3, 3)))


@pytest.mark.parametrize("dtype", PRECISION)
@pytest.mark.parametrize("angle", [0, 1e-20, 1e-8, 1e-4, 0.049, 0.051, 1, 3, math.pi, 5, 40])
def test_exponentials_are_those_of_scipy(angle, dtype):
    vectors = (angle * axes(200)).to(dtype)
    rotations = exp_rotation(vectors)
    assert rotations.dtype == dtype
    expected = torch.from_numpy(Rotation.from_rotvec(vectors.double().numpy()).as_matrix())
    torch.testing.assert_close(rotations.double(), expected, atol=max(1, angle) * PRECISION[dtype], rtol=0)


@pytest.mark.parametrize("dtype", PRECISION)
@pytest.mark.parametrize("angle", [0, 1e-6, 1e-3, 0.0999, 0.1001, 1, 2, 3, math.pi - 1e-2])
def test_logarithms_invert_exponentials(angle, dtype):
    vectors = (angle * axes(200)).to(dtype)
    torch.testing.assert_close(log_rotation(exp_rotation(vectors)), vectors, atol=4 * PRECISION[dtype], rtol=0)


@pytest.mark.parametrize("dtype", PRECISION)
@pytest.mark.parametrize("missing", [0, 1e-12, 1e-7, 1e-5, 1e-3])
def test_logarithms_near_half_a_turn_give_the_rotation_and_at_most_pi(missing, dtype):
    rotations = exp_rotation((math.pi - missing) * axes(200)).to(dtype)
    logarithms = log_rotation(rotations)
    torch.testing.assert_close(exp_rotation(logarithms), rotations, atol=4 * PRECISION[dtype], rtol=0)
    lengths = logarithms.norm(dim=-1)
    assert (lengths <= math.pi * (1 + PRECISION[dtype])).all()
    torch.testing.assert_close(lengths, torch.full_like(lengths, math.pi - missing), atol=4 * PRECISION[dtype], rtol=0)


def test_logarithms_of_half_turns_about_the_axes_have_no_sign_of_zero():
    half_turns = torch.diag_embed(torch.tensor([[1.0, -1, -1], [-1, 1, -1], [-1, -1, 1], [1, 1, 1]]))
    expected = math.pi * torch.cat([torch.eye(3), torch.zeros(1, 3)])
    torch.testing.assert_close(log_rotation(half_turns).abs(), expected)


@pytest.mark.parametrize("angle", [0, 1e-9, 1e-5, 0.09, 0.11, 1, 3])
def test_gradients_hold_at_zero_and_elsewhere(angle):
    vectors = (angle * axes(3)).requires_grad_()
    assert torch.autograd.gradcheck(exp_rotation, vectors, atol=1e-7)
    assert torch.autograd.gradcheck(lambda v: log_rotation(exp_rotation(v)), vectors, atol=1e-6)


@pytest.mark.parametrize("angle", [0, 1e-7, 1e-5, 1e-3, 0.0999, 0.1001, 1])
def test_gradients_keep_their_digits_in_float32(angle):
    vectors = (angle * axes(3)).float()
    jacobian = torch.func.vmap(torch.func.jacrev(lambda v: log_rotation(exp_rotation(v))))(vectors)
    torch.testing.assert_close(jacobian, torch.eye(3).expand(3, 3, 3), atol=1e-5, rtol=0)


@pytest.mark.parametrize("angle", [1e-6, 1e-5, 1e-4, 1e-3, 1, math.pi - 1e-5, math.pi])
def test_angles_in_float32_are_as_exact_as_the_matrices(angle):
    start = random_matrices(200)
    end = start @ exp_rotation(angle * axes(200))
    found = rotation_angle(start.float(), end.float())
    torch.testing.assert_close(found, torch.full_like(found, angle), atol=5e-7, rtol=0)
    by_trace = torch.arccos(((start.float().mT @ end.float()).diagonal(dim1=-2, dim2=-1).sum(-1) - 1) / 2)
    if angle <= 1e-4:
        assert ((by_trace - angle).abs().nan_to_num(1.0) > 0.5 * angle).any()


def test_the_angle_is_a_bi_invariant_distance():
    a, b, c = (random_matrices(100, seed) for seed in range(3))
    torch.testing.assert_close(rotation_angle(a, b), rotation_angle(b, a))
    torch.testing.assert_close(rotation_angle(c @ a, c @ b), rotation_angle(a, b))
    torch.testing.assert_close(rotation_angle(a @ c, b @ c), rotation_angle(a, b))
    torch.testing.assert_close(rotation_angle(a, b), log_rotation(a.mT @ b).norm(dim=-1))
    assert (rotation_angle(a, c) <= rotation_angle(a, b) + rotation_angle(b, c) + 1e-12).all()
    assert rotation_angle(a[:, None], b[:7]).shape == (100, 7)


def test_quaternions_are_those_of_scipy_and_come_back():
    quaternions = torch.from_numpy(np.random.default_rng(0).normal(size=(10, 30, 4)))
    rotations = rotations_from_quaternions(quaternions)
    expected = Rotation.from_quat(quaternions.numpy().reshape(-1, 4), scalar_first=True).as_matrix()
    torch.testing.assert_close(rotations.flatten(0, 1), torch.from_numpy(expected))
    unit = quaternions / quaternions.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(quaternions_from_rotations(rotations), unit * unit[..., :1].sign())


def test_the_spiral_constant_solves_its_equation_and_quaternions_have_length_one():
    quaternions = super_fibonacci(SPEC_GRID)
    torch.testing.assert_close(quaternions.norm(dim=-1), torch.ones(SPEC_GRID, dtype=torch.float64))
    # with the root of psi^4 = psi + 4 and sqrt 2 the first of one point is sin and cos of pi/sqrt 2 and pi/psi
    psi = np.roots([1, 0, 0, -1, -4]).real.max()
    alpha, beta = math.pi / math.sqrt(2), math.pi / psi
    expected = [math.sin(alpha), math.cos(alpha), math.sin(beta), math.cos(beta)]
    np.testing.assert_allclose(super_fibonacci(1)[0] * math.sqrt(2), expected, atol=1e-12)


def test_the_grid_is_as_even_as_specified():
    """esl.md 5.2: nearest neighbours, covering radius and a random rotation's distance to the grid, in degrees."""
    points = super_fibonacci(SPEC_GRID).numpy()
    points = np.concatenate([points, -points])
    tree = KDTree(points)
    nearest = np.degrees(4 * np.arcsin(tree.query(points[:SPEC_GRID], k=2)[0][:, 1] / 2))
    found = [nearest.min(), nearest.mean(), np.median(nearest), nearest.max()]
    np.testing.assert_allclose(found, [5.525, 9.002, 8.962, 9.804], atol=6e-4)
    hull = ConvexHull(points)
    np.testing.assert_allclose(np.degrees(2 * np.arccos(-hull.equations[:, 4].max())), 8.995, atol=6e-4)
    random = quaternions_from_rotations(random_matrices(20000)).numpy()
    away = np.degrees(4 * np.arcsin(tree.query(random)[0] / 2))
    np.testing.assert_allclose([away.mean(), np.percentile(away, 95)], [4.84, 6.95], atol=0.05)
    grid = rotation_grid(SPEC_GRID)
    identity = torch.eye(3, dtype=torch.float64).expand(SPEC_GRID, 3, 3)
    torch.testing.assert_close(grid @ grid.mT, identity, atol=1e-14, rtol=0)
    torch.testing.assert_close(torch.linalg.det(grid), torch.ones(SPEC_GRID, dtype=torch.float64))
