"""How the molecule moves: fluctuations, rigid domains and hinges, collective variables."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

import numpy as np
from matplotlib.figure import Figure

from cryoatom.analysis.analyze_config import AnalyzeConfig
from cryoatom.analysis.domain_words import domain_parts, domain_summary, domains_in_words
from cryoatom.analysis.landscape import Landscape, Traversal
from cryoatom.analysis.report_data import Plot
from cryoatom.analysis.run import Run
from cryoatom.ensemble.collective import CollectiveVariable, evaluate, parse_variables
from cryoatom.ensemble.domain_plots import PALETTE, plot_collective, plot_domains, plot_fluctuation
from cryoatom.ensemble.domains import Domains, distance_fluctuations, find_domains
from cryoatom.ensemble.fluctuation import fluctuations
from cryoatom.ensemble.sampling import drawn_sample
from cryoatom.files.chimerax import domain_script
from cryoatom.files.csv_table import write_csv
from cryoatom.files.replacing import replacing
from cryoatom.files.structure import write_atoms
from cryoatom.run_folder import AnalysisFolder
from cryoatom.training.outputs import alpha_atoms

_SAMPLE = 2000
_MATRIX_IMAGES = 300
_AXIS = 25.0  # Å, half the length of an axis that is drawn


@dataclass(frozen=True)
class Mechanics:
    """How the molecule moves.

    Parameters
    ----------
    fluctuation : (residues,) float64
        R.m.s. over images, Å.
    uncertainty : (residues,) float64 or None
        R.m.s. over images of the standard deviation that an image leaves, Å.
    central : int
        The image whose conformation is nearest to the mean.
    domains : Domains
        One, of all residues, where nothing moves as a body of its own.
    variables : tuple of (CollectiveVariable, (images,) float64)
        With the value of each image, Å or degrees.
    """

    fluctuation: np.ndarray
    uncertainty: np.ndarray | None
    central: int
    domains: Domains
    variables: tuple[tuple[CollectiveVariable, np.ndarray], ...]


def measure_mechanics(run: Run, landscape: Landscape, series: dict[str, Traversal], config: AnalyzeConfig) -> Mechanics:
    """Measure fluctuations, domains and collective variables.

    Raises
    ------
    ValueError
        If a collective variable cannot be understood.
    """
    rows, motions, template = landscape.rows, landscape.motions, run.template
    motion = series.get("motion1")
    ends = None if motion is None else (motion.positions[0].astype(float), motion.positions[-1].astype(float))
    variables = parse_variables(config.cv, template)
    amplitudes = motions.amplitudes[rows] / np.maximum(motions.spreads, 1e-9)
    return Mechanics(
        fluctuation=fluctuations(run.conformations, motions.mean, rows=rows),
        uncertainty=_mean_uncertainty(run, rows),
        central=int(rows[np.square(amplitudes).sum(axis=1).argmin()]),
        domains=find_domains(
            run.conformations,
            template.chain_position,
            count=config.domains,
            rows=rows,
            seed=config.seed,
            ends=ends,
        ),
        variables=tuple((variable, evaluate(variable, run.conformations)) for variable in variables),
    )


def _mean_uncertainty(run: Run, rows: np.ndarray) -> np.ndarray | None:
    if run.uncertainty is None:
        return None
    some = drawn_sample(run.uncertainty, rows, _SAMPLE)
    return np.sqrt(np.square(some.astype(np.float64)).mean(axis=0))


def write_mechanics(folder: AnalysisFolder, run: Run, mechanics: Mechanics) -> None:
    """Write residues.csv, domains.json, domains.cxc, fluctuation.cif and collective.csv."""
    template, domains = run.template, mechanics.domains
    columns: dict[str, np.ndarray | None] = {
        "chain": template.chain_ids,
        "residue": template.residue_numbers,
        "insertion_code": template.insertion_codes,
        "name": template.residue_names,
        "fluctuation": mechanics.fluctuation,
        "uncertainty": mechanics.uncertainty,
        "domain": domains.labels,
        "is_hinge": hinge_residues(domains).astype(int),
    }
    write_csv(folder.residues, columns)
    with replacing(folder.domains) as temporary:
        temporary.write_text(json.dumps(domain_summary(domains, template), indent=2) + "\n", encoding="utf-8")
    central = replace(
        alpha_atoms(template),
        positions=np.asarray(run.conformations[mechanics.central], dtype=np.float64),
        b_factors=mechanics.fluctuation,
    )
    write_atoms(folder.fluctuation, central)
    if len(domains) > 1:
        axes = [(motion.point - _AXIS * motion.axis, motion.point + _AXIS * motion.axis) for motion in domains.motions]
        first = folder.series("motion1") / "topology.cif"  # the frame of the axes
        script = domain_script(str(first.relative_to(folder.path)), domain_parts(domains, template), axes, PALETTE)
        with replacing(folder.domain_script) as temporary:
            temporary.write_text(script, encoding="utf-8")
    if mechanics.variables:
        values = {variable.name: values for variable, values in mechanics.variables}
        write_csv(folder.collective, {"image": np.arange(len(run)), **values})


def hinge_residues(domains: Domains) -> np.ndarray:
    """Return (residues,) bool: which residues are hinges."""
    is_hinge = np.zeros(len(domains.labels), dtype=bool)
    for hinge in domains.hinges:
        is_hinge[hinge.residues] = True
    return is_hinge


def mechanics_plots(run: Run, landscape: Landscape, mechanics: Mechanics) -> list[Plot]:
    """Return the plots of the mechanics."""
    domains, section = mechanics.domains, "Mechanics"
    fluctuation = plot_fluctuation(
        run.template, mechanics.fluctuation, domains=domains, uncertainty=mechanics.uncertainty
    )
    caption = (
        "How far each C-alpha moves over the images. The coloured band shows rigid domains, grey columns are hinges. "
        "Where the uncertainty of single images is as large as the fluctuation, no motion is seen."
    )
    plots = [Plot(section, "Fluctuation", caption, fluctuation, "fluctuation.png")]
    if len(domains) > 1:
        caption = (
            "How much the distance between two residues changes over the images: light blocks move as one body. "
            f"{domains_in_words(domains, run.template)}"
        )
        plots.append(Plot(section, "Rigid domains", caption, _draw_domains(run, landscape, domains), "domains.png"))
    for variable, values in mechanics.variables:
        reference = {"template": float(evaluate(variable, run.template.positions[None].astype(np.float32))[0])}
        drawn = plot_collective(variable.name, variable.unit, values[landscape.rows], reference)
        name = f"cv_{variable.file_stem}.png"
        plots.append(Plot("Collective variables", variable.name, _description(variable), drawn, name))
    return plots


def _description(variable: CollectiveVariable) -> str:
    return f"The {variable.kind} of the centres of C-alphas, one value an image: {variable.text}."


def _draw_domains(run: Run, landscape: Landscape, domains: Domains) -> Figure:
    residues, matrix = distance_fluctuations(run.conformations, rows=landscape.rows, sample=_MATRIX_IMAGES)
    return plot_domains(matrix, domains.labels, residues=residues, template=run.template)
