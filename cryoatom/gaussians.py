"""Divergences of Gaussians."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def divergence_from_normal(
    mean: Float[Tensor, "*batch size"], log_variance: Float[Tensor, "*batch size"]
) -> Float[Tensor, "*batch"]:
    """Return KL( N(μ, σ²) || N(0, 1) ) = ½ Σ (μ² + σ² - ln σ² - 1), nats."""
    return 0.5 * (mean.square() + log_variance.exp() - log_variance - 1).sum(dim=-1)
