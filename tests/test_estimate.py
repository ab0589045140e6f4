"""What a run will cost: bytes are those that it writes, and a rehearsal writes nothing."""

import shutil
from collections import namedtuple
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from fits import settings

from cryoatom.cli.main import cli
from cryoatom.run_folder import RunFolder
from cryoatom.training.disk import check_space, disk_need, folder_needs, free_bytes, in_bytes
from cryoatom.training.estimate import estimate_cost, rehearse
from cryoatom.training.images import prepare_images
from cryoatom.training.inputs import read_inputs
from cryoatom.training.stage import silent
from cryoatom.training.train import train
from cryoatom.workers import Workers

COUNT = 41
Usage = namedtuple("Usage", "total used free")


@pytest.fixture(scope="module")
def estimate(folder):
    return rehearse(settings(folder, folder / "rehearsed", cache=folder / "none"))


def size(*paths) -> int:
    return sum(path.stat().st_size for path in paths)


def test_a_rehearsal_writes_nothing(estimate, folder):
    assert not (folder / "rehearsed").exists() and not (folder / "none").exists()
    assert estimate.images == COUNT and estimate.residues == 16


@pytest.mark.parametrize("changes", [{}, {"dcd": False, "pdb": "all", "zdim": 3, "checkpoint": 2}])
def test_bytes_are_those_that_a_run_writes(folder, tmp_path, changes):
    config = settings(folder, tmp_path / "run", cache=tmp_path / "cache", **changes)
    need, run = disk_need(config, read_inputs(config)), train(config)
    (matched,) = (tmp_path / "cache").iterdir()
    assert size(*matched.iterdir()) == pytest.approx(need.cache, rel=0.1)
    weights = [*run.path.glob("weights*.pt")]
    assert len(weights) == need.checkpoints
    assert size(*weights) / len(weights) == pytest.approx(need.checkpoint, rel=0.1)
    text = [path for path in run.path.rglob("*") if path.is_file() and path not in weights]
    assert size(*text) < need.outputs


def test_rows_tell_images_memory_disk_and_time(estimate):
    rows = dict(estimate.rows())
    assert rows["images"] == str(COUNT) and rows["crop side"].endswith("pixels")
    assert rows["memory"] == in_bytes(estimate.memory) and estimate.memory > 1e8
    assert [name for name in rows if name.startswith("time, ")] == [
        "time, preparing images", "time, 3 epochs", "time, denoising latents", "time, uncertainty",
        "time, writing conformations", "time, at most"
    ]  # fmt: skip
    assert estimate.total_seconds == pytest.approx(sum(estimate.seconds.values())) and estimate.total_seconds > 0


def test_searches_are_part_of_the_time(folder, tmp_path):
    changes = {"poses": "esl", "rotations": 500, "classes": 2, "search_epochs": 1, "max_shift": 0.0}
    config = settings(folder, tmp_path / "run", **changes)
    found = estimate_cost(config, read_inputs(config))
    assert found.seconds["searches of poses"] > 0


def test_cost_grows_with_the_images(folder):
    config = settings(folder)
    inputs = read_inputs(config)
    many = replace(inputs, particles=inputs.particles[np.arange(10 * COUNT) % COUNT])
    few, more = disk_need(config, inputs), disk_need(config, many)
    assert more.cache - few.cache == 9 * COUNT * (2 * few.crop_side**2 + 37)
    assert more.outputs > few.outputs and more.checkpoint > few.checkpoint


def test_a_full_disk_is_refused_before_the_run(folder, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 10**9 - 1000, 1000))
    config = settings(folder, tmp_path / "run" / "deep")
    with pytest.raises(ValueError, match=r"run.deep has 0 MB free and the run needs up to \d+ MB.*--outdir.*--force"):
        train(config)
    assert not (tmp_path / "run").exists()
    check_space(config.model_copy(update={"force": True}), read_inputs(config))
    assert "going on, as --force says" in caplog.text


def test_a_cache_on_another_disk_is_counted_there(folder, tmp_path, monkeypatch):
    config = settings(folder, tmp_path / "run", cache=tmp_path / "cache")
    inputs = read_inputs(config)
    need = disk_need(config, inputs)
    (together,) = folder_needs(config, inputs, need).values()
    monkeypatch.setattr("cryoatom.training.disk._device", lambda path: path.name)
    apart = folder_needs(config, inputs, need)
    assert apart[tmp_path / "cache"] == need.cache and sum(apart.values()) == together
    assert free_bytes(tmp_path / "not" / "there") == shutil.disk_usage(tmp_path).free


def test_a_second_run_needs_no_room_for_what_is_there(folder, tmp_path):
    """Images in matched form are shared, and the files of a run that is replaced make room for the new ones."""
    config, other = (settings(folder, tmp_path / name, cache=tmp_path / "cache") for name in ("run", "other"))
    inputs = read_inputs(config)
    need = disk_need(config, inputs)
    all_of_it = need.cache + need.checkpoints * need.checkpoint + need.outputs
    assert sum(folder_needs(config, inputs, need).values()) == all_of_it
    run = train(config)
    assert sum(folder_needs(other, inputs, need).values()) == all_of_it - need.cache
    whiter = other.model_copy(update={"noise": "white"})
    assert sum(folder_needs(whiter, inputs, need).values()) == all_of_it
    again = config.model_copy(update={"overwrite": True})
    held = sum(path.stat().st_size for path in run.path.rglob("*") if path.is_file())
    (needed,) = folder_needs(again, inputs, need).values()
    assert all_of_it - need.cache - held <= needed < all_of_it - need.cache - need.checkpoints * need.checkpoint // 2


def test_kernels_are_counted_as_they_are_made(folder, tmp_path):
    """Small optics groups share one power of the noise, and with it κ."""
    config = settings(folder, tmp_path / "run", cache=tmp_path / "cache")
    inputs = read_inputs(config)
    optics = inputs.particles.optics
    optics = replace(
        optics, defocus_u=np.full(COUNT, 1e4), defocus_v=np.full(COUNT, 9e3), defocus_angle=np.zeros(COUNT)
    )
    particles = replace(inputs.particles, optics=optics, optics_group=np.arange(COUNT))
    inputs = replace(inputs, particles=particles)
    data = prepare_images(config, inputs, RunFolder(config.outdir), Workers(1), silent)
    assert disk_need(config, inputs).kernels == len(data.kernels) == 1


@pytest.mark.parametrize(("count", "text"), [(0, "0 MB"), (1_400_000, "1 MB"), (2_350_000_000, "2.4 GB")])
def test_bytes_in_words(count, text):
    assert in_bytes(count) == text


def test_the_command_prints_checks_and_a_table_and_writes_nothing(folder, tmp_path):
    words = [folder / "particles.star", "--template", folder / "template.cif", "-o", tmp_path / "run", "--dry-run"]
    result = CliRunner().invoke(cli, ["train", *map(str, words), "--device", "cpu", "--threads", "1"])
    assert result.exit_code == 0, result.output
    assert "41 images are too few to check poses, frame, hand and contrast" in result.stderr
    assert "time, at most" in result.stdout and "memory" in result.stdout
    assert not (tmp_path / "run").exists()
