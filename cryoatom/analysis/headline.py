"""What an analysis found, in a few lines for the terminal and the log."""

from __future__ import annotations

import numpy as np

from cryoatom.analysis.domain_words import domain_parts, residue_label
from cryoatom.analysis.landscape import Landscape, Traversal
from cryoatom.analysis.mechanics import Mechanics
from cryoatom.analysis.report_data import Check
from cryoatom.analysis.run import Run


def headline(
    run: Run,
    landscape: Landscape,
    series: dict[str, Traversal],
    mechanics: Mechanics,
    checks: tuple[Check, ...],
) -> list[str]:
    """Return the findings that a user would look for first, one a line."""
    lines = [_trust(checks), *_motion(run, landscape, series), *_domains(run, mechanics)]
    images = run.own_images
    if "sd" in images:
        typical = float(np.median(images["sd"][landscape.rows]))
        silent = int(images["is_uninformative"].sum())
        lines.append(
            f"uncertainty: {typical:.2f} Å for a typical image (r.m.s. over residues; its own noise alone)"
            + (f"; {silent:,} of {len(run):,} images tell next to nothing" if silent else "")
        )
    for variable, values in mechanics.variables:
        low, middle, high = np.quantile(values[landscape.rows], [0.05, 0.5, 0.95])
        lines.append(f"{variable.name}: {middle:.1f} {variable.unit}; 90% of the images from {low:.1f} to {high:.1f}")
    return lines


def _trust(checks: tuple[Check, ...]) -> str:
    by_verdict = {verdict: [c.name for c in checks if c.verdict == verdict] for verdict in ("bad", "look", "good")}
    counts = [
        f"{len(names)} {word} ({'; '.join(names)})"
        for word, names in (("bad", by_verdict["bad"]), ("to look at", by_verdict["look"]))
        if names
    ]
    counts.append(f"{len(by_verdict['good'])} good")
    return f"trust: {', '.join(counts)}"


def _motion(run: Run, landscape: Landscape, series: dict[str, Traversal]) -> list[str]:
    if "motion1" not in series:
        return ["motions: none; all conformations are alike"]
    positions = series["motion1"].positions.astype(np.float64)
    moved = np.linalg.norm(positions[-1] - positions[0], axis=1)
    most = int(moved.argmax())
    share, name = 100 * landscape.motions.shares[0], residue_label(run.template, most)
    return [f"motion 1: {share:.0f}% of the variance; {name} moves most, by {moved[most]:.1f} Å"]


def _domains(run: Run, mechanics: Mechanics) -> list[str]:
    domains = mechanics.domains
    if len(domains) < 2:
        return ["rigid domains: one"]
    angles = {motion.domain: motion.angle_deg for motion in domains.motions}
    parts = domain_parts(domains, run.template)
    texts = [
        f"{number} ({', '.join(part)}{f', turns by {angles[number]:.0f}°' if number in angles else ''})"
        for number, part in enumerate(parts, start=1)
    ]
    return [f"rigid domains: {'; '.join(texts)}"]
