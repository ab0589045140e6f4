"""`cryoatom analyze`: what the ensemble of a run shows, and how far it can be trusted."""

from __future__ import annotations

import logging
import shlex
from pathlib import Path

import torch

from cryoatom.analysis.analyze_config import AnalyzeConfig
from cryoatom.analysis.evidence import Evidence, gather_evidence
from cryoatom.analysis.freshness import latents_digest
from cryoatom.analysis.half_sets import check_half_sets
from cryoatom.analysis.headline import headline
from cryoatom.analysis.landscape import Traversal, survey, traverse
from cryoatom.analysis.landscape_files import landscape_plots, write_landscape
from cryoatom.analysis.mechanics import measure_mechanics, mechanics_plots, write_mechanics
from cryoatom.analysis.page import report_data
from cryoatom.analysis.rebuild import check_place, rebuilding
from cryoatom.analysis.report import write_report
from cryoatom.analysis.report_data import Check, Plot
from cryoatom.analysis.run import Run, load
from cryoatom.analysis.trust import trust_checks, write_trust
from cryoatom.analysis.trust_plots import trust_plots
from cryoatom.analysis.volumes import write_densities
from cryoatom.files.replacing import replacing
from cryoatom.plotting import save_png
from cryoatom.run_folder import AnalysisFolder
from cryoatom.threads import available_cores
from cryoatom.training.stage import Stage, silent

TITLE = "Analysing"
_STEPS = 5
_logger = logging.getLogger(__name__)


def analyze(config: AnalyzeConfig, *, command: list[str] | None = None, stage: Stage = silent) -> AnalysisFolder:
    """Analyse a run and write the analysis folder, with a report page.

    Parameters
    ----------
    config
        Settings.
    command
        The command line, for the report.
    stage
        Opens progress reports.

    Raises
    ------
    FileNotFoundError, ValueError
        When there is no such run or epoch, or a setting does not fit it; before anything is written.
    OSError
        When the disk is full.
    """
    run = load(config.run, config.epoch, config.particles)
    folder = run.folder.analysis(run.epoch) if config.outdir is None else AnalysisFolder(config.outdir)
    check_place(folder)
    _check_settings(run, config)
    torch.set_num_threads(available_cores(config.threads))
    with stage(_STEPS, TITLE) as advance:
        digest = latents_digest(run)
        landscape = survey(run, config)
        advance(1, "")
        series = traverse(run, landscape, config)
        mechanics = measure_mechanics(run, landscape, series, config)
        advance(2, "")
        with rebuilding(folder) as new:
            new.config.write_text(config.to_yaml(command or []), encoding="utf-8")
            write_landscape(new, run, landscape, series)
            write_mechanics(new, run, mechanics)
            if config.volumes:
                _write_volumes(new, run, series, config)
            advance(3, "")
            evidence = gather_evidence(run, landscape, config, stage)
            advance(4, "")
            checks = _judge(new, run, evidence)
            plots = [*landscape_plots(landscape), *mechanics_plots(run, landscape, mechanics)]
            plots += _trust_plots(run, evidence)
            _write_plots(new, plots)
            data = report_data(
                run,
                landscape,
                mechanics,
                evidence,
                series=series,
                checks=checks,
                plots=plots,
                command=shlex.join(command or ["cryoatom", "analyze", str(config.run)]),
            )
            write_report(new.report, data)
            lines = headline(run, landscape, series, mechanics, checks)
            new.summary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
            new.state.write_text(digest + "\n", encoding="utf-8")
        for line in lines:
            _logger.info("%s", line)
        advance(_STEPS, "")
    return folder


def _check_settings(run: Run, config: AnalyzeConfig) -> None:
    """Refuse what cannot be done, before any time is spent."""
    if run.config.homogeneous:
        raise ValueError(
            f"{config.run} has one conformation for all images (--homogeneous), {run.folder.homogeneous}: there is "
            "nothing to analyse"
        )
    if config.half_sets:
        check_half_sets(run)
    if config.datadir is not None and not config.datadir.is_dir():
        raise FileNotFoundError(f"no folder --datadir {config.datadir}")
    if config.particles is not None and not config.particles.is_file():
        raise FileNotFoundError(f"no file --particles {config.particles}")


def _write_volumes(folder: AnalysisFolder, run: Run, series: dict[str, Traversal], config: AnalyzeConfig) -> None:
    """Write the density of each cluster's centre beside its structure."""
    name = f"kmeans{config.ksample}"
    write_densities(run, run.place(series[name].latents), folder.series(name))


def _judge(folder: AnalysisFolder, run: Run, evidence: Evidence) -> tuple[Check, ...]:
    measured = {
        "geometry": evidence.geometry,
        "controls": evidence.controls,
        "drift": evidence.drift,
        "half_sets": evidence.half_sets,
    }
    checks = trust_checks(**measured, template_geometry=evidence.template_geometry, images=run.own_images or None)
    write_trust(folder.path, checks, **measured)
    return checks


def _trust_plots(run: Run, evidence: Evidence) -> tuple[Plot, ...]:
    return trust_plots(
        run.template,
        geometry=evidence.geometry,
        template_geometry=evidence.template_geometry,
        controls=evidence.controls,
        drift=evidence.drift,
        half_sets=evidence.half_sets,
    )


def _write_plots(folder: AnalysisFolder, plots: list[Plot]) -> None:
    for plot in plots:
        with replacing(folder.path / plot.name) as temporary:
            save_png(plot.figure, Path(temporary))
