"""Domains, hinges and domain angles of adenylate kinase, in a run and in its truth.

    python benchmarks/domains.py RUN --gt truth/trajectory.dcd --gt-top truth/trajectory.cif --labels truth/frames.txt

Prints the domains and hinges that are found beside the literature's (CORE 1-29, 68-117, 161-214; NMP 30-67; LID
118-160), and compares the distributions of the LID-CORE and the NMP-CORE angle (Beckstein et al., J Mol Biol 394
(2009) 160) with the truth's: the earth mover's distance of the run, and of the static template, in degrees; with
labels also the r.m.s. error of an image. --sensitivity repeats the search with other constants.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from time import perf_counter

import numpy as np
from scipy.stats import wasserstein_distance

import cryoatom
from cryoatom.ensemble import domain_search
from cryoatom.ensemble.collective import evaluate, parse_variables
from cryoatom.ensemble.domains import Domains, find_domains
from cryoatom.results.ground_truth import read_ground_truth, read_labels
from cryoatom.structure.template import Template

BORDERS = {
    "CORE-NMP": (29, (29,)),
    "NMP-CORE": (67, (67, 59)),
    "CORE-LID": (117, (117, 121)),
    "LID-CORE": (160, (160,)),
}
ANGLES = ("LID-CORE=angle:179-185/115-125/125-153", "NMP-CORE=angle:115-125/90-100/35-55")
CONSTANTS = {
    "LEAST_SHARE": (0.075, 0.1, 0.2, 0.3),
    "LEAST_RATIO": (0.5, 0.7, 1.4),
    "LEAST_EXPLAINED": (0.5, 0.8, 0.9, 0.95),
    "LEAST_DOMAIN": (10, 30),
    "LEAST_SEGMENT": (3, 8),
    "MOST_DOMAINS": (6, 8, 15),
    "SEEN_NOISE": (0.1, 1.0),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--gt", type=Path, required=True)
    parser.add_argument("--gt-top", type=Path)
    parser.add_argument("--labels", type=Path, help="true frame of each image; without it all frames count alike")
    parser.add_argument("--sensitivity", action="store_true", help="search with other constants and seeds, too")
    arguments = parser.parse_args()
    run = cryoatom.load(arguments.run)
    truth = read_ground_truth(arguments.gt, arguments.gt_top, run.template).positions
    labels = None if arguments.labels is None else read_labels(arguments.labels, len(run), len(truth))
    sources = {"run": np.asarray(run.conformations), "truth": truth}
    for name, conformations in sources.items():
        start = perf_counter()
        found = find_domains(conformations, run.template.chain_position)
        print(f"\n**{name}**, {len(conformations)} conformations, {perf_counter() - start:.1f} s: {described(found)}\n")
        print_domains(found, run.template)
    if arguments.sensitivity:
        print_sensitivity(sources, run.template)
    print_angles(run.conformations, truth, labels, run.template)


def described(found: Domains) -> str:
    return f"{len(found)} domains explain {found.captured:.1%} of the mean square fluctuation"


def print_domains(found: Domains, template: Template) -> None:
    """Print a table of domains, and one of the literature's borders with the hinge nearest to each."""
    motions = {motion.domain: f"{motion.angle_deg:.1f} | {motion.translation:.1f}" for motion in found.motions}
    print("| domain | residues | r.m.s. inside (Å) | rotation (°) | along the axis (Å) |\n|---|---|---|---|---|")
    for domain in range(1, len(found) + 1):
        inside = found.rigidity[domain - 1]
        print(
            f"| {domain} | {pieces(found.labels == domain, template)} | {inside:.2f} | {motions.get(domain, ' | ')} |"
        )
    borders = template.residue_numbers[:-1][np.diff(found.labels) != 0]
    hinges = [template.residue_numbers[hinge.residues] for hinge in found.hinges]
    print("\n| border | literature, last residue before | found | off | hinge | hinge's nearest residue is off |")
    print("|---|---|---|---|---|---|")
    for name, (place, others) in BORDERS.items():
        if not hinges:
            continue
        border = borders[np.abs(borders - place).argmin()]
        hinge = min(hinges, key=lambda numbers: np.abs(numbers - place).min())
        off = min(abs(int(border) - other) for other in others)
        nearest = int(min(np.abs(hinge - other).min() for other in others))
        known = " or ".join(map(str, others))
        print(f"| {name} | {known} | {border} | {off} | {hinge[0]}-{hinge[-1]} | {nearest} |")


def print_sensitivity(sources: dict[str, np.ndarray], template: Template) -> None:
    """Print the borders that are found with other constants, other seeds and smaller samples."""
    print("\n| constant | value |" + "".join(f" borders, {name} |" for name in sources) + "\n|---|---|---|---|")
    for name, values in CONSTANTS.items():
        usual = getattr(domain_search, name)
        for value in values:
            setattr(domain_search, name, value)
            print_borders(f"{name} ({usual})", str(value), sources, template)
        setattr(domain_search, name, usual)
    for seed in range(1, 4):
        print_borders("seed", str(seed), sources, template, seed=seed)
    for sample in (20, 100, 200):
        print_borders("sample", str(sample), sources, template, sample=sample)


def print_borders(
    name: str, value: str, sources: dict[str, np.ndarray], template: Template, *, seed: int = 0, sample: int = 500
) -> None:
    cells = []
    for conformations in sources.values():
        found = find_domains(conformations, template.chain_position, seed=seed, sample=sample)
        borders = template.residue_numbers[:-1][np.diff(found.labels) != 0]
        cells.append(f"{len(found)}: " + " ".join(map(str, borders)))
    print(f"| {name} | {value} | " + " | ".join(cells) + " |", flush=True)


def print_angles(conformations: np.ndarray, truth: np.ndarray, labels: np.ndarray | None, template: Template) -> None:
    """Print how far the distributions of both angles are from the truth's."""
    weights = None if labels is None else np.bincount(labels, minlength=len(truth))
    print("\n| angle | truth, mean ± spread (°) | run | EMD (°) | EMD, template (°) | r.m.s. error of an image (°) |")
    print("|---|---|---|---|---|---|")
    for variable in parse_variables(ANGLES, template):
        found, known = evaluate(variable, conformations), evaluate(variable, truth)
        static = evaluate(variable, template.positions[None])
        every = known if weights is None else np.repeat(known, weights)
        error = "" if labels is None else f"{np.sqrt(np.square(found - known[labels]).mean()):.2f}"
        spreads = " | ".join(f"{values.mean():.1f} ± {values.std():.1f}" for values in (every, found))
        distances = " | ".join(f"{wasserstein_distance(values, every):.2f}" for values in (found, static))
        print(f"| {variable.name} | {spreads} | {distances} | {error} |")


def pieces(mask: np.ndarray, template: Template) -> str:
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(int), [0]]))).reshape(-1, 2)
    numbers = template.residue_numbers
    return ", ".join(f"{numbers[start]}-{numbers[stop - 1]}" for start, stop in edges.tolist())


if __name__ == "__main__":
    main()
