"""A whole analysis of a small run: its folder, its report, its errors."""

import csv
import json

import numpy as np
import pytest
from fits import RESIDUES, settings, write_dataset

import cryoatom
from cryoatom.analysis.analyze import analyze
from cryoatom.analysis.analyze_config import AnalyzeConfig
from cryoatom.analysis.evidence import chosen_images
from cryoatom.analysis.landscape import survey, traverse
from cryoatom.files.structure import read_models
from cryoatom.files.trajectory import read_trajectory
from cryoatom.training.train import train

COUNT = 41


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_dataset(folder, COUNT)
    return folder


@pytest.fixture(scope="module")
def run(folder):
    return train(settings(folder, zdim=2), command=["cryoatom", "train"])


def quick(folder, **changes) -> AnalyzeConfig:
    given = {"run": folder.path, "ksample": 4, "n_per_pc": 5, "pictures": 8, "threads": 1}
    return AnalyzeConfig.model_validate(given | changes)


@pytest.fixture(scope="module")
def analysis(run):
    config = quick(run, cv=("ends=distance:1/16",), volumes=True)
    return analyze(config, command=["cryoatom", "analyze", "run"])


def table(path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_folder_has_cryodrgns_names_and_ours(analysis):
    names = {path.name for path in analysis.path.iterdir()}
    arrays = {"latent_pcs.npy", "motions.npy", "motion_axes.npy"}
    tables = {"residues.csv", "domains.json", "collective.csv", "trust.json", "controls.csv", "drift.csv"}
    series = {"pc1", "pc2", "motion1", "motion2", "kmeans4", "path"}
    assert names >= arrays | tables | series | {"report.html", "config.yaml", "fluctuation.cif", "cv_ends.png"}
    clusters = {path.name for path in analysis.series("kmeans4").iterdir()}
    assert clusters >= {"labels.npy", "centers.txt", "centers_ind.txt", "z_values.txt", "open.cxc", "vol_001.mrc"}


def test_series_are_what_the_decoder_makes_of_their_latents(run, analysis):
    opened = cryoatom.load(run.path)
    for name in ("pc1", "motion2", "path"):
        latents = np.loadtxt(analysis.series(name) / "z_values.txt")
        positions = read_trajectory(analysis.series(name) / f"{name}.dcd", analysis.series(name) / "topology.cif")
        assert latents.shape == (5, 2)
        np.testing.assert_allclose(positions.positions, opened.decode(latents), atol=1e-3)
        _, models = read_models(analysis.series(name) / f"{name}.pdb")
        np.testing.assert_allclose(models, positions.positions, atol=2e-3)


def test_cluster_centres_are_images(run, analysis):
    opened = cryoatom.load(run.path)
    folder = analysis.series("kmeans4")
    labels, rows = np.load(folder / "labels.npy"), np.loadtxt(folder / "centers_ind.txt", dtype=int)
    assert labels.shape == (COUNT,) and labels.min() == 1
    assert labels[rows].tolist() == list(range(1, len(rows) + 1))
    np.testing.assert_allclose(np.loadtxt(folder / "z_values.txt"), opened.latents[rows], rtol=1e-6)
    first = read_trajectory(folder / "kmeans4.dcd", folder / "topology.cif").positions[0]
    np.testing.assert_allclose(first, opened.conformations[rows[0]], atol=1e-4)


def test_tables_have_one_row_a_residue_or_an_image(run, analysis):
    opened = cryoatom.load(run.path)
    found = np.array([float(row["ends"]) for row in table(analysis.collective)])
    ends = np.linalg.norm(opened.conformations[:, 0] - opened.conformations[:, -1], axis=1)
    np.testing.assert_allclose(found, ends, atol=1e-3)
    residues = table(analysis.residues)
    assert [int(row["residue"]) for row in residues] == opened.template.residue_numbers.tolist()
    uncertainty = np.sqrt(np.square(np.asarray(opened.uncertainty, dtype=float)[opened.good_rows]).mean(axis=0))
    np.testing.assert_allclose([float(row["uncertainty"]) for row in residues], uncertainty, atol=1e-3)
    assert all(float(row["fluctuation"]) > 0 for row in residues)


def test_the_report_has_every_part(analysis):
    page = analysis.report.read_text()
    for part in ("Explore", "Images", "Trust", "Plots", "About this run"):
        assert part in page
    checks = json.loads((analysis.path / "trust.json").read_text())
    assert checks


def test_an_epoch_is_looked_at_by_its_own_weights(run):
    analysis = analyze(quick(run, epoch=1, controls=False, pictures=0))
    assert analysis.path.name == "analyze.1"
    first = cryoatom.load(run.path, 1)
    latents = np.loadtxt(analysis.series("pc1") / "z_values.txt")
    positions = read_trajectory(analysis.series("pc1") / "pc1.dcd", analysis.series("pc1") / "topology.cif").positions
    np.testing.assert_allclose(positions, first.decode(latents), atol=1e-3)
    assert "uncertainty" in table(analysis.residues)[0] and not table(analysis.residues)[0]["uncertainty"]


def test_without_the_images_the_rest_is_still_there(folder, tmp_path):
    moved = tmp_path / "data"
    moved.mkdir()
    for name in ("particles.star", "particles.mrcs", "template.cif"):
        (moved / name).write_bytes((folder / name).read_bytes())
    run = train(settings(moved, zdim=2, num_epochs=1, cache=None))
    (moved / "particles.mrcs").unlink()
    analysis = analyze(quick(run))
    page = analysis.report.read_text()
    assert "could not be read again" in page
    assert not (analysis.path / "controls.csv").exists()
    assert (analysis.series("motion1") / "motion1.pdb").is_file()


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"path": "5"}, "--path"),
        ({"path": "k1,k99"}, "k99"),
        ({"cv": ("twist:1/2",)}, "twist"),
        ({"epoch": 77}, "saved epochs: 1, 2, 3"),
        ({"run": "nowhere"}, "no run folder"),
    ],
)
def test_mistakes_are_told_before_anything_is_written(run, tmp_path, changes, complaint):
    with pytest.raises((ValueError, FileNotFoundError), match=complaint):
        analyze(quick(run, outdir=tmp_path / "out", **changes))
    assert not (tmp_path / "out").exists()


def test_images_worth_a_look_are_distinct_and_as_many_as_wanted(run):
    opened = cryoatom.load(run.path)
    config = quick(run)
    landscape = survey(opened, config)
    assert set(traverse(opened, landscape, config)) == {"pc1", "pc2", "motion1", "motion2", "path", "kmeans4"}
    for count in (1, 6, 20):
        rows, notes = chosen_images(opened, landscape, count)
        assert len(rows) == len(set(rows.tolist())) == len(notes) <= count


def test_the_package_opens_a_run(run, folder):
    opened = cryoatom.load(run.path)
    assert len(opened) == COUNT and opened.conformations.shape == (COUNT, RESIDUES, 3)
    np.testing.assert_allclose(opened.decode(opened.latents[7]), opened.conformations[7], atol=1e-5)
    np.testing.assert_allclose(opened.decode(opened.latents[:3]), opened.conformations[:3], atol=1e-5)
    assert opened.poses.rotations.shape == (COUNT, 3, 3)
    assert opened.image_names[0].endswith("particles.mrcs")
    assert opened.uncertainty is not None and opened.uncertainty.shape == (COUNT, RESIDUES)
    assert opened.command == ["cryoatom", "train"]
    with pytest.raises(FileNotFoundError, match="no run folder"):
        cryoatom.load(folder / "nothing")
    with pytest.raises(FileNotFoundError, match="is no run folder"):
        cryoatom.load(folder)
