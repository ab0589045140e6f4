"""What the report page is told of a run."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from fits import settings, write_dataset
from molecules import helix
from report_example import motions

from cryoatom.analysis.analyze_config import AnalyzeConfig
from cryoatom.analysis.convergence import measure_drift
from cryoatom.analysis.evidence import Evidence
from cryoatom.analysis.landscape import survey, traverse
from cryoatom.analysis.mechanics import measure_mechanics
from cryoatom.analysis.page import on_template, report_data
from cryoatom.analysis.report_data import Check, ReportData
from cryoatom.analysis.run import Run, load
from cryoatom.ensemble.stereochemistry import geometry_of, measure_geometry
from cryoatom.geometry import random_rotations
from cryoatom.structure.superpose import rmsd, superpose
from cryoatom.structure.template import template_from_atoms
from cryoatom.training.train import train

COUNT, SKIPPED = 40, 3
OF_THE_FINAL_STATE = {"uncertainty (Å)", "information (nats)", "gain over no particle (nats)", "probability to fit"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    data = tmp_path_factory.mktemp("page")
    write_dataset(data, COUNT + SKIPPED)
    np.save(data / "ind.npy", SKIPPED + np.arange(COUNT))
    return train(settings(data, zdim=2, num_epochs=2, ind=data / "ind.npy")).path


def told(run: Run, checks: tuple[Check, ...] = ()) -> ReportData:
    config = AnalyzeConfig(run=run.folder.path, ksample=3, n_per_pc=3, pictures=0)
    landscape = survey(run, config)
    series = traverse(run, landscape, config)
    mechanics = measure_mechanics(run, landscape, series, config)
    template = run.template
    own = measure_geometry(run.conformations, template.positions, template.chain_position)
    ideal = geometry_of(template.positions, template.chain_position)
    evidence = Evidence(own, ideal, measure_drift(run), None, None, (), ("No halves.",))
    return report_data(run, landscape, mechanics, evidence, series=series, checks=checks, plots=[], command="analyze")


def test_images_are_known_by_their_rows_of_the_particle_file(folder):
    data = told(load(folder))
    assert data.rows.tolist() == list(range(SKIPPED, SKIPPED + COUNT))
    assert data.image_names is not None and data.image_names[0].startswith(f"{SKIPPED + 1:06d}@")
    assert {len(values) for values in data.colours.values()} == {COUNT} and OF_THE_FINAL_STATE < set(data.colours)
    assert data.facts["images"] == str(COUNT)


def test_an_epoch_shows_no_figures_of_the_final_state(folder):
    first = load(folder, 1)
    first.images["is_junk"][:30] = 1
    data = told(first)
    assert not OF_THE_FINAL_STATE & set(data.colours) and "cluster" in data.colours
    assert data.notes == ("No halves.",)
    assert data.title.endswith(", epoch 1") and data.facts["epochs"] == "1"
    assert data.facts["images"] == f"{COUNT} (30 left out in the end: junk, or unusable)"


def test_notes_count_what_they_say(folder):
    run = load(folder)
    run.images["is_junk"][:5], run.images["is_dead"][:2], run.images["is_uninformative"][:] = 1, 1, 0
    run.images["is_uninformative"][3:9] = 1
    bad = Check("Clashes", "9", "0", "bad", "Too many.")
    junk, silent = told(run, (bad, replace(bad, verdict="look"))).notes[1:3]
    assert told(run, (bad,)).notes[0] == "Clashes: 9. Too many."
    assert junk.startswith(f"3 of {COUNT} images do not fit") and f"--ind {run.folder.good_rows}`" in junk
    assert silent.startswith(f"4 of {COUNT} images carry next to no information")


def test_the_mean_lies_on_the_template_and_the_axes_turn_with_it():
    generator = np.random.default_rng(0)
    template = template_from_atoms(helix(12), "helix")[0]
    turn, shift = random_rotations(1, generator)[0], np.array([30.0, -10, 5])
    mean = (template.positions + generator.normal(size=(12, 3))) @ turn.T + shift
    axes = np.linalg.qr(generator.normal(size=(36, 2)))[0].T.reshape(2, 12, 3)
    away = motions(mean, axes, generator.normal(size=(5, 2)).astype(np.float32))
    there = on_template(away, template)
    before, after = (torch.from_numpy(each.conformations(each.amplitudes)) for each in (away, there))
    goal = torch.from_numpy(template.positions)
    torch.testing.assert_close(torch.from_numpy(there.mean), superpose(torch.from_numpy(mean), goal))
    torch.testing.assert_close(rmsd(before, after), torch.zeros(5, dtype=torch.float64), rtol=0, atol=1e-6)
