"""Do images tell what they are said to tell? Each is compared with its conformation and with what should fit worse."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from cryoatom.geometry import random_rotations
from cryoatom.particles.rows import spaced_rows
from cryoatom.training.objective import Batch
from cryoatom.training.sample import gains
from cryoatom.training.trainer import Trainer

SAMPLE = 2000
FEWEST_HELD_OUT = 30  # of fewer, the standard error of a mean is itself a guess
OWN, SHUFFLED, MEAN, TEMPLATE = "own conformation", "another image's conformation", "mean conformation", "template"
TURNED, MIRRORED, OTHER_POSE = "template, turned at random", "template, mirrored", "own conformation, another's pose"
KINDS = OWN, SHUFFLED, MEAN, TEMPLATE, MIRRORED, TURNED, OTHER_POSE


@dataclass(frozen=True)
class Controls:
    """What images gain over an empty image, nats each, if they are taken to show one thing or another.

    Each kind has the scale of the model that suits it best: no control is worse for its strength alone.

    - own - mean conformation, less `optimism`: what is known of differences between images. It is above 0 only if the
      images show more than one conformation.
    - own - another image's conformation, less 2 `optimism`: the same, but more, as the other one lies farther away than
      the mean. If all images show one conformation, the own one gains by its fit to this image's noise, and the
      other one loses as much by its fit to another image's.
    - template - turned or mirrored template: pose and template are right. The mirror image keeps the outline as well as
      it can (it is mirrored along the direction in which the template is thinnest), so that only what is inside tells.
    - own - another's pose: the poses are those of the images.

    Parameters
    ----------
    rows : (images,) int64
    gains : dict of str to (images,) float64
        By kind, nats.
    held_out : dict of str to (held out,) float64
        The same of images that did not train the decoder; their latents were fitted to them all the same. Empty where
        there are fewer than 30.
    optimism : float
        What an image gains at most by a latent that is fitted to noise, nats: half the latent's dimension, as twice the
        gain of a fit of d free numbers is chi-squared with d degrees of freedom. Regularisers and few steps bind them:
        of images of one conformation 45 to 80% of it was found, and of twice as much over another image's. It holds
        for a decoder that has not learned the noise of these very images, so of held-out ones.
    """

    rows: np.ndarray
    gains: dict[str, np.ndarray]
    held_out: dict[str, np.ndarray]
    optimism: float

    def mean(self, kind: str, *, held_out: bool = False) -> tuple[float, float]:
        """Return the mean gain of a kind and its standard error, nats an image."""
        return _mean((self.held_out if held_out else self.gains)[kind])

    def difference(self, kind: str, other: str, *, held_out: bool = False) -> tuple[float, float]:
        """Return by how much a kind explains the same images better than another, and the standard error."""
        of_kind = self.held_out if held_out else self.gains
        return _mean(of_kind[kind] - of_kind[other])


def measure_controls(
    trainer: Trainer,
    rows: Int[np.ndarray, " rows"],
    seed: int,
    *,
    held_out: Int[np.ndarray, " held"] | None = None,
    sample: int = SAMPLE,
) -> Controls:
    """Compare images with their own conformations and with controls.

    Parameters
    ----------
    trainer
        Of the run, as it ended.
    rows
        Images to choose from, at most `sample` of them evenly spaced; dead ones are left out.
    seed
        Of the shuffles and the turns.
    held_out
        Images that did not train the decoder, and can be judged as `rows` can.

    Raises
    ------
    ValueError
        With fewer than two images that can be used.
    """
    some = _choose(trainer, rows, sample)
    if len(some) < 2:
        raise ValueError(f"controls compare images with one another: at least 2 are needed, there are {len(some)}")
    mean = torch.from_numpy(_mean_conformation(trainer, some)).to(trainer.device)
    generator = np.random.default_rng([seed, 7])
    others = _choose(trainer, np.array([], np.int64) if held_out is None else held_out, sample)
    return Controls(
        rows=some,
        gains=_gains(trainer, some, mean, generator),
        held_out=_gains(trainer, others, mean, generator) if len(others) >= FEWEST_HELD_OUT else {},
        optimism=0.5 * trainer.latents.values.shape[1],
    )


def mirrored(positions: Float[np.ndarray, "points 3"]) -> Float[np.ndarray, "points 3"]:
    """Return the mirror image, in place, along the direction of least extent: the outline changes least."""
    center = positions.mean(axis=0)
    _, _, axes = np.linalg.svd(positions - center, full_matrices=False)
    return positions - 2 * ((positions - center) @ axes[-1])[:, None] * axes[-1]


def _choose(trainer: Trainer, rows: np.ndarray, sample: int) -> np.ndarray:
    alive = rows[~trainer.data.is_dead[rows]]
    return alive[spaced_rows(len(alive), sample)]


def _mean_conformation(trainer: Trainer, rows: np.ndarray) -> Float[np.ndarray, "points 3"]:
    parts = [trainer.place(part).cpu().numpy().sum(axis=0, dtype=np.float64) for part in trainer.chunks(rows)]
    return (sum(parts, np.zeros(1)) / len(rows)).astype(np.float32)


def _gains(
    trainer: Trainer, rows: np.ndarray, mean: Float[Tensor, "points 3"], generator: np.random.Generator
) -> dict[str, np.ndarray]:
    """Return the gain of each image by each kind; images are read once."""
    order = generator.permutation(len(rows))
    partner = np.empty_like(rows)
    partner[order] = rows[np.roll(order, 1)]  # never the image itself
    turns = torch.from_numpy(random_rotations(len(rows), generator)).float()
    template = trainer.model.start
    mirror = torch.from_numpy(mirrored(template.cpu().double().numpy())).to(template)

    def compare(points: Tensor, batch: Batch) -> Tensor:
        return torch.stack(trainer.objective.compare(trainer.model, points, batch)).cpu()

    @torch.no_grad()
    def compute(part: slice) -> Tensor:
        batch, count = trainer.batch(rows[part]), len(rows[part])
        own, other = (trainer.place(which[part]) for which in (rows, partner))
        center = template.mean(dim=0)
        turned = (template - center) @ turns[part].to(template).mT + center
        found = {
            OWN: compare(own, batch),
            SHUFFLED: compare(other, batch),
            MEAN: compare(mean.expand(count, -1, -1), batch),
            TEMPLATE: compare(template.expand(count, -1, -1), batch),
            MIRRORED: compare(mirror.expand(count, -1, -1), batch),
            TURNED: compare(turned, batch),
            OTHER_POSE: compare(own, trainer.posed(batch, partner[part])),
        }
        return torch.stack([found[kind] for kind in KINDS])

    parts = [slice(start, start + trainer.chunk) for start in range(0, len(rows), trainer.chunk)]
    tables = torch.cat(trainer.workers.map(compute, parts), dim=-1).double()
    return {kind: gains(*table).numpy() for kind, table in zip(KINDS, tables, strict=True)}


def _mean(values: np.ndarray) -> tuple[float, float]:
    return float(values.mean()), float(values.std(ddof=1)) / len(values) ** 0.5
