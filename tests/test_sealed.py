import errno
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from cryoatom.files.sealed import SEAL, break_seal, find_damage, preparing, sealing


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A sealed folder with a large file, of which four blocks are checked, and a small one."""
    monkeypatch.setattr("cryoatom.files.sealed._BLOCK", 64)
    monkeypatch.setattr("cryoatom.files.sealed._BLOCKS", 4)
    folder = tmp_path / "set"
    with preparing(folder) as begun, sealing(begun, folder, {"digest": "a"}):
        (begun / "large").write_bytes(np.random.default_rng(0).bytes(6400))
        (begun / "small").write_bytes(b"1234567890")
    return folder


def overwrite(path: Path, start: int, content: bytes) -> None:
    whole = bytearray(path.read_bytes())
    whole[start : start + len(content)] = content
    path.write_bytes(whole)


def test_what_was_written_is_intact(folder):
    assert find_damage(folder, {"digest": "a"}) is None
    assert find_damage(folder, {"digest": "b"}) == f"{SEAL} is of something else"
    assert find_damage(folder, {"images": 3}) == f"{SEAL} is not readable"
    assert [path.name for path in folder.parent.iterdir()] == ["set"]


@pytest.mark.parametrize("start", [0, 63, 6399])
def test_a_large_file_is_checked_at_its_ends(folder, start):
    byte = (folder / "large").read_bytes()[start]
    overwrite(folder / "large", start, bytes([byte ^ 1]))
    assert find_damage(folder, {"digest": "a"}) == "large has other bytes than were written"


@pytest.mark.parametrize("start", range(0, 6400 - 2200, 300))
def test_a_wide_gap_in_a_large_file_is_found_wherever_it_is(folder, start):
    overwrite(folder / "large", start, bytes(2200))
    assert find_damage(folder, {"digest": "a"}) == "large has other bytes than were written"


def test_small_files_are_checked_whole(folder):
    for place in range(10):
        before = (folder / "small").read_bytes()
        overwrite(folder / "small", place, b"x")
        assert find_damage(folder, {"digest": "a"}) == "small has other bytes than were written"
        (folder / "small").write_bytes(before)
    (folder / "small").unlink()
    assert find_damage(folder, {"digest": "a"}) == "small is missing"


@pytest.mark.parametrize("seal", ["", "[]", "null", "{}", '{"digest": "a", "files": [1]}', "\x00\xff", '{"files": {}}'])
def test_a_seal_that_is_damaged_itself(folder, seal):
    (folder / SEAL).write_text(seal)
    assert find_damage(folder, {"digest": "a"}) == f"{SEAL} is not readable"


@pytest.mark.parametrize("entry", [[], [1], ["a", []], [10, [None]], 5, [10, 3]])
def test_a_seal_with_a_wrong_entry(folder, entry):
    seal = json.loads((folder / SEAL).read_text())
    seal["files"]["small"] = entry
    (folder / SEAL).write_text(json.dumps(seal))
    assert find_damage(folder, {"digest": "a"}) == f"{SEAL} is not readable"


def test_a_broken_seal_lets_the_folder_be_replaced(folder):
    def write(content: str) -> None:
        with preparing(folder) as begun, sealing(begun, folder, {"digest": "a"}):
            (begun / "small").write_text(content)

    write("later")
    assert (folder / "small").read_text() == "1234567890"
    break_seal(folder)
    write("later")
    assert (folder / "small").read_text() == "later" and not (folder / "large").exists()


def test_what_a_stop_has_cut_short_is_gone_on_with_and_errors_leave_nothing(tmp_path):
    folder = tmp_path / "set"
    with pytest.raises(OSError, match="full"), preparing(folder) as begun, sealing(begun, folder, {}):
        (begun / "first").write_text("0")
        raise OSError(errno.ENOSPC, "full")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(KeyboardInterrupt), preparing(folder) as begun, sealing(begun, folder, {}):
        (begun / "first").write_text("1")
        raise KeyboardInterrupt
    assert not folder.exists()
    with preparing(folder) as begun, sealing(begun, folder, {}):
        assert (begun / "first").read_text() == "1"
        (begun / "second").write_text("2")
    assert {path.name for path in folder.iterdir()} == {"first", "second", SEAL}
    assert list(tmp_path.iterdir()) == [folder]


def test_another_process_is_waited_for(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("cryoatom.files.lock._PAUSE", 0.01)
    folder, seen = tmp_path / "set", []

    def prepare_second() -> None:
        with preparing(folder):
            seen.append((folder / "a").exists())

    with preparing(folder) as begun:
        second = threading.Thread(target=prepare_second)
        second.start()
        time.sleep(0.05)
        with sealing(begun, folder, {}):
            (begun / "a").touch()
        assert seen == []
    second.join(timeout=10)
    assert seen == [True] and "another run prepares" in caplog.text and "waiting" in caplog.text


def test_without_locks_each_process_has_a_place_of_its_own(tmp_path, monkeypatch):
    @contextmanager
    def no_lock(path: Path, what: str) -> Iterator[bool]:
        yield False

    monkeypatch.setattr("cryoatom.files.sealed.waiting_for", no_lock)
    folder = tmp_path / "set"
    with preparing(folder) as first:
        monkeypatch.setattr("os.getpid", lambda: 7)
        with preparing(folder) as second:
            assert first != second
            for begun in (first, second):
                with sealing(begun, folder, {"by": begun.name}):
                    (begun / "a").touch()
    assert json.loads((folder / SEAL).read_text())["by"] == first.name  # the other one came too late
    with pytest.raises(OSError, match="full"), preparing(folder) as begun, sealing(begun, folder, {}):
        raise OSError(errno.ENOSPC, "full")
    assert list(tmp_path.iterdir()) == [folder]
