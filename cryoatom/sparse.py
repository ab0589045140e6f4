"""Products with constant sparse matrices, differentiable in the dense factor."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn


class _Product(torch.autograd.Function):
    """matrix @ x; the transpose serves the backward pass."""

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, transpose: Tensor, dense: Tensor) -> Tensor:
        ctx.save_for_backward(transpose)
        return matrix @ dense

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, None, Tensor]:
        (transpose,) = ctx.saved_tensors
        return None, None, transpose @ grads[0].contiguous()


class SparseMatrix(nn.Module):
    """A constant sparse matrix in CSR form, kept with its transpose.

    Parameters
    ----------
    rows, columns, values : (entries,) array
        Entries; those at the same place add up.
    shape
        (rows, columns).
    """

    matrix: Tensor
    transpose: Tensor

    def __init__(self, rows: np.ndarray, columns: np.ndarray, values: np.ndarray, shape: tuple[int, int]):
        super().__init__()
        index = torch.from_numpy(np.stack([rows, columns]).astype(np.int64))
        entries = torch.from_numpy(np.asarray(values, dtype=np.float32))
        with warnings.catch_warnings(), torch.sparse.check_sparse_tensor_invariants(True):
            warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
            matrix = torch.sparse_coo_tensor(index, entries, shape).coalesce()
            self.register_buffer("matrix", matrix.to_sparse_csr(), persistent=False)
            self.register_buffer("transpose", matrix.t().coalesce().to_sparse_csr(), persistent=False)

    def forward(self, dense: Float[Tensor, "columns width"]) -> Float[Tensor, "rows width"]:
        """Return matrix @ dense, in the precision of the matrix."""
        with torch.autocast(dense.device.type, enabled=False):  # there are no sparse products in lower precision
            return _Product.apply(self.matrix, self.transpose, dense.to(self.matrix.dtype))  # type: ignore[return-value]
