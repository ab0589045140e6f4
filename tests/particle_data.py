"""Particles made in code, for the tests of what reads them, and written as other programs write them."""

import pickle
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from cryoatom.files.mrc import StackWriter
from cryoatom.geometry import (
    euler_from_rotations,
    random_rotations,
    rotations_from_vectors,
    vectors_from_rotations,
)
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


def make_exact_particles(folder: Path, counts: tuple[int, ...] = (5, 3), seed: int = 0) -> Particles:
    """Return particles as a .cs file holds them: rotation vectors, shifts in pixels and CTF in single precision."""
    particles = make_particles(folder, counts, seed=seed)
    generator, count = np.random.default_rng(seed + 1), len(particles)
    vectors = vectors_from_rotations(random_rotations(count, generator)).astype(np.float32)
    pixel_size, shifts = float(np.float32(1.0609)), generator.uniform(-5, 5, (count, 2)).astype(np.float32)
    columns = particles.optics.as_array().astype(np.float32).astype(np.float64).T
    optics = replace(Optics(*columns), voltage_kv=np.where(particles.optics_group == 0, 300.0, 200.0))
    poses = Poses(rotations_from_vectors(vectors.astype(np.float64)), shifts.astype(np.float64) * pixel_size)
    return replace(particles, pixel_size=pixel_size, optics=optics, poses=poses)


def cs_fields(particles: Particles) -> dict[str, np.ndarray]:
    """Return the fields of a .cs file of these particles."""
    count, optics, poses = len(particles), particles.optics, particles.poses
    assert poses is not None
    single, paths = np.float32, [name.partition("@")[2] for name in particles.image_names.tolist()]
    return {
        "uid": np.random.default_rng(7).permutation(count).astype(np.uint64) + np.uint64(2**63),
        "blob/path": np.array([f">{path}".encode() for path in paths]),
        "blob/idx": particles.slice_of_image.astype(np.uint32),
        "blob/shape": np.full((count, 2), particles.box, np.uint32),
        "blob/psize_A": np.full(count, particles.pixel_size, single),
        "blob/sign": np.full(count, -1, single),
        "ctf/type": np.array([b"imported"] * count),
        "ctf/exp_group_id": (3 * particles.optics_group + 2).astype(np.uint32),
        "ctf/accel_kv": optics.voltage_kv.astype(single),
        "ctf/cs_mm": optics.cs_mm.astype(single),
        "ctf/amp_contrast": optics.amplitude_contrast.astype(single),
        "ctf/df1_A": optics.defocus_u.astype(single),
        "ctf/df2_A": optics.defocus_v.astype(single),
        "ctf/df_angle_rad": optics.defocus_angle.astype(single),
        "ctf/phase_shift_rad": optics.phase_shift.astype(single),
        "alignments3D/pose": vectors_from_rotations(poses.rotations).astype(single),
        "alignments3D/shift": (-poses.shifts / particles.pixel_size).astype(single),
        "alignments3D/psize_A": np.full(count, particles.pixel_size, single),
    }


def write_cs(path: Path, fields: Mapping[str, np.ndarray]) -> Path:
    """Write a cryoSPARC file of some fields."""
    first = next(iter(fields.values()))
    records = np.zeros(len(first), [(name, values.dtype, values.shape[1:]) for name, values in fields.items()])
    for name, values in fields.items():
        records[name] = values
    with path.open("wb") as file:
        np.save(file, records, allow_pickle=False)
    return path


def write_cryodrgn(folder: Path, particles: Particles, protocol: int = 4) -> tuple[Path, Path]:
    """Write pose.pkl in double precision, as from a star file, and ctf.pkl in single precision, as cryoDRGN does."""
    optics, poses = particles.optics, particles.poses
    assert poses is not None
    offsets = -poses.shifts / (particles.box * particles.pixel_size)
    geometry = [np.full(len(particles), particles.box), np.full(len(particles), particles.pixel_size)]
    defocus = [optics.defocus_u, optics.defocus_v, np.rad2deg(optics.defocus_angle)]
    rest = [optics.voltage_kv, optics.cs_mm, optics.amplitude_contrast, np.rad2deg(optics.phase_shift)]
    ctf = np.stack([*geometry, *defocus, *rest], axis=1).astype(np.float32)
    (folder / "pose.pkl").write_bytes(pickle.dumps((poses.rotations, offsets), protocol))
    (folder / "ctf.pkl").write_bytes(pickle.dumps(ctf, protocol))
    return folder / "pose.pkl", folder / "ctf.pkl"


def star_columns(particles: Particles) -> dict[str, list[str]]:
    """Return the columns of a one-table star file, all digits of each number kept."""
    optics, poses = particles.optics, particles.poses
    assert poses is not None
    angles = euler_from_rotations(poses.rotations)
    numbers = {
        "rlnVoltage": optics.voltage_kv,
        "rlnSphericalAberration": optics.cs_mm,
        "rlnAmplitudeContrast": optics.amplitude_contrast,
        "rlnDefocusU": optics.defocus_u,
        "rlnDefocusV": optics.defocus_v,
        "rlnDefocusAngle": np.rad2deg(optics.defocus_angle),
        "rlnPhaseShift": np.rad2deg(optics.phase_shift),
        **dict(zip(("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"), angles.T, strict=True)),
        "rlnOriginXAngst": -poses.shifts[:, 0],
        "rlnOriginYAngst": -poses.shifts[:, 1],
        "rlnImagePixelSize": np.full(len(particles), particles.pixel_size),
        "rlnImageSize": np.full(len(particles), particles.box),
    }
    return {"rlnImageName": particles.image_names.tolist()} | {
        name: [repr(value) for value in values.tolist()] for name, values in numbers.items()
    }


def star_table(name: str, columns: Mapping[str, list[str]]) -> str:
    """Return one table as RELION lays it out."""
    header = "".join(f"_{column} #{i + 1} \n" for i, column in enumerate(columns))
    rows = "".join(" ".join(row) + " \n" for row in zip(*columns.values(), strict=True))
    return f"\ndata_{name}\n\nloop_ \n{header}{rows} \n"
