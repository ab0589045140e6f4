import numpy as np
import pytest
from run_files import read_metrics

from cryoatom.run_folder import AnalysisFolder, RunFolder


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path)


def test_every_file_has_a_name_of_its_own(folder):
    names = [name for name, value in vars(RunFolder).items() if isinstance(value, property)]
    paths = [getattr(folder, name) for name in names if name != "halves"] + list(folder.halves)
    paths += [folder.analysis().path, folder.analysis(12).path]
    for numbered in (folder.weights, folder.latents):
        paths += [numbered(), numbered(1), numbered(12)]
    assert len(set(paths)) == len(paths) and {path.parent for path in paths} == {folder.path}
    assert [folder.weights(3).name, folder.weights().name] == ["weights.3.pt", "weights.pt"]
    assert [folder.latents(3).name, folder.poses.name] == ["z.3.npy", "poses.star"]


def test_every_file_of_an_analysis_has_a_name_of_its_own(folder):
    analysis = folder.analysis()
    names = [name for name, value in vars(AnalysisFolder).items() if isinstance(value, property)]
    paths = [getattr(analysis, name) for name in names] + [analysis.labels(20), analysis.centers(20)]
    assert len(set(paths)) == len(paths)
    assert all(analysis.path in path.parents for path in paths)
    assert [analysis.path.name, folder.analysis(3).path.name] == ["analyze", "analyze.3"]


def test_the_latest_checkpoint_is_the_highest_epoch(folder):
    assert folder.latest_checkpoint() is None
    for name in ("weights.pt", "weights.best.pt", ".weights.99.pt.12.tmp", "weights.2.pt", "weights.10.pt", "z.11.npy"):
        (folder.path / name).touch()
    assert folder.latest_checkpoint() == folder.weights(10)


def test_arrays_and_texts(folder):
    array = np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32)
    folder.save_array(folder.latents(1), array)
    np.testing.assert_array_equal(np.load(folder.latents(1)), array)
    folder.save_text(folder.config, "zdim: 8  # Å\n")
    assert folder.config.read_text(encoding="utf-8") == "zdim: 8  # Å\n"


def test_metrics_come_back_and_a_missing_term_stays_missing(folder):
    rows = [{"epoch": 1.0, "loss": -3.25}, {"epoch": 2.0, "loss": -1e-12, "held_out_nll": 7.0}]
    folder.save_metrics(rows)
    assert folder.metrics.read_text().splitlines()[0] == "epoch,loss,held_out_nll"
    assert read_metrics(folder) == rows


def test_a_folder_without_a_run_takes_one(folder):
    RunFolder(folder.path / "not there").start_anew(overwrite=False)
    for name in ("config.yaml", "run.log", "template.cif", "notes.txt"):
        (folder.path / name).write_text("kept")
    folder.start_anew(overwrite=False)
    assert len(list(folder.path.iterdir())) == 4


@pytest.mark.parametrize(
    "name", ["weights.3.pt", "weights.pt", "z.3.npy", "z.npy", "metrics.csv", "poses.star", "conformations.npy"]
)
def test_a_run_is_refused_or_removed_as_asked(folder, name):
    (folder.path / name).touch()
    with pytest.raises(ValueError, match=rf"holds a run \({name}\): .*--load latest.*--overwrite.*--outdir"):
        folder.start_anew(overwrite=False)
    assert (folder.path / name).exists()
    for kept in (folder.log, folder.matched / "abc" / "crops.npy", folder.path / "notes.txt"):
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text("kept")
    for removed in (folder.pdb, folder.evaluation):
        removed.mkdir()
        (removed / "file").touch()
    folder.trajectory.touch()
    folder.topology.touch()
    folder.start_anew(overwrite=True)
    assert {path.name for path in folder.path.iterdir()} == {"run.log", "matched", "notes.txt"}
    assert (folder.matched / "abc" / "crops.npy").read_text() == "kept"
    folder.start_anew(overwrite=False)


@pytest.mark.parametrize("save", ["array", "text", "metrics"])
def test_a_failed_write_leaves_the_old_file_and_no_other(folder, monkeypatch, save):
    saves = {
        "array": lambda: folder.save_array(folder.latents(), np.zeros(3)),
        "text": lambda: folder.save_text(folder.config, "new"),
        "metrics": lambda: folder.save_metrics([{"epoch": 1.0}]),
    }
    path = {"array": folder.latents(), "text": folder.config, "metrics": folder.metrics}[save]
    path.write_text("old")

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", refuse)
    with pytest.raises(OSError, match="No space left"):
        saves[save]()
    assert path.read_text() == "old"
    assert [p.name for p in folder.path.iterdir()] == [path.name]
