"""The decoder of cryoSPHERE: segments of the chain that move rigidly (section 3.4)."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from cryoatom.decoders.decoder import Decoder
from cryoatom.decoders.segmentation import Segmentation, Stretch, parse_segments
from cryoatom.perceptron import hidden_layers
from cryoatom.structure.scaffold import Scaffold
from cryoatom.train_config import TrainConfig

_NO_PART = 1e-8  # a smaller G turns a point by less than float32 can tell
_FEW_POINTS = 1.0  # points' worth of the whole molecule in each segment's centre: empty segments have one too
_LEAST_RADIUS = 3.0  # Å


class RigidDecoder(Decoder):
    """Map latents to a rotation and a translation of each segment, and move each residue by its share in them.

    A residue is turned successively about the axes of all segments, by G_im δ_m, then moved by Σ_m G_im t_m. Axes
    pass through the segment's own centre, not the origin as in the paper: for whole segments the family of motions is
    the same, and a rotation no longer swings a segment that lies far out.

    The network returns, for each segment, q ∝ (1, v / 2ρ) and t, with ρ its radius of gyration: an output of 1 moves
    residues by about 1 Å, turning or not. Every rotation but half-turns is one v.

    Parameters
    ----------
    positions
        Where points start, Å.
    residue
        The residue of each point; side chains move with theirs.
    stretches, tau
        Of the segmentation.
    latent, width, layers, activation, residual
        Of the perceptron: Linear to `width`, `layers` hidden layers, Linear to 6 numbers a segment.
    """

    is_random = True

    positions: Tensor
    residue: Tensor

    def __init__(
        self,
        positions: Float[Tensor, "points 3"],
        residue: Int[Tensor, " points"],
        stretches: list[Stretch],
        tau: float,
        *,
        latent: int,
        width: int,
        layers: int,
        activation: str = "relu",
        residual: bool = False,
    ):
        super().__init__()
        self.register_buffer("positions", (positions - positions.mean(dim=0)).float(), persistent=False)
        self.register_buffer("residue", residue, persistent=False)
        self.segmentation = Segmentation(stretches, tau)
        self.hidden = hidden_layers(latent, width, layers, activation=activation, residual=residual)
        self.readout = nn.Linear(width, 6 * sum(stretch.count for stretch in stretches))
        nn.init.zeros_(self.readout.weight)
        nn.init.zeros_(self.readout.bias)

    def forward(self, latents: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch points 3"]:
        """Return displacements in Å."""
        share = self.segmentation()[self.residue]
        turns, shifts, centers = self._motions(latents, share)
        return turn_successively(self.positions, share, turns, centers) + share @ shifts

    def transforms(
        self, latents: Float[Tensor, "batch latent"]
    ) -> tuple[Float[Tensor, "batch segments 3"], Float[Tensor, "batch segments 3"]]:
        """Return axis times angle, radians, and translation, Å, of each segment."""
        turns, shifts, _ = self._motions(latents, self.segmentation()[self.residue])
        return turns, shifts

    def draw(self, generator: torch.Generator | None) -> None:
        """Draw the segmentation."""
        self.segmentation.draw(generator)

    def divergence(self) -> Float[Tensor, ""]:
        """Return that of the segmentation, nats."""
        return self.segmentation.divergence()

    def _motions(self, latents: Tensor, share: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        centers, radii = bodies(self.positions, share)
        with self.hidden_precision(latents):
            features = self.hidden(latents)
        outputs = self.readout(features.to(latents)).unflatten(1, (-1, 6))
        return rotation_vectors(outputs[..., :3] / (2 * radii[:, None])), outputs[..., 3:], centers


def bodies(
    positions: Float[Tensor, "points 3"], share: Float[Tensor, "points segments"]
) -> tuple[Float[Tensor, "segments 3"], Float[Tensor, " segments"]]:
    """Return centres and radii of gyration of segments, Å; positions are centred."""
    weight = share.sum(dim=0) + _FEW_POINTS
    centers = share.T @ positions / weight[:, None]
    square = (share.T @ positions.square().sum(dim=1)) / weight - centers.square().sum(dim=1)
    return centers, square.clamp_min(_LEAST_RADIUS**2).sqrt()


def rotation_vectors(ratios: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
    """Return axis times angle of the quaternions (1, v), not normalised: 2 atan(|v|) v / |v|."""
    length = torch.linalg.vector_norm(ratios, dim=-1, keepdim=True)
    is_large = length > 1e-3
    apart = torch.where(is_large, length, 1.0)  # the branch not taken needs a finite gradient too
    near = 1 - ratios.square().sum(dim=-1, keepdim=True) / 3
    return 2 * torch.where(is_large, torch.atan(apart) / apart, near) * ratios


def turn_successively(
    positions: Float[Tensor, "points 3"],
    share: Float[Tensor, "points segments"],
    turns: Float[Tensor, "batch segments 3"],
    centers: Float[Tensor, "segments 3"],
) -> Float[Tensor, "batch points 3"]:
    """Turn points about the axes of all segments, one after the other, by their share of the angle.

    Most points belong to one or two segments: each turns about those that have a part of it, in their order. The cost
    grows with the largest number of segments that share a point, not with the number of segments.

    Returns
    -------
    (batch, points, 3)
        Displacements, Å.
    """
    takes_part = share.detach() > _NO_PART
    order = torch.argsort((~takes_part).to(torch.uint8), dim=1, stable=True)
    moved = torch.zeros(len(turns), *positions.shape, dtype=turns.dtype, device=turns.device)
    for step in range(int(takes_part.sum(dim=1).max())):
        segment = order[:, step]
        vectors = share.gather(1, segment[:, None]) * turns[:, segment]
        moved = moved + _turned_by(vectors, positions - centers[segment] + moved)
    return moved


def _turned_by(vectors: Tensor, points: Tensor) -> Tensor:
    """Return R x - x = (sin t / t) v × x + ½ (sin ½t / ½t)² v × (v × x), t = |v| (Rodrigues)."""
    turns = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True) / torch.pi
    once = torch.linalg.cross(vectors, points)
    twice = torch.linalg.cross(vectors, once)
    return torch.sinc(turns) * once + 0.5 * torch.sinc(turns / 2).square() * twice


def build_rigid(settings: TrainConfig, scaffold: Scaffold) -> RigidDecoder:
    """Return a perceptron of three hidden layers of 350 before the segments, unless the settings have other sizes."""
    return RigidDecoder(
        torch.from_numpy(scaffold.positions),
        torch.from_numpy(scaffold.residue),
        parse_segments(settings.segments, scaffold.template),
        settings.tau,
        latent=settings.zdim,
        width=settings.dec_dim or 350,
        layers=settings.dec_layers or 3,
        activation=settings.activation,
        residual=settings.residual,
    )
