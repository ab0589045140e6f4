from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from cryoatom.config import RECORDED, Settings, load_config, setting
from cryoatom.train_config import TrainConfig

REQUIRED = {"particles": "p.star", "template": "t.cif", "outdir": "run"}


class Bread(Settings):
    presets: ClassVar[dict[str, dict[str, Any]]] = {"rye": {"flour": 3, "hours": 24.0}}

    flour: int = setting(1, "Cups.", ge=0, le=9)
    hours: float = setting(2.0, "Time.", gt=0)
    seeds: tuple[str, ...] = setting((), "Which.")
    oven: Path | None = setting(None, "Where.")
    preset: Literal["default", "rye"] = setting("default", "Kind.")


def write(folder: Path, text: str) -> Path:
    file = folder / "bread.yaml"
    file.write_text(text)
    return file


def test_a_flag_beats_the_file_beats_the_preset_beats_the_default(tmp_path):
    config = write(tmp_path, "preset: rye\nhours: 5\n")
    assert Bread.merge({}) == Bread(flour=1, hours=2.0)
    assert Bread.merge({}, config) == Bread(flour=3, hours=5.0, preset="rye")
    assert Bread.merge({"hours": 7.0}, config).hours == 7.0
    assert Bread.merge({"preset": "default"}, config) == Bread(flour=1, hours=5.0)


def test_exponents_that_yaml_reads_as_text_become_numbers(tmp_path):
    assert Bread.merge({}, write(tmp_path, "hours: 1e-3")).hours == 1e-3


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("flouer: 2", ["'flouer'", "bread.yaml", "did you mean 'flour'"]),
        ("xyz: 2", ["'xyz'", "known: flour, hours"]),
        ("flour: 10", ["flour", "less than or equal to 9", "found 10", "bread.yaml"]),
        ("flour: many", ["flour", "valid integer", "'many'"]),
        ("preset: white", ["preset", "'default' or 'rye'"]),
        ("hours: .nan", ["hours", "found nan"]),
        ("- flour", ["bread.yaml", "list"]),
        ("flour: [", ["bread.yaml", "not a YAML file"]),
    ],
)
def test_a_bad_file_is_one_clear_line(tmp_path, text, words):
    with pytest.raises(ValueError) as caught:
        Bread.merge({}, write(tmp_path, text))
    assert all(word in str(caught.value) for word in words)
    assert "\n" not in str(caught.value)


def test_a_bad_flag_is_not_blamed_on_the_file(tmp_path):
    with pytest.raises(ValueError, match="flour") as caught:
        Bread.merge({"flour": 11}, write(tmp_path, "flour: 2"))
    assert "bread.yaml" not in str(caught.value)


def test_missing_settings_are_named_together():
    with pytest.raises(ValueError, match="not given.*PARTICLES, --template, --outdir"):
        TrainConfig.merge({})


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.yaml"):
        Bread.merge({}, tmp_path / "nowhere.yaml")


def test_an_empty_file_changes_nothing(tmp_path):
    assert Bread.merge({}, write(tmp_path, "# nothing\n")) == Bread()


@given(
    flour=st.integers(0, 9),
    hours=st.floats(min_value=0, exclude_min=True, allow_infinity=False),
    seeds=st.lists(st.text(), max_size=3).map(tuple),
)
@example(flour=0, hours=1.0, seeds=("\x85",))  # a line break to YAML unless it is escaped
def test_saved_settings_come_back_equal(tmp_path_factory, flour, hours, seeds):
    saved = Bread(flour=flour, hours=hours, seeds=seeds, oven=Path("/kitchen/oven"), preset="rye")
    config = write(tmp_path_factory.mktemp("saved"), saved.to_yaml(["cryoatom", "bread"]))
    assert Bread.merge({}, config) == saved


def test_the_saved_file_says_how_the_run_was_made():
    record = yaml.safe_load(TrainConfig.merge({**REQUIRED, "seed": 7}).to_yaml(["cryoatom", "train", "p.star"]))
    assert record["cmd"] == ["cryoatom", "train", "p.star"]
    assert record["seed"] == 7
    assert set(record) == {*RECORDED, *TrainConfig.model_fields}
    assert record["particles"] == str(Path("p.star").absolute())


def test_no_setting_hides_what_is_recorded_about_a_run():
    assert not set(RECORDED) & set(TrainConfig.model_fields)


def test_settings_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        Bread().flour = 2  # pyright: ignore


def test_the_paper_preset_has_the_supplements_values():
    paper = TrainConfig.merge({**REQUIRED, "preset": "paper"})
    assert (paper.decoder, paper.beads, paper.zdim, paper.batch_size, paper.lr) == ("gnn", "ca", 8, 256, 1e-3)
    assert (paper.omega, paper.warmup, paper.decay, paper.z_prior) == (0.25, 20, 0.0, 0.0)
    assert [paper.r0 / paper.r1, paper.r2 / paper.r1] == pytest.approx([0.05, 1.0])


@pytest.mark.parametrize(
    ("given", "parsed"), [("none", "none"), ("all", "all"), ("100", 100), ("rows.txt", Path("rows.txt"))]
)
def test_pdb_is_a_word_a_count_or_a_file(given, parsed):
    assert TrainConfig.merge({**REQUIRED, "pdb": given}).pdb == parsed


@pytest.mark.parametrize(("given", "parsed"), [("latest", "latest"), ("run/weights.3.pt", Path("run/weights.3.pt"))])
def test_load_is_latest_or_a_file(given, parsed):
    assert TrainConfig.merge({**REQUIRED, "load": given}).load == parsed


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"overwrite": True, "load": "latest"}, "--overwrite replaces a run and --load goes on"),
        ({"scale": "group", "likelihood": "profiled"}, "--scale group has no meaning with --likelihood profiled"),
        ({"scale": "group", "poses": "esl", "pose_loss": "expected"}, "--scale group needs a pose"),
    ],
)
def test_settings_that_contradict_each_other(given, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig.merge({**REQUIRED, **given})


def test_a_missing_setting_is_named_as_its_option():
    with pytest.raises(ValueError, match="by --config: PARTICLES, --template, --outdir$"):
        TrainConfig.merge({})


def test_bad_yaml_is_told_by_line(tmp_path):
    (tmp_path / "a.yaml").write_text("zdim: 8\nbatch_size: [1\n")
    with pytest.raises(ValueError, match=r"a\.yaml is not a YAML file: [^\n]{5,80} in line 3$"):
        load_config(tmp_path / "a.yaml", TrainConfig)


def test_every_section_of_the_help_starts_at_a_setting():
    assert set(TrainConfig.sections) <= set(TrainConfig.model_fields)
