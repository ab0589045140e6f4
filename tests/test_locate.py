import logging
import os
from pathlib import Path

import pytest

from cryoatom.files.locate import locate_stacks


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path.resolve()


def test_beside_the_particle_file(tmp_path):
    stack = touch(tmp_path / "a.mrcs")
    assert locate_stacks(["a.mrcs"], tmp_path / "p.star") == (stack,)


def test_absolute_names(tmp_path):
    stack = touch(tmp_path / "far/a.mrcs")
    assert locate_stacks([str(stack)], tmp_path / "near/p.star") == (stack,)


def test_relion_project_above_the_particle_file(tmp_path, caplog):
    names = ["Extract/job007/Movies/a.mrcs", "Extract/job007/Movies/b.mrcs"]
    stacks = tuple(touch(tmp_path / "project" / name) for name in names)
    source = tmp_path / "project/Refine3D/job010/run_data.star"
    source.parent.mkdir(parents=True)
    with caplog.at_level(logging.INFO):
        assert locate_stacks(names, source) == stacks
    assert f"2 of 2 image stacks found in {tmp_path / 'project'} by their whole names" in caplog.text


def test_working_directory_is_the_last_resort(tmp_path, monkeypatch):
    elsewhere, beside = touch(tmp_path / "cwd/a.mrcs"), tmp_path / "data/a.mrcs"
    monkeypatch.chdir(elsewhere.parent)
    (tmp_path / "data").mkdir()
    assert locate_stacks(["a.mrcs"], tmp_path / "data/p.star") == (elsewhere,)
    touch(beside)
    assert locate_stacks(["a.mrcs"], tmp_path / "data/p.star") == (beside.resolve(),)


def test_datadir_prefers_the_whole_name(tmp_path, caplog):
    names = ["jobs/1/a.mrcs", "jobs/1/b.mrcs"]
    whole, base = touch(tmp_path / "data/jobs/1/a.mrcs"), touch(tmp_path / "data/b.mrcs")
    touch(tmp_path / "data/a.mrcs")
    touch(tmp_path / "jobs/1/b.mrcs")  # right for the particle file's folder, but --datadir was given
    with caplog.at_level(logging.INFO):
        assert locate_stacks(names, tmp_path / "p.star", tmp_path / "data") == (whole, base)
    assert "by their whole names" in caplog.text and "by file name, ignoring their folders" in caplog.text


def test_symbolic_links_are_resolved(tmp_path):
    stack = touch(tmp_path / "store/blob")
    (tmp_path / "a.mrcs").symlink_to(stack)
    assert locate_stacks(["a.mrcs"], tmp_path / "p.star") == (stack,)


def test_two_names_never_become_one_file(tmp_path):
    touch(tmp_path / "data/a.mrcs")
    with pytest.raises(ValueError, match=r"names one/a\.mrcs and two/a\.mrcs, and both would be .*data/a\.mrcs"):
        locate_stacks(["one/a.mrcs", "two/a.mrcs"], tmp_path / "p.star", tmp_path / "data")


def test_all_missing_names_are_listed(tmp_path, caplog):
    touch(tmp_path / "b.mrcs")
    with pytest.raises(FileNotFoundError) as caught:
        locate_stacks(["a.mrcs", "b.mrcs", "c.mrcs"], tmp_path / "p.star")
    assert "2 of 3 image stacks" in str(caught.value) and "a.mrcs, c.mrcs" in str(caught.value)
    assert "--datadir" in str(caught.value) and "b.mrcs" not in str(caught.value)
    names = [f"{i}.mrcs" for i in range(100)]
    with caplog.at_level(logging.INFO), pytest.raises(FileNotFoundError, match=r"100 of 100.* 19\.mrcs and 80 more"):
        locate_stacks(names, tmp_path / "p.star", tmp_path)
    assert "99.mrcs" in caplog.text


def test_missing_datadir(tmp_path):
    with pytest.raises(FileNotFoundError, match="data folder .*nowhere does not exist"):
        locate_stacks(["a.mrcs"], tmp_path / "p.star", tmp_path / "nowhere")


def test_a_folder_is_no_stack(tmp_path):
    (tmp_path / "a.mrcs").mkdir()
    with pytest.raises(FileNotFoundError):
        locate_stacks(["a.mrcs"], tmp_path / "p.star")


def test_names_with_dots_stay_below_a_folder_above_the_particle_file(tmp_path):
    stack = touch(tmp_path / "other/a.mrcs")
    source = touch(tmp_path / "run/p.star")
    assert locate_stacks(["../other/a.mrcs"], source) == (stack,)
    assert locate_stacks(["x/../../other/./a.mrcs"], source) == (stack,)  # x need not exist: what is checked is opened
    touch(tmp_path / "b.mrcs")
    with pytest.raises(FileNotFoundError, match=r"do not exist .*: \.\./\.\./\.\./\.\./\.\./\.\./b\.mrcs"):
        locate_stacks(["../" * 6 + "b.mrcs"], source)


@pytest.mark.parametrize("name", ["/etc/passwd", "etc/passwd", "../" * 40 + "etc/passwd", "//etc/passwd"])
def test_a_particle_file_cannot_name_any_file_of_the_machine(tmp_path, monkeypatch, name):
    source = touch(tmp_path / "run/p.star")
    for cwd in (tmp_path, Path("/")):
        monkeypatch.chdir(cwd)
        for datadir in (None, tmp_path, tmp_path / "run"):
            with pytest.raises(FileNotFoundError, match=r"do not exist .*etc/passwd") as caught:
                locate_stacks([name], source, datadir)
            if name != "etc/passwd":
                assert "/etc/passwd exists, but lies outside" in str(caught.value)
                assert "if you trust it give a" in str(caught.value)
    assert locate_stacks([name], source, Path("/")) == (Path("/etc/passwd").resolve(),)  # as the user says


@pytest.mark.parametrize("make", [str, lambda path: os.path.relpath(path, path.parents[2] / "home/run")])
def test_a_stack_far_away_is_found_below_the_data_folder(tmp_path, make):
    stack = touch(tmp_path / "scratch/set/a.mrcs")
    source = touch(tmp_path / "home/run/poses.star")
    assert locate_stacks([make(stack)], source, tmp_path / "scratch") == (stack,)
    with pytest.raises(FileNotFoundError, match="by their whole names, by the same from .*home/run, and by file name"):
        locate_stacks([make(stack)], source, tmp_path / "home")


def test_links_may_lead_out(tmp_path):
    stack = touch(tmp_path / "store/blob")
    source = touch(tmp_path / "project/p.star")
    (tmp_path / "project/Movies").symlink_to(tmp_path / "store")
    assert locate_stacks(["Movies/blob"], source, source.parent) == (stack,)
    assert locate_stacks([str(source.parent / "Movies/blob")], source) == (stack,)


@pytest.mark.parametrize("name", ["", "  ", "a\0.mrcs"])
def test_names_that_are_none(tmp_path, name):
    with pytest.raises(ValueError, match=r"p\.star: expected the name of an image stack, found '"):
        locate_stacks([name], tmp_path / "p.star")


def test_a_pipe_is_no_stack_and_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "a.mrcs")
    for datadir in (None, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"a\.mrcs is no regular file"):
            locate_stacks(["a.mrcs"], tmp_path / "p.star", datadir)


def test_a_message_is_one_printable_line(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        locate_stacks(["a\nb\x1b[31m.mrcs"], tmp_path / "p.star")
    assert str(caught.value).isprintable()
