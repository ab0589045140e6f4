"""A report made in code: 60 images of two short chains, one of them broken."""

from dataclasses import replace

import numpy as np
from matplotlib import rc_context
from molecules import helix, join

from cryoatom.analysis.report_data import Check, Picture, Plot, ReportData
from cryoatom.ensemble.motions import Motions
from cryoatom.plotting import STYLE, figure
from cryoatom.structure.template import Template, template_from_atoms

IMAGES, AXES = 60, 3
EVIL = "</script><img src=x onerror=alert(1)>"


def broken_template() -> Template:
    """Two chains, A and BB, of 8 residues; A lacks its residues 5 and 6."""
    first, second = helix(10), helix(8, chain_ids="BB")
    first = first[(first.residue_numbers != 5) & (first.residue_numbers != 6)]
    second = replace(second, positions=second.positions + [14.0, 0, 0])
    return template_from_atoms(join(first, second), "example")[0]


def rows_of(images: int) -> np.ndarray:
    """Of a run that was trained with --ind: none is the number of its image."""
    return 5 + 3 * np.arange(images)


def motions(mean: np.ndarray, axes: np.ndarray, amplitudes: np.ndarray) -> Motions:
    spreads = amplitudes.astype(np.float64).std(axis=0)
    return Motions(mean, axes, spreads, np.square(spreads) / max(np.square(spreads).sum(), 1e-9), amplitudes, 0.1)


def example(*, images: int = IMAGES, name: str = "Example") -> ReportData:
    generator = np.random.default_rng(0)
    template = broken_template()
    residues = len(template)
    axes = np.linalg.qr(generator.normal(size=(3 * residues, AXES)))[0].T.reshape(AXES, residues, 3)
    amplitudes = (generator.normal(size=(images, AXES)) * [20, 8, 2]).astype(np.float32)
    mean = template.positions + generator.normal(scale=0.2, size=(residues, 3))
    ends = mean + np.linspace(-20, 20, 5)[:, None, None] * axes[0]
    side = generator.normal(size=(3, 16, 16)).astype(np.float32)
    with rc_context(STYLE):
        drawn, plot = figure(3, 2)
        plot.plot([0, 1], [0, 1])
    grid = np.stack([np.arange(images) % 10, np.arange(images) // 10], axis=1).astype(np.float32)
    return ReportData(
        title=name,
        facts={"command": f"cryoatom train {name}", "images": str(images), "version": "0"},
        notes=(f"Look at {name}.", f"Run `cryoatom {name}` now."),
        template=template,
        rows=rows_of(images),
        maps={"grid|x|y": grid, f"{name}|first|second": amplitudes[:, :2]},
        colours={"cluster": np.arange(images) % 4 + 1, f"gain {name}": generator.normal(size=images)},
        motions=motions(mean, axes, amplitudes),
        series={"motion 1": ends, name: ends[::-1]},
        residue_colours={"fluctuation (Å)": generator.uniform(1, 3, residues), "domain": np.arange(residues) // 6 + 1},
        series_notes={"motion 1": tuple(f"{name} {k}" for k in range(5))},
        pictures=(Picture(7, f"fits worst {name}", *side), Picture(11, "", *side)),
        plots=(
            Plot("trust", f"Trust {name}", f"Caption {name}", drawn, "trust"),
            Plot("motions", "Moved", "How far.", drawn, "moved"),
        ),
        checks=(
            Check("held-out", f"+3 {name}", "0", "good", "It learns."),
            Check("clashes", "12", "2", "look", "Some."),
            Check("control", "1", "9", "bad", "Hm."),
            Check("epochs", "5", "", "", "So long it ran."),
        ),
        image_names=np.array([f"{i + 1:06d}@{name}.mrcs" for i in range(images)]),
    )
