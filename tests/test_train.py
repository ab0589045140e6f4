"""A whole training run on a small data set: its folder, its checkpoints, its errors."""

import errno
import logging
import math
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from fits import BOX, RESIDUES, settings, small_template, trainer_of, write_dataset
from molecules import helix
from particle_data import write_stack
from run_files import read_metrics

from cryoatom.files.mrc import open_stack
from cryoatom.files.star import read_star_particles, write_star_particles
from cryoatom.files.structure import read_atoms, write_atoms
from cryoatom.files.trajectory import read_trajectory
from cryoatom.imaging.residues import residue_electrons
from cryoatom.run_folder import RunFolder
from cryoatom.structure.graph import build_graph, read_graph, write_graph
from cryoatom.structure.template import read_template, template_from_atoms, write_template
from cryoatom.train_config import TrainConfig
from cryoatom.training.assemble import build_model
from cryoatom.training.checkpoint import find_checkpoint, load_checkpoint, save_checkpoint
from cryoatom.training.feed import ImageFeed
from cryoatom.training.fit import fit, has_stalled, shortened, split_rows, start_scale, training_rows
from cryoatom.training.inputs import choose_device, read_inputs, run_identity
from cryoatom.training.latents import scattered_latents
from cryoatom.training.outputs import chosen_rows
from cryoatom.training.stage import silent
from cryoatom.training.train import train
from cryoatom.training.trainer import Schedule

COUNT = 41


@pytest.fixture(scope="module")
def run(folder):
    """A finished run of three epochs."""
    return train(settings(folder, pdb=2), command=["cryoatom", "train"])


def files(path) -> set[str]:
    return {p.name for p in path.iterdir()}


# --- what a run leaves ----------------------------------------------------------------------------------------------


def test_the_run_folder_has_the_documented_files_and_no_other(run):
    numbered = {f"{stem}.{epoch}.{suffix}" for epoch in (1, 2, 3) for stem, suffix in (("weights", "pt"), ("z", "npy"))}
    final = {"config.yaml", "metrics.csv", "template.cif", "graph.npz", "weights.pt", "z.npy", "poses.star"}
    final |= {"images.csv", "good.npy", "rows.npy", "uncertainty.npy", "z_covariance.npy"}
    assert files(run.path) == numbered | final | {"conformations.npy", "conformations.dcd", "topology.cif", "pdb"}
    assert files(run.pdb) == {"000001.pdb", "000002.pdb"}


def test_conformations_are_the_same_in_every_format_and_in_particle_order(run, folder):
    conformations = np.load(run.conformations)
    assert conformations.shape == (COUNT, RESIDUES, 3) and conformations.dtype == np.float32
    trajectory = read_trajectory(run.trajectory, run.topology)
    np.testing.assert_array_equal(trajectory.positions, conformations)
    assert trajectory.atoms is not None and set(trajectory.atoms.names) == {"CA"}
    np.testing.assert_array_equal(trajectory.atoms.residue_numbers, small_template().residue_numbers)
    for row in (0, 1):
        atoms = read_atoms(run.pdb / f"{row + 1:06d}.pdb")
        np.testing.assert_allclose(atoms.positions, conformations[row], atol=6e-4)
    with trainer_of(settings(folder)) as trainer:  # row i is what the final weights make of row i of the latents
        load_checkpoint(run.weights(), trainer)
        z = torch.from_numpy(np.load(run.latents()))
        assert torch.equal(z, trainer.latents.values) and z.shape == (COUNT, 8)
        np.testing.assert_allclose(trainer.model.decode(z).detach(), conformations, atol=1e-5)


def test_poses_are_those_of_the_particles_in_their_order(run, folder):
    before = read_star_particles(folder / "particles.star")
    after = read_star_particles(run.poses, folder)
    np.testing.assert_array_equal(after.image_names, before.image_names)
    np.testing.assert_allclose(after.poses.rotations, before.poses.rotations, atol=1e-6)
    np.testing.assert_allclose(after.poses.shifts, before.poses.shifts, atol=1e-5)


def test_the_template_the_graph_and_the_settings_are_kept(run, folder):
    template, _ = read_template(run.template)
    np.testing.assert_allclose(template.positions, small_template().positions, atol=1e-3)
    np.testing.assert_array_equal(read_graph(run.graph).edges, build_graph(template).edges)
    assert TrainConfig.merge({}, run.config) == settings(folder, pdb=2)
    assert "cmd:\n- cryoatom\n- train\n" in run.config.read_text()


def test_metrics_have_a_row_for_each_epoch(run):
    rows = read_metrics(run)
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    terms = {"loss", "nll", "r0", "r1", "r2"}
    assert set(rows[0]) == {"epoch", "seconds"} | terms | {f"held_out_{name}" for name in terms}
    assert rows[-1]["loss"] < rows[0]["loss"]


def test_the_same_run_again_is_the_same_to_the_bit_with_another_number_of_threads(run, folder, tmp_path):
    again = train(settings(folder, tmp_path / "again", threads=2, dcd=False, checkpoint=3))
    for name in ("conformations.npy", "z.npy", "z.3.npy"):
        np.testing.assert_array_equal(np.load(again.path / name), np.load(run.path / name))
    assert files(again.path) & {"conformations.dcd", "topology.cif", "pdb", "weights.1.pt", "weights.2.pt"} == set()
    assert "weights.3.pt" in files(again.path)


def test_rows_and_pdb_files_can_be_chosen(folder, tmp_path):
    rows = np.array([30, 2, 17, 5])
    np.save(tmp_path / "rows.npy", rows)
    (tmp_path / "pdb.txt").write_text("3\n1\n")
    part = settings(folder, tmp_path / "part", ind=tmp_path / "rows.npy", pdb=tmp_path / "pdb.txt", num_epochs=1)
    run = train(part)
    assert np.load(run.conformations).shape[0] == 4
    found, given = read_star_particles(run.poses), read_star_particles(folder / "particles.star")
    np.testing.assert_array_equal(found.slice_of_image, given.slice_of_image[rows])
    assert found.stacks == given.stacks  # named from the run's folder: read without --datadir
    assert files(run.pdb) == {"000002.pdb", "000004.pdb"}


@pytest.mark.parametrize(("choice", "expected"), [("none", 0), ("all", 7), (3, 3), (100, 7)])
def test_pdb_choices(choice, expected):
    np.testing.assert_array_equal(chosen_rows(choice, 7), np.arange(expected))


@pytest.mark.parametrize("bad", ["7", "-1"])
def test_pdb_rows_that_there_are_not(tmp_path, bad):
    (tmp_path / "rows.txt").write_text(f"0 {bad}")
    with pytest.raises(ValueError, match=rf"rows.txt names row {bad}, there are 7 particles \(rows start at 0\)"):
        chosen_rows(tmp_path / "rows.txt", 7)


@pytest.mark.parametrize(
    "changes",
    [
        {"decoder": "mlp"},
        {"beads": "two", "likelihood": "profiled"},
        {"beads": "ca", "fit_beads": False, "z_prior": 0.1},
        {"held_out": 0.0, "z_passes": 0, "zdim": 1, "batch_size": 1000, "lr": 5e-4},
    ],
)
def test_every_choice_runs_and_learns(folder, tmp_path, changes):
    run = train(settings(folder, tmp_path, num_epochs=2, **changes))
    rows = read_metrics(run)
    assert rows[1]["loss"] < rows[0]["loss"]
    assert np.isfinite(np.load(run.conformations)).all()
    assert ("held_out_nll" in rows[0]) == (changes.get("held_out", 0.1) > 0)


def test_half_of_the_images_can_train_the_decoder_and_all_get_latents(folder, tmp_path):
    odd, even = (training_rows(settings(folder, train_on=half), COUNT) for half in ("odd", "even"))
    both = training_rows(settings(folder), COUNT)
    assert (odd[0] % 2 == 1).all() and (even[0] % 2 == 0).all()
    assert sorted([*odd[0], *even[0]]) == sorted(both[0])
    np.testing.assert_array_equal(odd[1], both[1])
    half = train(settings(folder, tmp_path / "half", train_on="odd", dcd=False, num_epochs=1))
    start = scattered_latents(COUNT, 8, 0.1, torch.Generator().manual_seed(0)).numpy()
    after_epoch, final = np.load(half.latents(1)), np.load(half.latents())
    np.testing.assert_array_equal(after_epoch[even[0]], start[even[0]])
    assert (final != start).any(axis=1).all()
    with trainer_of(settings(folder, train_on="odd")) as trainer:
        load_checkpoint(half.weights(), trainer)
        fitted = trainer.losses(even[0])
        trainer.latents.restart(torch.from_numpy(even[0]), torch.from_numpy(start[even[0]]))
        assert fitted.mean() < trainer.losses(even[0]).mean()


def test_progress_is_reported_by_stages(folder, tmp_path):
    stages: dict[str, list[int]] = {}

    def stage(total: int, title: str):
        stages[title] = [total]
        return silent_but(stages[title])

    train(settings(folder, tmp_path / "run", cache=tmp_path / "cache"), stage=stage)
    held_out = round(0.1 * COUNT)
    assert {title: counts[0] for title, counts in stages.items()} == {
        "Preparing images": COUNT,
        "Training": 3 * (COUNT - held_out),
        "Refining latents": COUNT,
        "Denoising latents": COUNT,
        "Measuring uncertainty": COUNT,
        "Writing conformations": COUNT,
    }
    for total, *counts in stages.values():
        assert counts == sorted(counts) and counts[-1] == total


class silent_but:
    def __init__(self, counts: list[int]):
        self.counts = counts

    def __enter__(self):
        return lambda done, note: self.counts.append(done)

    def __exit__(self, *_: object):
        return None


# --- checkpoints ----------------------------------------------------------------------------------------------------


def test_a_resumed_run_is_the_uninterrupted_one_to_the_bit(run, folder, tmp_path):
    resumed = RunFolder(tmp_path / "run")
    resumed.path.mkdir()
    shutil.copy(run.weights(1), resumed.weights(1))  # killed after the first of three epochs
    train(settings(folder, resumed.path, load="latest"))
    for name in ("z.2.npy", "z.3.npy", "z.npy", "conformations.npy"):
        np.testing.assert_array_equal(np.load(resumed.path / name), np.load(run.path / name))
    first, second = (torch.load(f.weights(3)) for f in (run, resumed))
    assert all(torch.equal(value, second["model"][name]) for name, value in first["model"].items())
    assert all(torch.equal(value, second["latents"][name]) for name, value in first["latents"].items())
    seconds = [[row.pop("seconds") for row in rows] for rows in (first["history"], second["history"])]
    assert first["history"] == second["history"] and seconds[0][0] == seconds[1][0]
    assert [row["epoch"] for row in read_metrics(resumed)] == [1, 2, 3]


def test_a_finished_run_can_be_loaded_and_gives_the_same(run, folder, tmp_path):
    again = train(settings(folder, tmp_path, load=run.weights(3)))
    np.testing.assert_array_equal(np.load(again.conformations), np.load(run.conformations))


def test_latest_without_a_checkpoint_starts_anew(run, folder, tmp_path):
    again = train(settings(folder, tmp_path, load="latest"))
    np.testing.assert_array_equal(np.load(again.conformations), np.load(run.conformations))
    identity = torch.load(run.weights(3))["identity"]
    assert find_checkpoint(None, run, identity) is None
    assert (
        find_checkpoint("latest", run, identity) == find_checkpoint(run.weights(3), again, identity) == run.weights(3)
    )


def test_a_resumed_run_follows_its_own_options(run, folder, tmp_path):
    config = settings(folder, tmp_path, lr=0.123, wd=0.2)
    with trainer_of(config) as trainer:
        load_checkpoint(run.weights(1), trainer)
        trainer.train_epoch(1, np.arange(COUNT))
        group = trainer.optimizer.param_groups[0]
        assert group["rate"] == 0.123 and group["weight_decay"] == 0.2


def copy_inputs(folder, to):
    """Copy the particle file and the template; the stack stays where it is, and is linked."""
    to.mkdir(exist_ok=True)
    for name in ("particles.star", "template.cif"):
        shutil.copy(folder / name, to / name)
    (to / "particles.mrcs").symlink_to(folder / "particles.mrcs")


@pytest.mark.parametrize("other", ["images", "CTF parameters", "poses", "template", "graph"])
def test_a_checkpoint_of_another_data_set_is_refused_before_images_are_read(run, folder, tmp_path, other, monkeypatch):
    copy_inputs(folder, tmp_path)
    monkeypatch.setattr("cryoatom.training.train.prepare_images", lambda *_: pytest.fail("images were prepared"))
    particles, changes = read_star_particles(folder / "particles.star"), {}
    if other == "images":
        others = replace(particles, image_names=particles.image_names[::-1], slice_of_image=np.arange(COUNT)[::-1])
        write_star_particles(tmp_path / "particles.star", others)
    if other == "CTF parameters":
        optics = replace(particles.optics, defocus_u=particles.optics.defocus_u + 1)
        write_star_particles(tmp_path / "particles.star", replace(particles, optics=optics))
    if other == "poses":
        turned = replace(particles.poses, rotations=np.roll(particles.poses.rotations, 1, axis=0))
        write_star_particles(tmp_path / "particles.star", replace(particles, poses=turned))
    if other == "template":
        write_template(tmp_path / "template.cif", small_template().with_positions(-small_template().atoms.positions))
        changes["graph"] = run.graph
    if other == "graph":
        graph = build_graph(small_template())
        fewer = replace(graph, edges=graph.edges[:9], kinds=graph.kinds[:9], energies=graph.energies[:9])
        write_graph(tmp_path / "graph.npz", fewer)
        changes["graph"] = tmp_path / "graph.npz"
    with pytest.raises(
        ValueError, match=rf"weights\.3\.pt belongs to another run \({other} differ\): .*without --load"
    ):
        train(settings(tmp_path, tmp_path / "run", load=run.weights(3), **changes))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"decoder": "mlp"}, "--decoder"),
        ({"zdim": 5}, "--zdim"),
        ({"likelihood": "profiled"}, "--likelihood"),
        ({"beads": "two"}, "template; --beads"),
        ({"seed": 1}, "--seed, --held-out, --train-on"),
        ({"held_out": 0.2}, "--seed, --held-out, --train-on"),
        ({"crop_pixel": 3.0}, "images"),
        ({"uninvert_data": True, "seed": 2}, "images; --seed, --held-out, --train-on"),
    ],
)
def test_a_checkpoint_of_another_model_is_refused(run, folder, tmp_path, changes, names):
    with pytest.raises(ValueError, match=rf"belongs to another run \({names} differ\)"):
        train(settings(folder, tmp_path / "run", load=run.weights(1), **changes))
    assert not (tmp_path / "run").exists()


def test_what_changes_no_image_nor_model_changes_no_identity(folder):
    config = settings(folder)
    identity = run_identity(config, read_inputs(config))
    for changes in ({"num_epochs": 50, "lr": 0.1, "patience": 2, "threads": 2, "chunk": 7, "r1": 9.0}, {"pdb": "all"}):
        other = settings(folder, **changes)
        assert run_identity(other, read_inputs(other)) == identity


def test_a_touched_or_moved_stack_is_the_same_run(run, folder, tmp_path):
    copy_inputs(folder, tmp_path)
    moved = tmp_path / "elsewhere" / "particles.mrcs"
    (tmp_path / "particles.mrcs").unlink()
    moved.parent.mkdir()
    shutil.copy(folder / "particles.mrcs", moved)
    os.utime(moved, (1e9, 1e9))
    here, there = settings(folder), settings(tmp_path, datadir=moved.parent)
    assert read_inputs(there).particles.stacks == (moved.resolve(),)
    assert run_identity(there, read_inputs(there)) == run_identity(here, read_inputs(here))
    resumed = train(settings(tmp_path, tmp_path / "run", datadir=moved.parent, load=run.weights(2)))
    np.testing.assert_array_equal(np.load(resumed.conformations), np.load(run.conformations))


def test_a_used_folder_is_refused_unless_it_may_be_replaced(run, folder, tmp_path):
    short = settings(folder, tmp_path / "run", num_epochs=2)
    first = train(short)
    before = {path: path.stat().st_mtime_ns for path in first.path.iterdir()}
    with pytest.raises(ValueError, match=r"run holds a run \(weights.*\): .*--load latest.*--overwrite"):
        train(settings(folder, first.path, num_epochs=1))
    assert {path: path.stat().st_mtime_ns for path in first.path.iterdir()} == before
    second = train(settings(folder, first.path, num_epochs=1, dcd=False, overwrite=True))
    assert files(second.path) & {"weights.2.pt", "z.2.npy", "conformations.dcd", "topology.cif"} == set()
    assert len(read_metrics(second)) == 1 and {"weights.1.pt", "conformations.npy"} <= files(second.path)
    assert train(settings(folder, first.path, num_epochs=2, load="latest")).latest_checkpoint() == first.weights(2)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", "truncated", "tensor"])
def test_a_file_that_is_no_checkpoint(run, folder, tmp_path, content):
    path = tmp_path / "weights.4.pt"
    if content == "tensor":
        torch.save(torch.zeros(3), path)
    else:
        path.write_bytes(run.weights(1).read_bytes()[:2000] if content == "truncated" else content)
    with pytest.raises(ValueError, match=r"weights\.4\.pt is not a cryoatom"):
        find_checkpoint("latest", RunFolder(tmp_path), {})
    with trainer_of(settings(folder)) as trainer, pytest.raises(ValueError, match=r"weights\.4\.pt is not a cryoatom"):
        load_checkpoint(path, trainer)
    with pytest.raises(FileNotFoundError, match=r"no checkpoint .*weights\.5"):
        find_checkpoint(tmp_path / "weights.5.pt", RunFolder(tmp_path), {})


@pytest.mark.parametrize("call", ["os.replace", "pathlib.Path.write_bytes"])
def test_a_full_disk_leaves_the_last_checkpoint_whole(run, folder, tmp_path, monkeypatch, call):
    original = {"os.replace": __import__("os").replace, "pathlib.Path.write_bytes": type(tmp_path).write_bytes}[call]

    def fails_from_the_second_epoch(path, *arguments):
        if "weights.2.pt" in str(path):
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return original(path, *arguments)

    monkeypatch.setattr(call, fails_from_the_second_epoch)
    with pytest.raises(OSError, match="No space left on device"):
        train(settings(folder, tmp_path))
    monkeypatch.undo()
    assert {name for name in files(tmp_path) if "weights" in name} == {"weights.1.pt"}
    resumed = train(settings(folder, tmp_path, load="latest"))
    np.testing.assert_array_equal(np.load(resumed.conformations), np.load(run.conformations))


def test_a_checkpoint_is_read_without_running_code_from_it(run):
    state = torch.load(run.weights(2), weights_only=True)
    assert set(state) == {
        "identity",
        "history",
        "model",
        "optimizer",
        "latents",
        "poses",
        "fits",
        "are_latents_held",
        "begun",
    }


# --- the loop -------------------------------------------------------------------------------------------------------


def test_held_out_images_train_no_weight(folder, tmp_path):
    config = settings(folder, tmp_path, held_out=0.3, num_epochs=1)
    training, held_out = split_rows(COUNT, 0.3, config.seed)
    results = []
    for scale in (1.0, 3.0):  # whatever the held-out images are
        with trainer_of(config) as trainer:
            crops = np.array(trainer.data.crops)
            crops[held_out] *= np.float16(scale)
            trainer.feed = ImageFeed(replace(trainer.data, crops=crops), trainer.device)
            fit(config, trainer, RunFolder(tmp_path), {}, None, silent)
            results.append((trainer.model.state_dict(), trainer.latents.values.clone()))
    (first, z), (second, z_scaled) = results
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert torch.equal(z[training], z_scaled[training]) and not torch.equal(z[held_out], z_scaled[held_out])


@pytest.mark.parametrize(("count", "fraction", "held"), [(100, 0.02, 2), (41, 0.1, 4), (1, 0.5, 0), (3, 0.0, 0)])
def test_the_split_is_disjoint_complete_and_given_by_the_seed(count, fraction, held):
    training, held_out = split_rows(count, fraction, 3)
    assert len(held_out) == held
    np.testing.assert_array_equal(np.sort(np.concatenate([training, held_out])), np.arange(count))
    np.testing.assert_array_equal(held_out, split_rows(count, fraction, 3)[1])


def history(*values: float) -> list[dict[str, float]]:
    return [{"held_out_nll": value} for value in values]


def test_a_run_stalls_when_held_out_images_gain_nothing_any_more():
    assert not has_stalled([], 2) and not has_stalled(history(-1, -2), 2)
    assert not has_stalled(history(-100, -101, -100, -102), 2)
    assert has_stalled(history(-100, -105, -104, -103), 2)
    assert has_stalled(history(-100, -100.0001, -100.0002), 2)  # too little to call a gain
    assert not has_stalled(history(-100, -90, -80), 0)
    assert not has_stalled([{"loss": 1.0}] * 9, 2)  # no image is held out


def test_the_decay_of_a_stalled_run_starts_at_once_and_only_then():
    full = Schedule(20, warmup=3, decay=0.4, lr=1.0, bead_lr=1.0, z_lr=1.0)  # the rates fall after epoch 12
    stalls = [-100.0, -105, -104, -103]
    assert shortened(full, history(*stalls[:3]), 2) is full
    early = shortened(full, history(*stalls), 2)
    assert early == full.ended_early(4) and early.epochs == 12
    for later in ([-103], [-200, -300], [-1] * 8):  # once begun it ends, whatever follows
        assert shortened(full, history(*stalls, *later), 2) == early
    falling = list(range(0, -24, -2))
    assert shortened(full, history(*falling, -1, -1, -1), 2) is full  # the rates fall already
    assert shortened(full, history(*stalls), 0) is full


@pytest.fixture
def stalling(monkeypatch):
    """The held-out images gain nothing, but their latents are fitted as ever."""
    from cryoatom.training import fit as module

    follow = module.follow_held_out
    monkeypatch.setattr(module, "follow_held_out", lambda *arguments: follow(*arguments) | {"nll": 1.0})


def test_a_run_that_gains_nothing_decays_early_and_keeps_its_end(folder, tmp_path, stalling):
    run = train(settings(folder, tmp_path, num_epochs=10, patience=2, decay=0.3, checkpoint=100))
    assert [row["epoch"] for row in read_metrics(run)] == [1, 2, 3, 4, 5, 6]  # 3 to stall, 3 of decay
    assert run.latest_checkpoint() == run.weights(6)  # the last epoch's is always kept
    settings_of_decoder = torch.load(run.weights(6))["optimizer"]["param_groups"][0]
    assert settings_of_decoder["lr"] < 0.1 * settings_of_decoder["rate"]


@pytest.mark.parametrize("after", [2, 3, 5])
def test_a_resumed_run_that_decays_early_is_the_uninterrupted_one(folder, tmp_path, stalling, after):
    options = {"num_epochs": 9, "patience": 2, "decay": 0.3}
    whole = train(settings(folder, tmp_path / "whole", **options))
    assert whole.latest_checkpoint() == whole.weights(6)
    resumed = RunFolder(tmp_path / "resumed")
    resumed.path.mkdir()
    shutil.copy(whole.weights(after), resumed.weights(after))  # before, at and in the decay
    train(settings(folder, resumed.path, load="latest", **options))
    assert resumed.latest_checkpoint() == resumed.weights(6)
    first, second = (torch.load(f.weights()) for f in (whole, resumed))
    for part in ("model", "latents"):
        assert all(torch.equal(value, second[part][name]) for name, value in first[part].items())
    np.testing.assert_array_equal(np.load(resumed.conformations), np.load(whole.conformations))


def test_a_finished_early_run_is_not_trained_further(folder, tmp_path, stalling):
    options = {"num_epochs": 9, "patience": 2, "decay": 0.3}
    whole = train(settings(folder, tmp_path, **options))
    before = np.load(whole.conformations)
    again = train(settings(folder, tmp_path, load="latest", **options))
    np.testing.assert_array_equal(np.load(again.conformations), before)
    assert again.latest_checkpoint() == again.weights(6)


def test_the_scale_is_the_best_for_the_template(folder):
    with trainer_of(settings(folder)) as trainer:
        start_scale(trainer, np.arange(COUNT))
        found = trainer.model.beads.log_scale.item()
        losses = []
        for change in (-0.05, 0.0, 0.05):
            trainer.model.beads.log_scale.data.fill_(found + change)
            losses.append(trainer.fit_latents(np.arange(COUNT), 0.0)["nll"])
    assert losses[1] < losses[0] and losses[1] < losses[2]


def test_the_scale_is_sampled_evenly(folder, monkeypatch):
    monkeypatch.setattr("cryoatom.training.fit._SCALE_SAMPLE", 9)
    with trainer_of(settings(folder)) as trainer:
        seen, batch = [], trainer.batch
        monkeypatch.setattr(trainer, "batch", lambda rows: seen.extend(rows) or batch(rows))
        start_scale(trainer, np.arange(1, COUNT))
    expected = np.linspace(1, COUNT - 1, 9).astype(int)
    np.testing.assert_array_equal(seen, expected)


def test_images_without_the_template_get_a_scale_with_a_warning(folder, caplog):
    with trainer_of(settings(folder)) as trainer:
        start_scale(trainer, np.arange(COUNT))
        right = trainer.model.beads.log_scale.item()
        trainer.feed = ImageFeed(replace(trainer.data, crops=-trainer.data.crops), trainer.device)
        start_scale(trainer, np.arange(COUNT))
        assert math.isfinite(trainer.model.beads.log_scale.item())
        assert trainer.model.beads.log_scale.item() < right - 1
    assert "do not show the template" in caplog.text


def test_images_of_noise_are_refused(tmp_path):
    write_dataset(tmp_path, 120)
    write_stack(tmp_path / "particles.mrcs", np.random.default_rng(0).normal(size=(120, BOX, BOX)), 2.0)
    with pytest.raises(ValueError, match=r"do not show the template: over 120 images .* at least 5 are needed"):
        train(settings(tmp_path))
    assert not list((tmp_path / "run").glob("weights*"))


def test_inverted_contrast_is_refused_and_uninvert_data_mends_it(tmp_path):
    write_dataset(tmp_path, 60)
    right = train(settings(tmp_path, tmp_path / "right"))
    images = open_stack(tmp_path / "particles.mrcs").read(np.arange(60))
    write_stack(tmp_path / "particles.mrcs", -images, 2.0)
    with pytest.raises(ValueError, match=r"contrast is inverted: .*give --uninvert-data"):
        train(settings(tmp_path))
    mended = train(settings(tmp_path, uninvert_data=True))
    np.testing.assert_allclose(np.load(mended.conformations), np.load(right.conformations), atol=0.05)


def test_equal_seeds_build_equal_models_and_leave_torchs_generator_alone(folder):
    config = settings(folder)
    template, graph = small_template(), build_graph(small_template())
    state = torch.get_rng_state()
    models = [build_model(config.model_copy(update={"seed": seed}), template, graph, 2.0) for seed in (0, 0, 1)]
    assert torch.equal(state, torch.get_rng_state())
    weights = [torch.cat([p.flatten() for p in model.parameters()]) for model in models]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


# --- bad input, before any time is spent ----------------------------------------------------------------------------


def test_particles_without_poses(tmp_path):
    write_dataset(tmp_path, 5, has_poses=False)
    with pytest.raises(ValueError, match=r"particles\.star has no orientations \(rlnAngleRot, rlnAngleTilt"):
        train(settings(tmp_path))
    assert not (tmp_path / "run").exists()


def test_a_template_outside_the_box(folder, tmp_path):
    copy_inputs(folder, tmp_path)
    away = small_template().with_positions(small_template().atoms.positions + [120.0, 0.0, 0.0])
    write_template(tmp_path / "template.cif", away)
    with pytest.raises(
        ValueError,
        match=r"template\.cif reaches 1\d\d Å .*centre is 120 Å away.* end at 40 Å: .*cryoatom template --onto",
    ) as error:
        train(settings(tmp_path, tmp_path / "run"))
    assert error.value.__cause__ is None and "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_graph_of_another_template(folder, tmp_path):
    write_graph(tmp_path / "graph.npz", build_graph(template_from_atoms(helix(9), "other")[0]))
    with pytest.raises(ValueError, match=r"graph\.npz has 9 residues, the template .*template\.cif has 16"):
        train(settings(folder, tmp_path / "run", graph=tmp_path / "graph.npz"))
    assert not (tmp_path / "run").exists()


def test_a_graph_from_a_file_is_used(folder, tmp_path):
    graph = build_graph(small_template())
    kept = replace(graph, edges=graph.edges[:5], kinds=graph.kinds[:5], energies=graph.energies[:5])
    write_graph(tmp_path / "graph.npz", kept)
    inputs = read_inputs(settings(folder, graph=tmp_path / "graph.npz"))
    np.testing.assert_array_equal(inputs.graph.edges, kept.edges)


def test_missing_files_and_pdb_rows_are_found_first(folder, tmp_path):
    (tmp_path / "rows.txt").write_text("400")
    for changes, message in (
        ({"template": tmp_path / "no.cif"}, r"no\.cif"),
        ({"particles": tmp_path / "no.star"}, r"no\.star"),
        ({"pdb": tmp_path / "rows.txt"}, "names row 400"),
        ({"graph": tmp_path / "no.npz"}, r"no\.npz"),
    ):
        with pytest.raises((FileNotFoundError, ValueError), match=message):
            train(settings(folder, tmp_path / "run", **changes))
        assert not (tmp_path / "run").exists()


def test_images_with_nan_are_named_and_no_statistics_are_left(tmp_path):
    write_dataset(tmp_path, 5)
    images = open_stack(tmp_path / "particles.mrcs").read(np.arange(5))
    images[[1, 3], 2, 2] = np.nan
    raw = (tmp_path / "particles.mrcs").read_bytes()
    (tmp_path / "particles.mrcs").write_bytes(raw[:1024] + images.astype("<f4").tobytes())
    with pytest.raises(ValueError, match=r"more than 5% of 5 images.*000002@particles\.mrcs"):
        train(settings(tmp_path))
    assert not list((tmp_path / "cache").rglob("*.npy"))


def test_a_device_that_there_is_not(folder):
    with pytest.raises(ValueError, match="--device nowhere cannot be used"):
        choose_device("nowhere")
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("auto").type in ("cpu", "cuda")


def test_a_template_of_alpha_carbons_alone_trains(folder, tmp_path, caplog):
    atoms = small_template().atoms
    write_atoms(tmp_path / "ca.cif", atoms[atoms.names == "CA"])
    with caplog.at_level(logging.WARNING):
        run = train(settings(folder, tmp_path / "run", template=tmp_path / "ca.cif", num_epochs=2))
    assert np.load(run.conformations).shape == (COUNT, RESIDUES, 3)
    assert "hydrogen" in caplog.text
    assert residue_electrons(np.array(["ALA"]))[0] == 38


def test_saving_and_loading_is_lossless(folder, tmp_path):
    with trainer_of(settings(folder)) as trainer:
        trainer.train_epoch(0, np.arange(COUNT))
        save_checkpoint(tmp_path / "weights.1.pt", trainer, [{"epoch": 1.0}], {"images": "a"})
        with trainer_of(settings(folder, seed=9)) as other:
            assert load_checkpoint(tmp_path / "weights.1.pt", other) == ([{"epoch": 1.0}], None)
            for epoch in (1, 2):
                assert trainer.optimizer.state_dict()["state"].keys() == other.optimizer.state_dict()["state"].keys()
                other.seed = trainer.seed
                assert trainer.train_epoch(epoch, np.arange(COUNT)) == other.train_epoch(epoch, np.arange(COUNT))
