"""Are wrong poses, hands, signs and frames found, and right ones let through?

    OMP_NUM_THREADS=1 python benchmarks/wrong_input.py DATA [DATA ...] --images 500 --sets 20 --most 4

DATA are folders of `cryoatom simulate`, each with a template.cif in the frame of its poses. Every one is divided into
sets of images without overlap; each set is checked as it is (a finding is a false alarm), then with each wrong input
in turn (no finding, or another one, is a miss). Other templates that lie in the frame are given by --templates, and
must pass: parts of the particle, other conformations. Prints a markdown table.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from cryoatom.geometry import random_rotations
from cryoatom.structure.template import Template
from cryoatom.train_config import TrainConfig
from cryoatom.training.checks import find_faults
from cryoatom.training.inputs import Inputs, read_inputs
from cryoatom.workers import Workers

RIGHT, TURNED = "as it is", "template turned at random"
FLIP = np.diag([1.0, 1.0, -1.0])
Change = Callable[[Inputs, np.random.Generator], Inputs]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="+")
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--sets", type=int, default=20)
    parser.add_argument("--most", type=int, default=20, help="sets that each wrong input is tried on")
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=CASES)
    parser.add_argument("--templates", type=Path, nargs="+", default=[], help="in the frame of the first DATA")
    parser.add_argument("--turns", type=int, default=0, help="of the template at random, on one set")
    arguments = parser.parse_args()
    print("| data | case | right | sets | seconds each | a finding |")
    print("|---|---|---|---|---|---|")
    for data in arguments.data:
        paths = {"particles": data / "particles.star", "template": data / "template.cif", "outdir": data / "none"}
        config = TrainConfig.model_validate(paths | {"device": "cpu", "threads": 1})
        inputs = read_inputs(config)
        order = np.random.default_rng(0).permutation(len(inputs.particles))
        sets = [np.sort(order[k :: arguments.sets][: arguments.images]) for k in range(arguments.sets)]
        poses = inputs.particles.poses
        assert poses is not None
        for case in arguments.cases:
            if case == "opposite shifts" and not poses.shifts.any():
                continue
            some = sets if case == RIGHT else sets[: arguments.most]
            print(f"| {data.name} | {case} | {row(config, inputs, some, case)} |", flush=True)
        if arguments.turns:
            some = [sets[0]] * arguments.turns
            print(f"| {data.name} | turns of one set | {row(config, inputs, some, TURNED)} |", flush=True)
        for path in arguments.templates if data == arguments.data[0] else []:
            other = read_inputs(config.model_copy(update={"template": path}))
            print(f"| {data.name} | {path.stem} | {row(config, other, sets[:1], RIGHT)} |", flush=True)


def row(config: TrainConfig, inputs: Inputs, sets: list[np.ndarray], case: str) -> str:
    change, words, is_bright = CASES[case]
    right, seconds, shown = 0, 0.0, ""
    for number, rows in enumerate(sets):
        some = change(replace(inputs, particles=inputs.particles[rows]), np.random.default_rng(number))
        started = time.perf_counter()
        with Workers(1) as workers:
            found = find_faults(config.model_copy(update={"uninvert_data": is_bright}), some, workers)
        seconds += time.perf_counter() - started
        is_right = len(found) == len(words) and all(w in text for w, text in zip(words, found, strict=True))
        right += is_right
        if found and (not shown or not is_right):
            shown = ("" if is_right else "WRONG: ") + "; ".join(text.split(". ")[0] for text in found)
        elif words and not found:
            shown = "MISSED"
    return f"{right} | {len(sets)} | {seconds / len(sets):.1f} | {shown}"


def posed(rotate: Callable[[np.ndarray], np.ndarray], sign: float = 1.0) -> Change:
    def change(inputs: Inputs, generator: np.random.Generator) -> Inputs:
        poses = inputs.particles.poses
        assert poses is not None
        poses = replace(poses, rotations=rotate(poses.rotations), shifts=sign * poses.shifts)
        return replace(inputs, particles=replace(inputs.particles, poses=poses))

    return change


def shuffled(inputs: Inputs, generator: np.random.Generator) -> Inputs:
    poses = inputs.particles.poses
    assert poses is not None
    return replace(inputs, particles=replace(inputs.particles, poses=poses[generator.permutation(len(poses))]))


def offset(inputs: Inputs, generator: np.random.Generator) -> Inputs:
    poses = inputs.particles.poses
    assert poses is not None
    return replace(inputs, particles=replace(inputs.particles, poses=poses[np.roll(np.arange(len(poses)), 1)]))


def turned(angle_deg: float | None) -> Change:
    def change(inputs: Inputs, generator: np.random.Generator) -> Inputs:
        axis = generator.normal(size=3)
        turn = random_rotations(1, generator)[0]
        if angle_deg is not None:
            turn = Rotation.from_rotvec(angle_deg * axis / np.linalg.norm(axis), degrees=True).as_matrix()
        return replace(inputs, template=moved(inputs.template, turn))

    return change


def mirrored(inputs: Inputs, generator: np.random.Generator) -> Inputs:
    return replace(inputs, template=moved(inputs.template, FLIP))


def moved(template: Template, matrix: np.ndarray) -> Template:
    atoms = replace(template.atoms, positions=template.atoms.positions @ matrix.T)
    return replace(template, atoms=atoms, positions=template.positions @ matrix.T)


def both(first: Change, second: Change) -> Change:
    return lambda inputs, generator: second(first(inputs, generator), generator)


def same(inputs: Inputs, generator: np.random.Generator) -> Inputs:
    return inputs


TRANSPOSED = posed(lambda r: np.swapaxes(r, 1, 2))
CASES: dict[str, tuple[Change, tuple[str, ...], bool]] = {
    RIGHT: (same, (), False),
    "mirrored map (z)": (posed(lambda r: FLIP @ r @ FLIP), ("other hand",), False),
    "mirrored map (x)": (posed(lambda r: FLIP @ r @ np.diag([-1.0, 1.0, 1.0])), ("other hand",), False),
    "mirrored template": (mirrored, ("mirror image",), False),
    "transposed": (TRANSPOSED, ("inverse",), False),
    "opposite shifts": (posed(lambda r: r, -1.0), ("wrong sign",), False),
    "inverted contrast": (same, ("contrast",), True),
    "shuffled": (shuffled, ("do not belong",), False),
    "off by one": (offset, ("do not belong",), False),
    "template turned by 40°": (turned(40.0), ("not in the frame",), False),
    TURNED: (turned(None), ("not in the frame",), False),
    "transposed, inverted": (TRANSPOSED, ("contrast", "inverse"), True),
    "transposed, turned": (both(TRANSPOSED, turned(None)), ("inverse",), False),
    "shuffled, inverted": (shuffled, ("contrast", "do not belong"), True),
}

if __name__ == "__main__":
    main()
