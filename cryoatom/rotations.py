"""Rotations as tensors: quaternions (w, x, y, z), rotation vectors, angles, and even grids on SO(3).

:mod:`cryoatom.geometry` has what files need (Euler angles, numpy); here is what poses are estimated with (torch).
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

# the positive root of psi⁴ = psi + 4
_SUPER_FIBONACCI_PSI = 1.533751168755204288118041


def exp_rotation(vectors: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """Turn rotation vectors into matrices.

    Rodrigues: R = 1 + (sin t / t) K + ½ (sin ½t / ½t)² K² with t = |v| and K x = v × x. Values and gradients are
    right at v = 0 too.

    Parameters
    ----------
    vectors : (*batch, 3)
        Axis times angle in radians, any length.
    """
    angle = torch.linalg.vector_norm(vectors, dim=-1)[..., None, None] / math.pi
    x, y, z = vectors.unbind(-1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).unflatten(-1, (3, 3))
    identity = torch.eye(3, dtype=vectors.dtype, device=vectors.device)
    return identity + torch.sinc(angle) * cross + 0.5 * torch.sinc(angle / 2).square() * (cross @ cross)


def log_rotation(rotations: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3"]:
    """Invert :func:`exp_rotation` by the shorter geodesic: the length is at most pi.

    Accurate near 0 and near pi, where one of the two opposite vectors is returned. The gradient is right at 0.
    """
    quaternions = quaternions_from_rotations(rotations)
    real, vector = quaternions[..., :1], quaternions[..., 1:]
    length = torch.linalg.vector_norm(vector, dim=-1, keepdim=True)
    is_turned = length > 0
    apart = torch.where(is_turned, length, 1.0)  # the branch not taken needs a finite gradient too
    scale = torch.where(is_turned, torch.atan2(apart, real) / apart, 1.0)
    return 2 * scale * vector


def rotation_angle(a: Float[Tensor, "... 3 3"], b: Float[Tensor, "... 3 3"]) -> Float[Tensor, "*batch"]:
    """Return the geodesic distance of rotations in radians, in [0, pi]; leading dimensions broadcast.

    An arccosine of the trace would lose half the digits of a small angle; the quaternion of aᵀb keeps them.
    """
    quaternions = quaternions_from_rotations(a.mT @ b)
    return 2 * torch.atan2(torch.linalg.vector_norm(quaternions[..., 1:], dim=-1), quaternions[..., 0])


def rotations_from_quaternions(quaternions: Float[Tensor, "*batch 4"]) -> Float[Tensor, "*batch 3 3"]:
    """Turn quaternions (w, x, y, z) of any length but zero into matrices."""
    w, x, y, z = (quaternions / torch.linalg.vector_norm(quaternions, dim=-1, keepdim=True)).unbind(-1)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def quaternions_from_rotations(rotations: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 4"]:
    """Turn matrices into unit quaternions (w, x, y, z) with w >= 0.

    The matrix gives 4 q qᵀ; its row with the largest diagonal entry is q up to length, without cancellation
    (Shepperd, J. Guidance and Control 1 (1978) 223).
    """
    xx, xy_, xz_, yx_, yy, yz_, zx_, zy_, zz = rotations.flatten(-2).unbind(-1)
    wx, wy, wz = zy_ - yz_, xz_ - zx_, yx_ - xy_
    xy, xz, yz = xy_ + yx_, xz_ + zx_, yz_ + zy_
    rows = [
        [1 + xx + yy + zz, wx, wy, wz],
        [wx, 1 + xx - yy - zz, xy, xz],
        [wy, xy, 1 - xx + yy - zz, yz],
        [wz, xz, yz, 1 - xx - yy + zz],
    ]
    outer = torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)
    largest = outer.diagonal(dim1=-2, dim2=-1).argmax(dim=-1)
    row = outer.gather(-2, largest[..., None, None].expand(*largest.shape, 1, 4))[..., 0, :]
    row = torch.where(row[..., :1] < 0, -row, row)
    return row / torch.linalg.vector_norm(row, dim=-1, keepdim=True)


def super_fibonacci(count: int) -> Float[Tensor, "count 4"]:
    """Spread `count` quaternions (w, x, y, z) evenly over SO(3), without randomness, in float64.

    The super-Fibonacci spiral of Alexa, CVPR 2022.
    """
    place = torch.arange(count, dtype=torch.float64) + 0.5
    inner, outer = (place / count).sqrt(), (1 - place / count).sqrt()
    alpha = 2 * math.pi * place / math.sqrt(2)
    beta = 2 * math.pi * place / _SUPER_FIBONACCI_PSI
    return torch.stack([inner * alpha.sin(), inner * alpha.cos(), outer * beta.sin(), outer * beta.cos()], dim=-1)


def rotation_grid(count: int) -> Float[Tensor, "count 3 3"]:
    """Return the rotations of :func:`super_fibonacci` in float64; 14761 of them lie about 9° apart."""
    return rotations_from_quaternions(super_fibonacci(count))
