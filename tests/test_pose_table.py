"""Poses and how they move."""

import math

import numpy as np
import pytest
import torch

from cryoatom.geometry import random_rotations
from cryoatom.rotations import exp_rotation, rotation_angle
from cryoatom.training.pose_table import PoseTable

COUNT, REACH = 7, 20.0


def rotations(seed: int = 0, count: int = COUNT) -> torch.Tensor:
    return torch.from_numpy(random_rotations(count, np.random.default_rng(seed)))


def shifts(seed: int = 0) -> torch.Tensor:
    return 4 * torch.randn(COUNT, 2, generator=torch.Generator().manual_seed(seed))


def table(seed: int = 0, reach: float = REACH) -> PoseTable:
    return PoseTable(rotations(seed), shifts(seed), reach, np.zeros((COUNT, 2)))


def away(poses: PoseTable, images: torch.Tensor, to: PoseTable, tangents: torch.Tensor | None = None) -> torch.Tensor:
    """Mean squared distance, Å², of points of a rigid body from where other poses bring them, for each image."""
    points = REACH * torch.eye(3)
    (turn, shift), (true_turn, true_shift) = poses.read(images, tangents), to.read(images)
    moved, still = ((points @ r.mT)[..., :2] + t[:, None] for r, t in ((turn, shift), (true_turn, true_shift)))
    depth = ((turn - true_turn) * REACH)[:, 2].square().mean(dim=-1)
    return (moved - still).square().sum(dim=-1).mean(dim=-1) + depth


def test_tangents_turn_in_the_microscopes_frame_and_shift_in_the_image():
    poses, images = table(), torch.tensor([5, 0])
    tangents = torch.tensor([[0.0, 0.0, 0.3, 0.0, 0.0], [0.0, 0.0, 0.0, 0.25, -0.5]])
    turned, shifted = poses.read(images, tangents)
    in_plane = torch.tensor([[math.cos(0.3), -math.sin(0.3), 0], [math.sin(0.3), math.cos(0.3), 0], [0, 0, 1]])
    torch.testing.assert_close(turned[0], in_plane @ poses.rotations[5])
    torch.testing.assert_close(turned[1], poses.rotations[0])
    torch.testing.assert_close(shifted - poses.shifts[images], torch.tensor([[0.0, 0.0], [5.0, -10.0]]))
    assert all(map(torch.equal, poses.read(images), (poses.rotations[images], poses.shifts[images])))


def test_steps_along_the_gradient_bring_poses_to_the_nearest_minimum():
    poses, goal = table(), table()
    turn = exp_rotation(0.3 * torch.randn(COUNT, 3, generator=torch.Generator().manual_seed(3)))
    goal.rotations, goal.shifts = turn @ goal.rotations, goal.shifts + 3.0
    generator, images = torch.Generator().manual_seed(0), torch.arange(COUNT)
    before = away(poses, images, goal)
    for step in range(200):
        some = torch.randperm(COUNT, generator=generator)[:4]
        tangents = torch.zeros(4, 5, requires_grad=True)
        (gradient,) = torch.autograd.grad(away(poses, some, goal, tangents).sum(), tangents)
        poses.step(some, gradient, 0.03 * (1 - step / 200))
    assert (away(poses, images, goal) < 1e-3 * before).all()
    assert rotation_angle(poses.rotations, goal.rotations).max() < math.radians(1)


def test_a_first_step_turns_against_the_gradient_by_the_rate():
    poses, images = table(), torch.tensor([2])
    before = poses.rotations[2].clone()
    poses.step(images, torch.tensor([[0.0, -3.0, 0.0, 0.0, 7.0]]), 0.01)
    torch.testing.assert_close(poses.rotations[2], exp_rotation(torch.tensor([0.0, 0.01, 0.0])) @ before)
    torch.testing.assert_close(poses.shifts[2], shifts()[2] - torch.tensor([0.0, 0.01 * REACH]))
    rest = torch.tensor([0, 1, 3, 4, 5, 6])
    assert torch.equal(poses.rotations[rest], rotations().float()[rest])


def test_rotations_stay_rotations():
    poses, generator = table(), torch.Generator().manual_seed(0)
    images = torch.arange(COUNT)
    for _ in range(1000):
        poses.step(images, torch.randn(COUNT, 5, generator=generator), 0.05)
    identity = torch.eye(3).expand(COUNT, -1, -1)
    torch.testing.assert_close(poses.rotations @ poses.rotations.mT, identity, atol=1e-6, rtol=0)
    assert (torch.linalg.det(poses.rotations) > 0).all()
    assert rotation_angle(poses.rotations, rotations().float()).min() > 0.1


def test_without_reach_shifts_stay():
    poses, images = table(reach=0.0), torch.arange(COUNT)
    before = poses.shifts.clone()
    for _ in range(5):
        poses.step(images, torch.ones(COUNT, 5), 0.1)
    assert torch.equal(poses.shifts, before)
    assert (rotation_angle(poses.rotations, rotations().float()) > 0.1).all()


def test_replaced_poses_forget_how_theirs_moved():
    poses, fresh = table(), table()
    images, some = torch.arange(COUNT), torch.tensor([6, 1])
    for _ in range(3):
        poses.step(images, torch.ones(COUNT, 5), 0.1)
    rest = torch.tensor([0, 2, 3, 4, 5])
    before = poses.rotations[rest].clone()
    for each in (poses, fresh):
        each.replace(some, rotations(8).float()[some], shifts(8)[some])
    assert torch.equal(poses.rotations[some], rotations(8).float()[some])
    assert torch.equal(poses.rotations[rest], before)
    for each in (poses, fresh):
        each.step(some, torch.tensor([[-1.0, 2, 3, 4, 5], [0.1, 0, 1, 1, -1]]), 0.1)
    assert torch.equal(poses.rotations[some], fresh.rotations[some])
    assert torch.equal(poses.shifts[some], fresh.shifts[some])


@pytest.mark.parametrize("moved_back", [0.0, 2.5])
def test_what_crops_were_moved_back_by_is_part_of_the_pose(moved_back):
    back = moved_back * np.random.default_rng(0).normal(size=(COUNT, 2))
    poses = PoseTable(rotations(), shifts(), REACH, back)
    found = poses.poses()
    assert len(found) == len(poses) == COUNT and found.rotations.dtype == found.shifts.dtype == np.float64
    np.testing.assert_allclose(found.rotations, rotations().numpy(), atol=1e-6)
    np.testing.assert_allclose(found.shifts, back + shifts().numpy(), atol=1e-6)


def test_a_restored_table_goes_on_alike():
    first, second = table(), table(seed=5)
    images, gradient = torch.tensor([1, 4]), torch.tensor([[1.0, -2, 0.5, 3, 0], [0, 1, 1, -1, 2]])
    first.step(images, gradient, 0.1)
    second.load_state_dict({name: value.clone() for name, value in first.state_dict().items()})
    for poses in (first, second):
        poses.step(images, -gradient, 0.1)
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items())
