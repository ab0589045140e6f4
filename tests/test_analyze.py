"""A whole analysis of a small run: its folder, its report, its errors."""

import csv
import json
from pathlib import Path
from shutil import copytree, rmtree

import numpy as np
import pytest
from fits import RESIDUES, settings, write_dataset

import cryoatom
from cryoatom.analysis.analyze import analyze
from cryoatom.analysis.analyze_config import AnalyzeConfig
from cryoatom.analysis.evidence import chosen_images
from cryoatom.analysis.landscape import survey, traverse
from cryoatom.analysis.rebuild import clear_outputs
from cryoatom.analysis.run import load
from cryoatom.files.star import read_star_particles
from cryoatom.files.structure import read_models
from cryoatom.files.trajectory import read_trajectory
from cryoatom.run_folder import AnalysisFolder
from cryoatom.training.train import train

COUNT = 41
SKIPPED = 4  # particles of the file, at its start, that the run leaves out


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_dataset(folder, COUNT + SKIPPED)
    np.save(folder / "ind.npy", SKIPPED + np.arange(COUNT))
    return folder


@pytest.fixture(scope="module")
def run(folder):
    return train(settings(folder, zdim=2, ind=folder / "ind.npy"), command=["cryoatom", "train"])


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
    assert np.loadtxt(folder / "rows.txt", dtype=int).tolist() == (rows + SKIPPED).tolist()


def test_the_path_names_its_images(run, analysis):
    opened = cryoatom.load(run.path)
    images = np.loadtxt(analysis.series("path") / "path_ind.txt", dtype=int)
    assert len(images) == len(set(images.tolist())) > 1
    assert np.loadtxt(analysis.series("path") / "rows.txt", dtype=int).tolist() == opened.rows[images].tolist()
    position = np.load(analysis.path_position)
    assert abs(position[images[0]] - position[images[-1]]) > 0.5


def test_tables_have_one_row_a_residue_or_an_image(run, analysis):
    opened = cryoatom.load(run.path)
    found = np.array([float(row["ends"]) for row in table(analysis.collective)])
    ends = np.linalg.norm(opened.conformations[:, 0] - opened.conformations[:, -1], axis=1)
    np.testing.assert_allclose(found, ends, atol=1e-3)
    residues = table(analysis.residues)
    assert [int(row["residue"]) for row in residues] == opened.template.residue_numbers.tolist()
    assert [row["insertion_code"] for row in residues] == opened.template.insertion_codes.tolist()
    uncertainty = np.sqrt(np.square(np.asarray(opened.uncertainty, dtype=float)[opened.good_rows]).mean(axis=0))
    np.testing.assert_allclose([float(row["uncertainty"]) for row in residues], uncertainty, atol=1e-3)
    assert all(float(row["fluctuation"]) > 0 for row in residues)


def files_of(folder) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("was_cut_short", [False, True])
def test_all_of_an_earlier_analysis_is_removed_and_nothing_else(analysis, tmp_path, was_cut_short):
    old = AnalysisFolder(Path(copytree(analysis.path, tmp_path / "old")))
    mine = {"notes.txt", "my.png", "path/notes.txt", "kmeans4/mine.pdb", "pc1b/z_values.txt", "kmeans20/struct_1.txt"}
    rare = {"umap.npy", "umap.png", "half_sets.csv", "half_sets.png", "half_set_residues.png", "cv_a.b.png"}
    rare |= {"motion12/struct_1000.cif", "motion12/motion12.dcd", "kmeans20/labels.npy", "kmeans20/vol_020.mrc"}
    for name in mine | rare:
        (old.path / name).parent.mkdir(exist_ok=True)
        (old.path / name).touch()
    if was_cut_short:
        for path in (old.state, old.report):
            path.unlink(missing_ok=True)
    clear_outputs(old)
    assert files_of(old.path) == mine | {old.config.name}
    assert {path.name for path in old.path.iterdir() if path.is_dir()} == {"path", "kmeans4", "pc1b", "kmeans20"}


@pytest.mark.parametrize("config", [None, "ksample: [", "batch_size: 8\n", ""])
def test_in_other_folders_nothing_is_removed(tmp_path, config):
    folder = AnalysisFolder(tmp_path / "mine")
    clear_outputs(folder)
    folder.series("path").mkdir(parents=True)
    for path in (folder.report, folder.motions, folder.path_density):
        path.touch()
    if config is not None:
        folder.config.write_text(config)
    before = files_of(folder.path)
    clear_outputs(folder)
    assert files_of(folder.path) == before


def test_the_report_has_every_part(analysis):
    page = analysis.report.read_text()
    sent = json.loads(page.split('id="payload">')[1].split("</script>")[0])
    assert sent["images"] == COUNT and len(sent["template"]["name"]) == RESIDUES
    assert [series["name"] for series in sent["series"]][:4] == ["motion 1", "motion 2", "path", "clusters"]
    assert {"cluster", "ends (Å)", "gain over no particle (nats)"} <= {colour["name"] for colour in sent["colours"]}
    assert {f"centre of cluster {k}" for k in range(1, 5)} <= {each["note"] for each in sent["pictures"]}
    checks = json.loads((analysis.path / "trust.json").read_text())
    assert page.count('<span class="badge ') == len(checks) > 5
    assert page.count('<figure class="card"') == len(list(analysis.path.glob("*.png")))


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


def test_a_run_away_from_its_data_finds_its_images_and_refuses_others(folder, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    for name in ("particles.star", "particles.mrcs", "template.cif"):
        (data / name).write_bytes((folder / name).read_bytes())
    run = train(settings(data, tmp_path / "elsewhere" / "run", num_epochs=1, cache=None))
    opened = cryoatom.load(run.path)
    names = read_star_particles(data / "particles.star").image_names
    np.testing.assert_array_equal(opened.image_names, names)
    np.testing.assert_array_equal(opened.inputs().particles.image_names, names)
    (data / "particles.star").rename(data / "moved.star")
    with pytest.raises(FileNotFoundError, match="--particles"):
        opened.inputs()
    moved = load(run.path, particles=data / "moved.star")
    np.testing.assert_array_equal(moved.inputs().particles.image_names, names)
    lines = (data / "moved.star").read_text().splitlines(keepends=True)
    rows = [index for index, line in enumerate(lines) if "@" in line]
    lines[rows[0]], lines[rows[1]] = lines[rows[1]], lines[rows[0]]
    (data / "moved.star").write_text("".join(lines))
    with pytest.raises(ValueError, match="has no longer the images"):
        load(run.path, particles=data / "moved.star").inputs()


def test_a_run_that_was_killed_can_be_analysed_by_epoch(folder, tmp_path):
    run = train(settings(folder, tmp_path / "run", num_epochs=2, uncertainty=False))
    for path in run.outputs():
        if path.name not in {"weights.1.pt", "z.1.npy", "rows.npy", "metrics.csv", "matched"}:
            rmtree(path) if path.is_dir() else path.unlink()
    analysis = analyze(quick(run, epoch=1, controls=False, pictures=0))
    assert analysis.report.is_file() and "trust:" in analysis.summary.read_text()


def test_an_error_leaves_the_earlier_analysis_and_foreign_folders_alone(run, analysis, tmp_path, monkeypatch):
    before = files_of(analysis.path)
    monkeypatch.setattr("cryoatom.analysis.analyze.write_report", lambda path, data: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        analyze(quick(run, ksample=3))
    assert files_of(analysis.path) == before
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    for name in ("state.txt", "report.html"):
        (foreign / name).write_text("mine")
    with pytest.raises(ValueError, match="holds no analysis"):
        analyze(quick(run, outdir=foreign))
    with pytest.raises(ValueError, match="is a file"):
        analyze(quick(run, outdir=foreign / "report.html"))
    assert (foreign / "report.html").read_text() == "mine"
