import csv
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from fits import settings, write_dataset
from particle_data import cs_fields, make_exact_particles, write_cryodrgn, write_cs

from cryoatom.analysis.analyze_config import AnalyzeConfig
from cryoatom.analysis.freshness import latents_digest
from cryoatom.analysis.run import Run, load
from cryoatom.analysis.select import _clusters, _within, choose_images, dead_images
from cryoatom.analysis.select_config import SelectConfig
from cryoatom.analysis.subset import write_subset
from cryoatom.cli.main import cli
from cryoatom.files.rows import read_rows
from cryoatom.files.star import write_star_particles
from cryoatom.geometry import random_rotations
from cryoatom.particles.table import read_particles
from cryoatom.records import Particles, Poses
from cryoatom.run_folder import AnalysisFolder, RunFolder
from cryoatom.train_config import TrainConfig
from cryoatom.training.train import train

KINDS = ("star", "cs", "stack")
IMAGES = 8


def write_particles(folder: Path, kind: str) -> tuple[Path, dict[str, Path]]:
    """Write a particle file of a kind; return it and what else `train` needs."""
    particles = make_exact_particles(folder)
    if kind == "star":
        write_star_particles(folder / "particles.star", particles)
        return folder / "particles.star", {}
    if kind == "cs":
        return write_cs(folder / "particles.cs", cs_fields(particles)), {}
    (folder / "stacks.txt").write_text("stack0.mrcs\nstack1.mrcs\n")
    poses, ctf = write_cryodrgn(folder, particles)
    return folder / "stacks.txt", {"poses": poses, "ctf": ctf}


def make_run(folder: Path, kind: str = "star", ind: list[int] | None = None) -> Run:
    """Write a run folder as `train` and `analyze` leave it, with what the commands read."""
    folder.mkdir(exist_ok=True)
    source, others = write_particles(folder, kind)
    if ind is not None:
        np.save(folder / "ind.npy", ind)
        others["ind"] = folder / "ind.npy"
    config = TrainConfig.model_validate(
        {"particles": source, "template": folder / "t.cif", "outdir": folder / "run", **others}
    )
    rows = None if ind is None else np.array(ind)
    particles = read_particles(source, ind=rows, poses=others.get("poses"), ctf=others.get("ctf"))
    write_run(RunFolder(config.outdir), config, particles, np.arange(len(particles)) if rows is None else rows)
    run = load(config.outdir)
    write_analysis(run, run.folder.analysis())
    return run


def write_run(run: RunFolder, config: TrainConfig, particles: Particles, rows: np.ndarray) -> None:
    generator, count = np.random.default_rng(3), len(particles)
    poses = Poses(random_rotations(count, generator), generator.uniform(-3, 3, (count, 2)))
    run.path.mkdir(parents=True)
    run.config.write_text(config.to_yaml(["cryoatom"]))
    run.save_array(run.rows, rows)
    run.weights().touch()
    run.save_array(run.latents(), np.zeros((count, 2), np.float32))
    run.save_array(run.conformations, np.zeros((count, 4, 3), np.float32))
    write_star_particles(run.poses, replace(particles, poses=poses))
    number = np.arange(count, dtype=float)
    columns = {"image": number, "name": particles.image_names, "gain_nats": 10 * number - 20}
    columns |= {} if particles.uids is None else {"uid": particles.uids}
    columns |= {"fits": number / 10, "is_junk": (number < 2).astype(int), "is_dead": (number < 1).astype(int)}
    columns |= {"sd": np.where(number == 1, np.nan, number / 2)}
    write_table(run.image_report, columns)


def write_analysis(run: Run, analysis: AnalysisFolder) -> None:
    count, number = len(run), np.arange(len(run), dtype=float)
    for folder in (analysis.path, analysis.labels(3).parent, analysis.path_position.parent):
        folder.mkdir(parents=True, exist_ok=True)
    analysis.config.write_text(AnalyzeConfig(run=run.folder.path, ksample=3).to_yaml(["cryoatom"]))
    analysis.state.write_text(latents_digest(run))
    np.save(analysis.labels(3), np.arange(count) % 3 + 1)
    np.save(analysis.latent_components, np.stack([number - 3, -number], axis=1))
    np.save(analysis.motions, number[:, None] * 2)
    np.save(analysis.path_position, np.where(number == 2, np.nan, number / 10))
    write_table(analysis.collective, {"image": number, "lid": 100 + number, "angle:1/2:3/4": -number})


def write_table(path: Path, columns: dict) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Run]:
    return {kind: make_run(tmp_path_factory.mktemp(kind) / "data", kind) for kind in KINDS}


def chosen(run: Run, **asked: object) -> list[int]:
    return choose_images(run, config_of(run, **asked)).images.tolist()


def config_of(run: Run, **given: object) -> SelectConfig:
    return SelectConfig.model_validate({"run": run.folder.path, "output": "rows.npy", **given})


CRITERIA = {
    "all": ({}, list(range(8))),
    "cluster": ({"cluster": "2"}, [1, 4, 7]),
    "clusters": ({"cluster": "1, 3"}, [0, 2, 3, 5, 6]),
    "clustering": ({"cluster": "2", "ksample": 3}, [1, 4, 7]),
    "pc": ({"pc": ("1:-1:2",)}, [2, 3, 4, 5]),
    "two pcs": ({"pc": ("1:-1:", "2::-4")}, [4, 5, 6, 7]),
    "motion": ({"motion": ("1::3",)}, [0, 1]),
    "variable": ({"cv": ("lid:102.5:104",)}, [3, 4]),
    "variable whose name has colons": ({"cv": ("angle:1/2:3/4:-2:", "lid:101:")}, [1, 2]),
    "fit": ({"fits": 0.6}, [6, 7]),
    "path, which image 2 is not on": ({"path": ":0.35"}, [0, 1, 3]),
    "gain": ({"gain": "10"}, [3, 4, 5, 6, 7]),
    "gain within bounds": ({"gain": "-10:10"}, [1, 2, 3]),
    "uncertainty, which image 1 has none of": ({"uncertainty": 1.0}, [0, 2]),
    "both": ({"cluster": "2", "gain": "10:"}, [4, 7]),
    "others": ({"cluster": "2", "gain": "10:", "invert": True}, [0, 1, 2, 3, 5, 6]),
    "random of more than there are": ({"cluster": "2", "random": 10}, [1, 4, 7]),
}


@pytest.mark.parametrize("case", CRITERIA)
def test_images_meet_all_criteria(runs, case):
    asked, expected = CRITERIA[case]
    assert chosen(runs["star"], **asked) == expected


def test_random_images_are_those_of_a_seed(runs):
    first = chosen(runs["star"], random=4, gain="-10")
    assert len(first) == 4 and set(first) <= set(range(1, 8)) and first == sorted(first)
    assert first == chosen(runs["star"], random=4, gain="-10")
    assert any(chosen(runs["star"], random=4, gain="-10", seed=seed) != first for seed in range(1, 5))


def test_it_is_told_how_many_each_criterion_leaves(runs):
    steps = choose_images(runs["star"], config_of(runs["star"], cluster="2", gain="10", random=1)).steps
    assert steps == (("--cluster 2", 3, 3), ("--gain 10", 5, 2), ("--random 1", 1, 1))


PROBLEMS = [
    ({"cluster": "4"}, ValueError, "there is no cluster 4, they are 1 to 3"),
    ({"cluster": "a"}, ValueError, "expected numbers of clusters"),
    ({"cluster": "1", "ksample": 5}, FileNotFoundError, "no .*kmeans5.*run `cryoatom analyze .* --ksample 5` first"),
    ({"pc": ("3:0:1",)}, ValueError, "--pc 3: expected a number from 1 to 2"),
    ({"pc": ("1:2",)}, ValueError, "--pc: expected bounds as 'LOW:HIGH'"),
    ({"pc": ("1:a:2",)}, ValueError, "--pc: expected bounds as 'LOW:HIGH'"),
    ({"motion": ("1:2:1",)}, ValueError, "the lower bound of '2:1' is above the upper one"),
    ({"cv": ("cap:1:2",)}, ValueError, "has no column 'cap', only image, lid"),
    ({"cv": ("lid:1",)}, ValueError, "--cv lid:1: expected 'NAME:LOW:HIGH'"),
    ({"gain": "1000"}, ValueError, r"no image lies within '1000:'"),
]


@pytest.mark.parametrize(("asked", "error", "message"), PROBLEMS)
def test_what_cannot_be_asked_is_said(runs, asked, error, message):
    with pytest.raises(error, match=message):
        chosen(runs["star"], **asked)


def test_an_analysis_of_other_images_is_refused(tmp_path):
    run = make_run(tmp_path)
    np.save(run.folder.analysis().motions, np.zeros((5, 1)))
    with pytest.raises(ValueError, match=r"motions.npy is of 5 images, and the run has 8"):
        chosen(run, motion=("1:0:",))


NEEDED_ANALYSIS = ({"cluster": "1"}, {"pc": ("1:0:",)}, {"motion": ("1:0:",)}, {"cv": ("lid:0:",)}, {"path": "0:"})


@pytest.mark.parametrize("asked", NEEDED_ANALYSIS, ids=lambda asked: next(iter(asked)))
def test_an_analysis_that_is_stale_or_cut_short_is_refused(tmp_path, asked):
    run = make_run(tmp_path)
    assert chosen(run, **asked)
    np.save(run.folder.latents(), np.ones((IMAGES, 2), np.float32))
    with pytest.raises(ValueError, match="analysis of another state, or epoch, of the run"):
        chosen(load(run.folder.path), **asked)
    run.folder.analysis().state.unlink()
    with pytest.raises(FileNotFoundError, match="no finished analysis: run `cryoatom analyze"):
        chosen(run, **asked)
    assert chosen(run, gain="10") == [3, 4, 5, 6, 7]  # which is no matter of the analysis


def test_clusters_are_those_of_the_last_analysis_unless_others_are_named(tmp_path):
    run = make_run(tmp_path)
    labels = run.folder.analysis().labels(2)
    labels.parent.mkdir()
    np.save(labels, np.arange(IMAGES) // 4 + 1)
    assert chosen(run, cluster="1") == [0, 3, 6]
    assert chosen(run, cluster="1", ksample=2) == [0, 1, 2, 3]


def test_the_analysis_may_lie_elsewhere(runs, tmp_path):
    write_analysis(runs["star"], AnalysisFolder(tmp_path))
    np.save(tmp_path / "motions.npy", np.arange(8.0)[::-1, None])
    assert chosen(runs["star"], motion=("1::1",), analysis=tmp_path) == [6, 7]


OF_THE_END = ({"gain": "1"}, {"fits": 0.1}, {"uncertainty": 1.0}, {"with_poses": True})


@pytest.mark.parametrize("asked", OF_THE_END, ids=lambda asked: next(iter(asked)))
def test_what_is_known_of_the_end_alone_is_not_asked_of_an_epoch(runs, asked):
    (name,) = (f"--{name.replace('_', '-')}" for name in asked)
    with pytest.raises(ValueError, match=f"{name} and --epoch do not go together"):
        config_of(runs["star"], epoch=2, **asked)


def test_the_analysis_of_an_epoch_is_that_of_its_latents(tmp_path):
    run = make_run(tmp_path)
    run.folder.weights(2).touch()
    np.save(run.folder.latents(2), np.ones((IMAGES, 2), np.float32))
    epoch = load(run.folder.path, 2)
    with pytest.raises(FileNotFoundError, match=r"analyze.2 holds no finished analysis: run `cryoatom analyze .* 2`"):
        chosen(epoch, epoch=2, cluster="1")
    write_analysis(epoch, run.folder.analysis(2))
    assert chosen(epoch, epoch=2, cluster="1") == [0, 3, 6]
    with pytest.raises(ValueError, match="analysis of another state"):
        chosen(run, cluster="1", analysis=run.folder.analysis(2).path)


def test_junk_and_dead_images_among_the_chosen_are_told(runs, caplog):
    run = runs["star"]
    with caplog.at_level(logging.WARNING):
        assert chosen(run, fits=0.15) == [2, 3, 4, 5, 6, 7]
        assert not caplog.records
        chosen(run, cluster="1, 2")
    assert "among these 6 images are 1 junk" in caplog.text and "and 1 dead" in caplog.text
    assert "images.csv; --fits 0.05 leaves them out" in caplog.text
    assert dead_images(run, np.array([0, 1, 5])).tolist() == [0]


def test_rows_are_those_of_the_particle_file_where_the_training_used_some(tmp_path):
    run = make_run(tmp_path, ind=[6, 1, 3, 4])
    (tmp_path / "ind.npy").unlink()  # it is not needed any more
    (tmp_path / "rows.txt").write_text("3 6\n")
    assert chosen(run, ind=tmp_path / "rows.txt") == [0, 2]
    (tmp_path / "images.txt").write_text("1 3\n")
    assert chosen(run, images=tmp_path / "images.txt") == [1, 3]
    for text, message in (("3 5", r"image of row 5; --ind takes"), ("0 5 3", r"image of row 0 \(and 1 more\); --ind")):
        (tmp_path / "rows.txt").write_text(text)
        with pytest.raises(ValueError, match=f"rows.txt: the run has no {message}"):
            chosen(run, ind=tmp_path / "rows.txt")
    (tmp_path / "images.txt").write_text("1 6")
    with pytest.raises(ValueError, match="images.txt: the run has no image 6; --ind takes rows"):
        chosen(run, images=tmp_path / "images.txt")
    subset, images = tmp_path / "subset.star", np.array([0, 2])
    write_subset(run, images, config_of(run, output=subset))
    whole = read_particles(run.config.particles)
    assert read_particles(subset, datadir=tmp_path).image_names.tolist() == whole.image_names[[3, 6]].tolist()
    write_subset(run, images, config_of(run, output=tmp_path / "subset.txt"))
    assert read_rows(tmp_path / "subset.txt").tolist() == [6, 3]


@pytest.mark.parametrize("ind", [np.arange(0, 40, 2), np.arange(20, 40)], ids=["every second", "20 to 39"])
def test_the_right_particles_of_a_run_that_was_trained_on_some_come_out(tmp_path, ind):
    data = tmp_path / "data"
    data.mkdir()
    write_dataset(data, 40)
    np.save(tmp_path / "ind.npy", ind)
    quick = {"num_epochs": 1, "z_passes": 0, "dcd": False, "analysis": False, "uncertainty": False}
    outdir = tmp_path / "runs" / "first"  # from where the stacks have other names
    run = load(train(settings(data, outdir, ind=tmp_path / "ind.npy", **quick)).path)
    write_analysis(run, run.folder.analysis())
    rows, output = tmp_path / "rows.txt", data / "subset.star"
    rows.write_text("22 38")  # of the particle file
    for asked, expected in (
        ({"ind": rows}, [22, 38]),
        ({"ind": run.folder.good_rows}, read_rows(run.folder.good_rows).tolist()),
        ({"cluster": "2"}, ind[1::3].tolist()),
    ):
        write_subset(run, choose_images(run, config_of(run, **asked)).images, config_of(run, output=output))
        assert slices(output) == expected
        write_subset(run, choose_images(run, config_of(run, **asked)).images, config_of(run, output=rows))
        assert read_rows(rows).tolist() == expected
    rows.write_text("2 18")  # of the run
    write_subset(run, choose_images(run, config_of(run, images=rows)).images, config_of(run, output=output))
    assert slices(output) == ind[[2, 18]].tolist()


def slices(star: Path) -> list[int]:
    return read_particles(star).slice_of_image.tolist()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("suffix", [".txt", ".npy"])
def test_lists_of_rows_are_read_by_train(runs, tmp_path, kind, suffix):
    output = tmp_path / f"rows{suffix}"
    assert write_subset(runs[kind], np.array([2, 5]), config_of(runs[kind], output=output)) == [output]
    assert read_rows(output).tolist() == [2, 5]


@pytest.mark.parametrize("with_poses", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_subset_holds_the_particles_and_their_poses(runs, kind, with_poses):
    run, images = runs[kind], np.array([1, 4, 6])
    suffix = ".cs" if kind == "cs" else ".star"
    output = run.config.particles.with_name(f"subset_{with_poses}{suffix}")
    write_subset(run, images, config_of(run, output=output, with_poses=with_poses))
    whole, part = particles_of(run), read_particles(output)
    assert part.slice_of_image.tolist() == whole.slice_of_image[images].tolist()
    assert [part.stacks[n] for n in part.stack_of_image] == [whole.stacks[n] for n in whole.stack_of_image[images]]
    np.testing.assert_allclose(part.optics.as_array(), whole.optics.as_array()[images], rtol=1e-6)
    assert part.poses is not None and whole.poses is not None
    expected = (run.poses if with_poses else whole.poses)[images]
    np.testing.assert_allclose(part.poses.rotations, expected.rotations, atol=1e-6)
    np.testing.assert_allclose(part.poses.shifts, expected.shifts, atol=1e-5)


def particles_of(run: Run) -> Particles:
    poses = run.config.poses if isinstance(run.config.poses, Path) else None
    return read_particles(run.config.particles, poses=poses, ctf=run.config.ctf)


def test_passthrough_files_are_cut_alike(runs, tmp_path):
    run = runs["cs"]
    records = np.load(run.config.particles)
    other = {"uid": records["uid"][::-1], "location/center_x_frac": np.arange(8, dtype=np.float32)}
    passthrough, output = write_cs(tmp_path / "J7_passthrough_particles.cs", other), tmp_path / "open.cs"
    written = write_subset(run, np.array([0, 5]), config_of(run, output=output, also=(passthrough,)))
    assert written == [output, tmp_path / "open_J7_passthrough_particles.cs"]
    assert np.load(written[1])["uid"].tolist() == np.load(output)["uid"].tolist() == records["uid"][[0, 5]].tolist()


def test_a_passthrough_file_of_another_job_leaves_nothing_behind(runs, tmp_path):
    run, output = runs["cs"], tmp_path / "open.cs"
    wrong = write_cs(tmp_path / "wrong.cs", {"uid": np.arange(8, dtype=np.uint64)})
    (tmp_path / "J8").mkdir()
    right = write_cs(tmp_path / "J8" / "wrong.cs", {"uid": np.load(run.config.particles)["uid"]})
    for files, message in (((wrong,), "is it of the same job"), ((right, right), "two files are named wrong.cs")):
        with pytest.raises(ValueError, match=message):
            write_subset(run, np.array([0, 5]), config_of(run, output=output, also=files))
        assert not list(tmp_path.glob("open*"))


FORMATS = [
    ("star", ".cs", {}, "cannot write .cs of .*particles.star: give -o one of .star, .txt, .npy$"),
    ("cs", ".star", {}, "cannot write .star of .*particles.cs: give -o one of .cs, .txt, .npy$"),
    ("stack", ".cs", {}, "cannot write .cs of .*stacks.txt: give -o one of .star, .txt, .npy$"),
    ("star", ".pkl", {}, "for cryoDRGN: pickle.dump"),
    ("star", "", {}, "cannot write a file without suffix"),
    ("star", ".star", {"also": ("a.cs",)}, "--also cuts cryoSPARC's passthrough files"),
    ("star", ".npy", {"with_poses": True}, "--with-poses has no meaning for rows"),
]


@pytest.mark.parametrize(("kind", "suffix", "given", "message"), FORMATS)
def test_a_format_that_cannot_be_made_is_refused(runs, tmp_path, kind, suffix, given, message):
    with pytest.raises(ValueError, match=message):
        write_subset(runs[kind], np.arange(3), config_of(runs[kind], output=tmp_path / f"out{suffix}", **given))


WRITTEN = (("star", ".star"), ("star", ".txt"), ("cs", ".cs"), ("cs", ".npy"), ("stack", ".star"))


@pytest.mark.parametrize("change", [slice(None, None, -1), slice(3, None), slice(2)], ids=["order", "fewer", "short"])
@pytest.mark.parametrize(("kind", "suffix"), WRITTEN)
def test_a_particle_file_that_has_changed_is_refused(tmp_path, kind, suffix, change):
    run, output = make_run(tmp_path, kind), tmp_path / f"subset{suffix}"
    source = run.config.particles
    if kind == "star":
        write_star_particles(source, particles_of(run)[np.arange(IMAGES)[change]])
    elif kind == "cs":
        records = np.load(source)[change]
        write_cs(source, {name: records[name] for name in records.dtype.names})
    else:
        source.write_text("stack1.mrcs\nstack0.mrcs\n")
    with pytest.raises(ValueError, match="has changed|is selected that is not in"):
        write_subset(run, np.arange(3), config_of(run, output=output))
    assert not output.exists()


def test_rows_are_known_where_the_particle_file_is_gone(tmp_path):
    run = make_run(tmp_path)
    run.config.particles.unlink()
    write_subset(run, np.arange(3), config_of(run, output=tmp_path / "rows.npy"))
    assert read_rows(tmp_path / "rows.npy").tolist() == [0, 1, 2]
    with pytest.raises(FileNotFoundError):
        write_subset(run, np.arange(3), config_of(run, output=tmp_path / "subset.star"))


def command(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["select", *arguments], prog_name="cryoatom")


def test_the_command_tells_what_is_left_and_takes_negative_bounds(runs, tmp_path):
    run, output = runs["star"], tmp_path / "rows.txt"
    result = command(str(run.folder.path), "--gain", "-10:20", "--pc", "1:-1:2", "--pc", "2:-4:", "-o", str(output))
    assert result.exit_code == 0, result.output
    assert "3 of 8 images: " in result.output and "--pc 1:-1:2" in result.output
    assert output.read_text() == "2\n3\n4\n"
    assert command(str(run.folder.path), "--cluster", "9", "-o", str(output)).exit_code == 1


@pytest.mark.parametrize(
    ("text", "expected"), [("3", [3]), ("1,3", [1, 3]), ("k2", [2]), ("1-3", [1, 2, 3]), ("k1-k2,4", [1, 2, 4])]
)
def test_clusters_may_be_named_as_analyze_writes_them(text, expected):
    assert _clusters(text, np.array([1, 2, 3, 4])) == expected


@pytest.mark.parametrize("text", ["", "0", "5", "3-1", "a", "1;2"])
def test_other_clusters_are_refused(text):
    with pytest.raises(ValueError, match="--cluster"):
        _clusters(text, np.array([1, 2, 3, 4]))


def test_an_empty_range_says_where_the_values_are():
    with pytest.raises(ValueError, match="run from -2 to 1.5"):
        _within(np.array([-2.0, 1.5, np.nan]), "100:", "--motion")
