"""bfloat16 where it is safe: inside networks, never where latents, coordinates or likelihoods are."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class HalfInside(nn.Module):
    """A network whose hidden layers may compute in bfloat16; what it is given and returns stays float32."""

    is_half = False

    def hidden_precision(self, x: Tensor) -> torch.autocast:
        """Return the context of the hidden layers, on the device of x."""
        return torch.autocast(x.device.type, torch.bfloat16, enabled=self.is_half)
