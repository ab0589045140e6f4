"""The learnable output norm of Prins et al. (section 2; appendix F)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

_WIDTH = 350


class _Layer(nn.Module):
    """x W / n + b with n inputs: a step of Adam moves its output by about the learning rate, however wide it is.

    The rate is that of bead masses and widths, which are single numbers; W / n starts as nn.Linear's weights do.
    """

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        bound = inputs**0.5
        self.weight = nn.Parameter(torch.empty(inputs, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Float[Tensor, " inputs"]) -> Float[Tensor, " outputs"]:
        return x @ self.weight / len(self.weight) + self.bias


class OutputNorm(nn.Module):
    """ŝ, the output of a network of no input: three layers 350 wide, SiLU between them; 1 at the start.

    Prins et al. fit (Î - μ̂) / ŝ to the images, Î being a projection with its CTF. Projections are linear in the masses
    of beads, so that 1/ŝ is a factor of these, beside the scale that start_scale finds for the template (their s⁰). As
    a model it is one number, as --output-norm scale is; only the path of the optimiser differs.

    There is no μ̂ here. A constant adds to the zero frequency of an image alone, one of box² numbers. The background's
    mean has been taken away from each image, and the CTF passes little of the particle there (its amplitude contrast,
    0.06 to 0.1), so that nothing is left for a constant to explain (tests/test_output_norm.py measures it: less than
    0.1 nats an image). In the published code images are standardised as a whole instead, particle and all, which shifts
    them by a constant that μ̂ takes back.
    """

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.readout = _Layer(1, _WIDTH), _Layer(_WIDTH, _WIDTH), _Layer(_WIDTH, 1)
        nn.init.zeros_(self.readout.weight)
        nn.init.ones_(self.readout.bias)

    def forward(self) -> Float[Tensor, ""]:
        """Return ŝ; its sign means nothing (as in the published code)."""
        act = nn.functional.silu
        hidden = act(self.second(act(self.first(self.first.weight.new_ones(1)))))
        return self.readout(hidden)[0].abs()
