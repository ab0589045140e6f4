import base64
import hashlib
import html.parser
import json
import re
from dataclasses import replace
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from report_example import AXES, EVIL, IMAGES, example, motions, rows_of

from cryoatom.analysis.report import SECTIONS, VERDICTS, write_report
from cryoatom.analysis.report_payload import LARGEST_ERROR, grey_limit, payload, quantised, stored_amplitudes


class Page(html.parser.HTMLParser):
    """Tags, links and the text of scripts, as a browser would find them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] == "script" and not self.text_follows:
            self.scripts[-1] += data
        else:
            self.text.append(data)

    def handle_endtag(self, tag: str) -> None:
        if tag == "script":
            self.tags.append(("/script", {}))

    @property
    def text_follows(self) -> bool:
        return self.tags[-1][0] == "/script"


def values_of(stored: dict) -> np.ndarray:
    """Decode a stored array as the page does."""
    kind = {"f4": "<f4", "i4": "<i4", "i2": "<i2", "u2": "<u2", "u1": "u1"}[stored["type"]]
    raw = np.frombuffer(base64.b64decode(stored["data"]), dtype=kind)
    if "scale" not in stored:
        return raw
    values = stored["offset"] + stored["scale"] * raw.astype(np.float64)
    return np.where(raw == 65535, np.nan, values) if stored["type"] == "u2" else values


def written(folder: Path, **changes: object) -> str:
    write_report(folder / "report.html", replace(example(), **changes))  # type: ignore[arg-type]
    return (folder / "report.html").read_text(encoding="utf-8")


def test_the_page_holds_all_it_needs(tmp_path: Path) -> None:
    page = Page(written(tmp_path))
    assert [tag for tag, _ in page.tags].count("script") == 4
    for _, attributes in page.tags:
        assert not attributes.get("src") or str(attributes["src"]).startswith("data:image/png;base64,")
        assert tag_link(attributes) in ("", "data:,") or tag_link(attributes)[1:] in SECTIONS
    assert "{{" not in "".join(page.text)
    policy = next(a["content"] for _, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None and "default-src 'none'" in policy and "http" not in policy


def tag_link(attributes: dict[str, str | None]) -> str:
    return attributes.get("href") or ""


def test_the_page_has_every_note_check_and_plot(tmp_path: Path) -> None:
    data, page = example(), written(tmp_path)
    assert page.count('<figure class="card"') == len(data.plots)
    for plot in data.plots:
        assert page.count(f'<img alt="{plot.title}"') == 1 and page.count(plot.caption) == 1
    rows = re.findall(r'<tr><th scope="row">(.*?)</th><td class="verdict">.*?>([^<]*)</span>', page)
    assert rows == [(check.name, VERDICTS[check.verdict]) for check in data.checks]
    assert re.findall("<li>(.*?)</li>", page) == ["Look at Example.", "Run <code>cryoatom Example</code> now."]
    for name, value in data.facts.items():
        assert re.search(f"<dt>{name}</dt><dd>(<code>)?{value}<", page)


def test_images_are_called_by_their_rows() -> None:
    sent = payload(example())
    assert values_of(sent["rows"]).tolist() == rows_of(IMAGES).tolist()
    assert [each["index"] for each in sent["pictures"]] == [7, 11]
    assert payload(replace(example(), rows=np.arange(IMAGES)))["rows"] is None


def test_names_cannot_break_out_of_the_page(tmp_path: Path) -> None:
    write_report(tmp_path / "report.html", example(name=EVIL))
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    page, harmless = Page(text), Page(written(tmp_path))
    assert [tag for tag, _ in page.tags] == [tag for tag, _ in harmless.tags]
    assert not any("onerror" in attributes for _, attributes in page.tags)
    shown = json.loads(page.scripts[2])
    assert shown["title"] == EVIL and shown["series"][1]["name"] == EVIL
    assert EVIL not in text


def test_conformations_survive_to_a_fiftieth_of_an_angstrom() -> None:
    data = example()
    sent = json.loads(json.dumps(payload(data), allow_nan=False))
    amplitudes = np.stack([values_of(each) for each in sent["motions"]["amplitudes"]], axis=1)
    axes = np.stack([values_of(each) for each in sent["motions"]["axes"]])
    read = values_of(sent["motions"]["mean"]) + amplitudes @ axes
    truth = data.motions.conformations(data.motions.amplitudes)
    assert np.abs(read.reshape(truth.shape) - truth).max() < LARGEST_ERROR
    for each, (name, frames) in zip(sent["series"], data.series.items(), strict=True):
        assert each["name"] == name
        read = np.stack([values_of(frame) for frame in each["frames"]]).reshape(frames.shape)
        assert np.abs(read - frames).max() < LARGEST_ERROR


@pytest.mark.parametrize(("largest", "kind"), [(10.0, "i2"), (1e5, "f4"), (0.0, "i2")])
def test_amplitudes_take_32_bits_where_16_are_too_coarse(largest: float, kind: str) -> None:
    amplitudes = np.linspace(0, 1, 5, dtype=np.float32)[:, None] * np.array([largest, 1], dtype=np.float32)
    axes = np.zeros((2, 4, 3))
    axes[0, 0, 0] = axes[1, 1, 0] = 1
    stored = stored_amplitudes(motions(np.zeros((4, 3)), axes, amplitudes))
    assert {each["type"] for each in stored} == {kind}
    read = np.stack([values_of(each) for each in stored], axis=1)
    assert np.abs(read - amplitudes).max() < LARGEST_ERROR


@pytest.mark.parametrize(
    "values",
    [np.array([1.0, np.nan, 3.0, np.inf, -2.5]), np.full(3, np.nan), np.full(4, 7.0), np.linspace(-1e6, 1e6, 100_001)],
)
def test_quantised_numbers_are_right_to_half_a_step_and_missing_ones_stay_missing(values: np.ndarray) -> None:
    stored = quantised(values)
    read = values_of(stored)
    known = np.isfinite(values)
    assert (np.isfinite(read) == known).all()
    assert np.abs(read - values)[known].max(initial=0) <= 0.501 * stored["scale"]


def test_an_extreme_value_does_not_blur_the_others() -> None:
    values = np.concatenate([np.linspace(0, 1, 1000), [1e9]])
    sent = payload(replace(example(), colours={"gain": values}))["colours"][0]
    assert values_of(sent["values"])[:1000] == pytest.approx(values[:1000], abs=1e-6)


def test_whole_numbers_are_classes_unless_there_are_too_many() -> None:
    colours = {
        "cluster": np.array([3, 1, -1, 3]),
        "junk": np.array([True, False, True, True]),
        "frame": np.arange(100),
        "gain": np.array([1.0, 2.0]),
    }
    sent = {each["name"]: each for each in payload(replace(example(), colours=colours))["colours"]}
    assert sent["cluster"]["classes"] == ["-1", "1", "3"]
    assert values_of(sent["cluster"]["values"]).tolist() == [2, 1, 0, 2]
    assert sent["junk"]["classes"] == ["no", "yes"]
    assert sent["frame"]["kind"] == sent["gain"]["kind"] == "numbers"


@pytest.mark.parametrize(
    "names",
    [
        ["000001@a.mrcs", "000012@b/c.mrcs", "000003@a.mrcs"],
        ["1@a.mrcs", "12@a.mrcs"],
        ["tile_1.mrc", "000002@a.mrcs"],
        ["99999999999@a.mrcs", "00000000001@a.mrcs"],
    ],
)
def test_names_of_images_come_back(names: list[str]) -> None:
    sent = payload(replace(example(), image_names=np.array(names)))["names"]
    if "list" in sent:
        assert sent["list"] == names
    else:
        slices, stacks = values_of(sent["slice"]).tolist(), values_of(sent["stack"]).tolist()
        pairs = zip(slices, stacks, strict=True)
        assert [f"{i:0{sent['width']}d}@{sent['stacks'][k]}" for i, k in pairs] == names


def test_grey_is_alike_in_all_pictures() -> None:
    pictures = example().pictures
    strong = tuple(replace(each, image=100 * each.image, model=100 * each.model) for each in pictures)
    assert grey_limit(strong) > 10 * grey_limit(pictures) >= 10
    sent = payload(replace(example(), pictures=strong))["pictures"]
    limit = grey_limit(strong)
    grey = values_of(sent[0]["panels"][2]).reshape(16, 16)
    assert (grey / 127.5 - 1) * limit == pytest.approx(strong[0].residual, abs=limit / 127)


def test_a_report_of_next_to_nothing_is_written(tmp_path: Path) -> None:
    small = example(images=1)
    text = written(
        tmp_path,
        maps={},
        colours={},
        series={},
        residue_colours={},
        pictures=(),
        plots=(),
        checks=(),
        notes=(),
        facts={},
        image_names=None,
        motions=small.motions,
        rows=np.arange(1),
    )
    assert re.search(r'<section id="plots" hidden>', text)
    assert 'href="#motions"' not in text


def test_the_sizes_of_many_images_stay_small() -> None:
    data = example(images=20_000)
    size = len(json.dumps(payload(data))) - len(json.dumps(payload(example())))
    assert size < 4 / 3 * (20_000 - IMAGES) * (2 * AXES + 2 * 2 * 2 + 1 + 2 + 6 + 4) + 1000


def test_a_report_for_a_missing_folder_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="analyze does not exist"):
        write_report(tmp_path / "analyze" / "report.html", example())


def test_libraries_are_unchanged_and_carry_their_licences(tmp_path: Path) -> None:
    vendor = Path(str(resources.files("cryoatom.analysis"))) / "report_page" / "vendor"
    table = (vendor / "README.md").read_text()
    for library in vendor.glob("*.js"):
        digest = hashlib.sha256(library.read_bytes()).hexdigest()
        row = next(line for line in table.splitlines() if f"| `{library.name}`" in line)
        assert digest in row.replace(" ", "") and f"{library.stat().st_size:,}" in row
    text = written(tmp_path)
    assert "Copyright (c) 2014, University of Pittsburgh and contributors" in text
    assert "Copyright (c) 2016-2024 Plotly Technologies Inc." in text
