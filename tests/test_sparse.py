import numpy as np
import pytest
import torch

from cryoatom.sparse import SparseMatrix

ROWS, COLUMNS, VALUES = [0, 0, 2, 3, 3, 0], [1, 4, 0, 2, 2, 1], [2.0, -1.0, 0.5, 1.0, 3.0, 0.25]  # twice (0, 1), (3, 2)


def dense() -> torch.Tensor:
    matrix = torch.zeros(5, 6)
    for row, column, value in zip(ROWS, COLUMNS, VALUES, strict=True):
        matrix[row, column] += value
    return matrix


@pytest.fixture
def sparse():
    return SparseMatrix(np.array(ROWS), np.array(COLUMNS), np.array(VALUES), (5, 6))


@pytest.mark.parametrize("width", [1, 7])
def test_product_and_gradient_are_the_dense_ones(sparse, width):
    x = torch.randn(6, width, generator=torch.Generator().manual_seed(0), requires_grad=True)
    weight = torch.randn(5, width, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(sparse(x), dense() @ x)
    (found,) = torch.autograd.grad((sparse(x) * weight).sum(), x)
    torch.testing.assert_close(found, dense().T @ weight)  # the adjoint: <A x, w> = <x, Aᵀ w>


def test_gradient_of_a_view_that_is_not_contiguous(sparse):
    x = torch.randn(3, 6, requires_grad=True)
    (found,) = torch.autograd.grad(sparse(x.T).T.square().sum(), x)
    torch.testing.assert_close(found, 2 * x.detach() @ dense().T @ dense())


def test_in_float64_the_gradient_is_that_of_finite_differences(sparse):
    x = torch.randn(6, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(sparse.double(), x)


def test_it_is_constant_and_takes_no_room_in_a_checkpoint(sparse):
    assert not list(sparse.parameters())
    assert not sparse.state_dict()


def test_an_entry_outside_the_shape_is_an_error():
    with pytest.raises(RuntimeError, match="size is 5 but found index 5"):
        SparseMatrix(np.array([5]), np.array([0]), np.array([1.0]), (5, 6))
