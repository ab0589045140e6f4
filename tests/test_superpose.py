import numpy as np
import pytest
import torch
from molecules import data_folder

from cryoatom.files.trajectory import read_trajectory
from cryoatom.geometry import random_rotations
from cryoatom.structure.superpose import kabsch, rmsd, superpose, transform


def random_motion(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = np.random.default_rng(3)
    rotation = torch.from_numpy(random_rotations(int(np.prod(shape)), generator)).reshape(*shape, 3, 3)
    return rotation, torch.from_numpy(generator.normal(scale=20, size=(*shape, 3)))


@pytest.fixture
def points():
    return torch.from_numpy(np.random.default_rng(0).normal(scale=10, size=(2, 5, 40, 3)))


def test_a_rigid_motion_is_recovered_in_every_batch_entry(points):
    rotation, translation = random_motion(2, 5)
    found = kabsch(points, transform(points, rotation, translation))
    torch.testing.assert_close(found, (rotation, translation))
    torch.testing.assert_close(superpose(points, transform(points, rotation, translation)), transform(points, *found))


def test_float32_stays_float32_and_exact(points):
    rotation, translation = random_motion(2, 5)
    moved = transform(points, rotation, translation).float()
    result = superpose(points.float(), moved)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, moved, atol=1e-4, rtol=0)


def test_rmsd_is_a_minimum_over_rigid_motions(points):
    target = points + torch.from_numpy(np.random.default_rng(1).normal(size=points.shape))
    best = rmsd(points, target)
    assert best.shape == (2, 5)
    assert (best <= rmsd(points, target, align=False)).all()
    rotation, translation = random_motion(2, 5)
    torch.testing.assert_close(rmsd(transform(points, rotation, translation), target), best)
    torch.testing.assert_close(rmsd(target, points), best)
    moved = superpose(points, target)
    nudge, _ = kabsch(moved, moved + 0.01 * torch.roll(moved, 1, dims=-1))
    assert (rmsd(moved @ nudge.mT, target, align=False) >= best - 1e-12).all()


def test_leading_dimensions_broadcast(points):
    reference = points[0, 0]
    rows = torch.stack([rmsd(row, reference) for row in points[1]])
    torch.testing.assert_close(rmsd(points[1], reference), rows)
    torch.testing.assert_close(rmsd(reference, points[1]), rows)


def test_a_mirror_image_is_not_superposed_by_a_reflection(points):
    mirrored = points * torch.tensor([1.0, 1.0, -1.0])
    rotation, _ = kabsch(points, mirrored)
    torch.testing.assert_close(torch.linalg.det(rotation), torch.ones(2, 5, dtype=torch.float64))
    assert (rmsd(points, mirrored) > 1).all()


@pytest.mark.parametrize("kind", ["coincident", "collinear", "planar", "one point", "two points"])
def test_degenerate_points_give_a_proper_rotation_and_the_right_deviation(points, kind):
    line = torch.linspace(-5, 5, 40, dtype=torch.float64)[:, None] * torch.tensor([1.0, 2.0, -1.0])
    mobile = {
        "coincident": torch.ones(40, 3, dtype=torch.float64),
        "collinear": line,
        "planar": points[0, 0] * torch.tensor([1.0, 1.0, 0.0]),
        "one point": points[0, 0, :1],
        "two points": points[0, 0, :2],
    }[kind]
    rotation, translation = random_motion(1)
    target = transform(mobile, rotation[0], translation[0])
    found, _ = kabsch(mobile, target)
    torch.testing.assert_close(torch.linalg.det(found).item(), 1.0)
    torch.testing.assert_close(found @ found.mT, torch.eye(3, dtype=torch.float64))
    assert rmsd(mobile, target) < 1e-10


def test_the_ends_of_the_adk_trajectory_are_as_far_apart_as_published():
    folder = data_folder()
    trajectory = read_trajectory(folder / "adk_dims2.dcd", folder / "adk.psf")
    assert trajectory.atoms is not None
    alpha = torch.from_numpy(trajectory.positions[:, trajectory.atoms.names == "CA"])
    torch.testing.assert_close(rmsd(alpha[0], alpha[-1]).item(), 6.82, atol=0.005, rtol=0)
