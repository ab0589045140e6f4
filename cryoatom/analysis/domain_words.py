"""Rigid domains, hinges and their motions by the names of residues."""

from __future__ import annotations

import numpy as np

from cryoatom.ensemble.domains import Domains
from cryoatom.structure.template import Template


def domain_summary(domains: Domains, template: Template) -> dict[str, object]:
    """Return domains, hinges and motions by residue numbers, for domains.json."""
    labels, parts = _labels(template), domain_parts(domains, template)
    return {
        "domains": [
            {"domain": d + 1, "residues": part, "rigidity": round(float(domains.rigidity[d]), 3)}
            for d, part in enumerate(parts)
        ],
        "hinges": [
            {"residues": [labels[hinge.residues[0]], labels[hinge.residues[-1]]], "between": list(hinge.domains)}
            for hinge in domains.hinges
        ],
        "motions": [
            {
                "domain": motion.domain,
                "rotation_deg": round(motion.angle_deg, 2),
                "translation": round(motion.translation, 2),
                "axis": [round(float(value), 4) for value in motion.axis],
                "point": [round(float(value), 2) for value in motion.point],
            }
            for motion in domains.motions
        ],
        "explained": round(domains.captured, 4),
    }


def domain_parts(domains: Domains, template: Template) -> list[list[str]]:
    """Return the stretches of each domain, as A:1-30."""
    labels = _labels(template)
    ends = np.flatnonzero((np.diff(domains.labels) != 0) | (np.diff(template.chain_position) != 1)) + 1
    parts: list[list[str]] = [[] for _ in range(len(domains))]
    for part in np.split(np.arange(len(template)), ends):
        last = labels[part[-1]].rpartition(":")[2]
        parts[domains.labels[part[0]] - 1].append(labels[part[0]] if len(part) == 1 else f"{labels[part[0]]}-{last}")
    return parts


def _labels(template: Template) -> list[str]:
    return [residue_label(template, index) for index in range(len(template))]


def residue_label(template: Template, index: int) -> str:
    """Return a residue's name for people, as A:117."""
    return f"{template.chain_ids[index]}:{template.residue_numbers[index]}{template.insertion_codes[index]}"


def domains_in_words(domains: Domains, template: Template) -> str:
    """Say which residues are which domain, how they turn, and where the hinges are."""
    labels, turns = _labels(template), {motion.domain: motion for motion in domains.motions}
    texts = []
    for number, part in enumerate(domain_parts(domains, template), start=1):
        text = f"Domain {number}: {', '.join(part)}"
        if number in turns:
            motion = turns[number]
            text += f", turns by {motion.angle_deg:.1f}° against domain 1"
            text += f" and moves {abs(motion.translation):.1f} Å along the axis"
        texts.append(text)
    ends = [(labels[hinge.residues[0]], labels[hinge.residues[-1]].rpartition(":")[2]) for hinge in domains.hinges]
    hinges = ", ".join(f"{first}-{last}" for first, last in ends)
    return f"{'. '.join(texts)}." + (f" Hinges: {hinges}." if hinges else "")
