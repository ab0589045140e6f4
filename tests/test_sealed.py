import json
from pathlib import Path

import numpy as np
import pytest

from cryoatom.files.sealed import SEAL, break_seal, find_damage, sealing


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A sealed folder with a large file, of which four blocks are checked, and a small one."""
    monkeypatch.setattr("cryoatom.files.sealed._BLOCK", 64)
    monkeypatch.setattr("cryoatom.files.sealed._BLOCKS", 4)
    with sealing(tmp_path / "set", {"digest": "a"}) as temporary:
        (temporary / "large").write_bytes(np.random.default_rng(0).bytes(6400))
        (temporary / "small").write_bytes(b"1234567890")
    return tmp_path / "set"


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
        with sealing(folder, {"digest": "a"}) as temporary:
            (temporary / "small").write_text(content)

    write("later")
    assert (folder / "small").read_text() == "1234567890"
    break_seal(folder)
    write("later")
    assert (folder / "small").read_text() == "later" and not (folder / "large").exists()
