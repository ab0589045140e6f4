"""Particles made in code, for the tests of what reads them."""

from pathlib import Path

import numpy as np

from cryoatom.files.mrc import StackWriter
from cryoatom.geometry import random_rotations
from cryoatom.records import Optics, Particles, Poses


def write_stack(path: Path, images: np.ndarray, pixel_size: float = 1.5) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with StackWriter(path, images.shape[-1], pixel_size, len(images)) as stack:
        stack.write(images.astype(np.float32))
    return path


def make_optics(count: int, generator: np.random.Generator) -> Optics:
    defocus = generator.uniform(5e3, 3e4, (2, count))
    return Optics(
        voltage_kv=np.full(count, 300.0),
        cs_mm=np.full(count, 2.7),
        amplitude_contrast=np.full(count, 0.07),
        defocus_u=defocus.max(axis=0),
        defocus_v=defocus.min(axis=0),
        defocus_angle=generator.uniform(0, np.pi, count),
        phase_shift=generator.uniform(0, np.pi / 2, count),
    )


def make_particles(folder: Path, counts: tuple[int, ...] = (5, 3), box: int = 16, seed: int = 0) -> Particles:
    """Write stacks of noise and return particles that take their images in a mixed order."""
    generator = np.random.default_rng(seed)
    stacks = [
        write_stack(folder / f"stack{i}.mrcs", generator.normal(3, 2, (n, box, box))) for i, n in enumerate(counts)
    ]
    places = np.array([(i, k) for i, n in enumerate(counts) for k in range(n)])
    places = places[generator.permutation(len(places))]
    count = len(places)
    return Particles(
        source=folder / "particles.star",
        image_names=np.array([f"{k + 1:06d}@stack{i}.mrcs" for i, k in places]),
        stacks=tuple(stack.resolve() for stack in stacks),
        stack_of_image=places[:, 0],
        slice_of_image=places[:, 1],
        box=box,
        pixel_size=1.5,
        optics=make_optics(count, generator),
        optics_group=places[:, 0],
        poses=Poses(random_rotations(count, generator), generator.uniform(-5, 5, (count, 2))),
    )
