"""What every layer of the graph network is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from cryoatom.structure.scaffold import Scaffold


@dataclass(frozen=True)
class NodeState:
    """What a layer hands to the next: points first, so that one sparse product serves a whole batch."""

    features: Float[Tensor, "points batch channels"]
    moves: Float[Tensor, "points batch 3"]


class GraphLayer(nn.Module, ABC):
    """Maps the state of all points to their next one.

    A layer that `moves_points` adds to their displacements itself, nothing where it is untrained; else displacements
    are read off the features after the last layer.
    """

    moves_points: ClassVar[bool] = False

    @abstractmethod
    def forward(self, state: NodeState) -> NodeState:
        """Return the state after the layer."""


class FeatureLayer(GraphLayer):
    """A convolution of features with the paper's skip connection around it: X + ReLU(f(X))."""

    @abstractmethod
    def convolve(self, features: Float[Tensor, "points batch channels"]) -> Float[Tensor, "points batch channels"]:
        """Return f(X)."""

    def forward(self, state: NodeState) -> NodeState:
        """Return the state after the layer; points stay where they are."""
        return NodeState(state.features + torch.relu(self.convolve(state.features)), state.moves)


class Links(nn.Module):
    """The edges of a graph, both ways, as torch-geometric takes them; edge e runs from [0, e] to [1, e].

    Parameters
    ----------
    scaffold
        The points and their graph.
    with_loops
        Also link each point to itself, after all others.
    """

    index: Tensor
    kinds: Tensor

    def __init__(self, scaffold: Scaffold, *, with_loops: bool = False):
        super().__init__()
        edges = torch.from_numpy(scaffold.graph.edges)
        _, kinds = torch.from_numpy(scaffold.graph.kinds).long().unique(return_inverse=True)
        index = torch.cat([edges, edges.flip(1)]).T
        if with_loops:
            index = torch.cat([index, torch.arange(len(scaffold)).repeat(2, 1)], dim=1)
        self.register_buffer("index", index.contiguous(), persistent=False)
        self.register_buffer("kinds", kinds.repeat(2), persistent=False)

    @property
    def kind_count(self) -> int:
        """How many kinds of edges there are: peptide bonds, hydrogen bonds, and others that a scaffold may add."""
        return int(self.kinds.max()) + 1 if len(self.kinds) else 0


def kind_vectors(kinds: Int[Tensor, " edges"], count: int) -> Float[Tensor, "edges kinds"]:
    """Return edge kinds as unit vectors."""
    return torch.nn.functional.one_hot(kinds, count).float()
