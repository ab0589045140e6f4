"""The report page in a real browser, without a network."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from molecules import helix
from report_example import EVIL, IMAGES, example, motions, rows_of

from cryoatom.analysis.report import write_report
from cryoatom.analysis.report_data import ReportData
from cryoatom.files.pdb import read_pdb_atoms
from cryoatom.geometry import random_rotations
from cryoatom.structure.superpose import rmsd
from cryoatom.structure.template import template_from_atoms

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install 'cryoatom[dev]'")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome", "chromium-browser"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium or Chrome on the PATH")
SOFTWARE_WEBGL = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
CENTER_MAP = "scatter.scrollIntoView({block: 'center', behavior: 'instant'})"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=SOFTWARE_WEBGL)
        yield browser
        browser.close()


def opened(browser: Any, file: Path, script: str = "") -> SimpleNamespace:
    """Open a page offline; take note of what it says to the console and asks for."""
    context = browser.new_context(viewport={"width": 1100, "height": 760}, accept_downloads=True)
    context.set_offline(True)
    context.set_default_timeout(10_000)
    page = context.new_page()
    said, asked = [], []
    page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", lambda dialog: (said.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    page.on("request", lambda request: asked.append(request.url))
    if script:
        page.add_init_script(script)
    page.goto(file.as_uri())
    page.wait_for_selector("body[data-ready=true]")
    return SimpleNamespace(page=page, said=said, asked=asked, context=context)


@pytest.fixture(scope="module")
def report(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """The page of an example whose name is an attack, opened once for all tests."""
    file = tmp_path_factory.mktemp("report") / "report.html"
    data = example(name=EVIL)
    write_report(file, data)
    opening = opened(browser, file)
    opening.data, opening.file = data, file
    yield opening
    opening.context.close()


@pytest.fixture
def page(report: SimpleNamespace) -> Iterator[Any]:
    """The page as it is at first; whatever a test does, the page must neither complain nor fetch."""
    report.page.evaluate("cryoatom.selectImages([])")
    report.page.select_option("#map", "0")
    yield report.page
    assert report.said == []
    local = ("blob:", "data:")
    assert [url for url in report.asked if url != report.file.as_uri() and not url.startswith(local)] == []


def conformation(data: ReportData, images: list[int]) -> np.ndarray:
    return data.motions.conformations(data.motions.amplitudes[images].mean(axis=0))


def coordinates(page: Any) -> np.ndarray:
    """What the 3-D viewer holds, (residues, 3)."""
    return np.array(page.evaluate("cryoatom.coordinates()")).reshape(-1, 3)


def place(page: Any, x: float, y: float) -> tuple[float, float]:
    """Where a point of the map is on the screen."""
    box = page.evaluate(
        "([x, y]) => { const {xaxis, yaxis} = scatter._fullLayout, box = scatter.getBoundingClientRect();"
        " return [box.left + xaxis._offset + xaxis.l2p(x), box.top + yaxis._offset + yaxis.l2p(y)]; }",
        [x, y],
    )
    return box[0], box[1]


def draw(page: Any, mode: str, corners: list[tuple[float, float]]) -> None:
    page.evaluate("mode => Plotly.relayout(scatter, {dragmode: mode})", mode)
    page.evaluate(CENTER_MAP)
    page.mouse.move(*place(page, *corners[0]))
    page.mouse.down()
    for corner in corners[1:]:
        page.mouse.move(*place(page, *corner), steps=4)
    page.mouse.up()


def saved(page: Any, button: str, folder: Path) -> Path:
    with page.expect_download() as download:
        page.click(button)
    target = folder / download.value.suggested_filename
    download.value.save_as(target)
    return target


def test_a_click_on_a_point_shows_its_conformation(report: SimpleNamespace, page: Any) -> None:
    page.evaluate(CENTER_MAP)
    page.mouse.click(*place(page, 3, 4))
    page.wait_for_selector("body[data-row='134']")
    assert coordinates(page) == pytest.approx(conformation(report.data, [43]), abs=0.02)
    assert page.inner_text("#shown-title") == "Image, row 134"
    assert page.inner_text("#shown-detail") == f"{report.data.image_names[43]} · image 43 of this run"
    assert f"cluster\n{43 % 4 + 1}" in page.inner_text("#values")
    ring = page.locator(".ring").bounding_box()
    assert (ring["x"] + ring["width"] / 2, ring["y"] + ring["height"] / 2) == pytest.approx(place(page, 3, 4), abs=1)


def test_a_row_can_be_typed(report: SimpleNamespace, page: Any) -> None:
    page.fill("#row", "17")
    page.press("#row", "Enter")
    page.wait_for_selector("body[data-row='17']")
    assert coordinates(page) == pytest.approx(conformation(report.data, [4]), abs=0.02)
    for missing in (18, 5 + 3 * IMAGES):
        page.fill("#row", str(missing))
        page.press("#row", "Enter")
        assert page.get_attribute("body", "data-row") == "17"
        assert not page.evaluate("document.getElementById('row').checkValidity()")


@pytest.mark.parametrize(
    ("mode", "corners", "images"),
    [
        ("select", [(1.5, 0.5), (4.5, 2.5)], [12, 13, 14, 22, 23, 24]),
        ("lasso", [(1.5, 0.5), (4.5, 0.5), (4.5, 1.5), (2.5, 1.5), (2.5, 3.5), (1.5, 3.5)], [12, 13, 14, 22, 32]),
    ],
)
def test_images_drawn_around_are_selected_and_saved(
    report: SimpleNamespace, page: Any, tmp_path: Path, mode: str, corners: list[tuple[float, float]], images: list[int]
) -> None:
    draw(page, mode, corners)
    page.wait_for_selector(f"body[data-selected='{len(images)}']")
    assert page.evaluate("cryoatom.state.images") == images
    assert page.evaluate("Array.from(scatter.data[0].selectedpoints)") == images
    assert coordinates(page) == pytest.approx(conformation(report.data, images), abs=0.02)
    file = saved(page, "#save-rows", tmp_path)
    assert [int(line) for line in file.read_text().split()] == rows_of(IMAGES)[images].tolist()


def test_a_selection_ends(page: Any) -> None:
    draw(page, "select", [(1.5, 0.5), (4.5, 2.5)])
    page.wait_for_selector("body[data-selected='6']")
    page.click("#clear")
    page.wait_for_selector("body[data-selected='0'][data-kind=mean]")
    assert page.is_disabled("#save-rows")


def test_a_click_on_a_class_selects_its_images(page: Any) -> None:
    page.select_option("#colour", "0")
    page.click("#classes button >> nth=2")
    page.wait_for_selector("body[data-selected='15']")
    assert page.evaluate("cryoatom.state.images.every((image) => image % 4 === 2)")


def test_the_saved_conformation_is_what_is_seen(report: SimpleNamespace, page: Any, tmp_path: Path) -> None:
    images = list(range(5, 25))
    page.evaluate("images => cryoatom.selectImages(images)", images)
    atoms = read_pdb_atoms(saved(page, "#save-pdb", tmp_path))
    template, all_motions = report.data.template, report.data.motions
    members = all_motions.conformations(all_motions.amplitudes[images])
    spread = np.sqrt(((members - members.mean(axis=0)) ** 2).sum(axis=2).mean(axis=0))
    assert atoms.positions == pytest.approx(conformation(report.data, images), abs=0.02)
    assert atoms.b_factors == pytest.approx(spread, abs=0.02)
    assert (atoms.residue_names == template.residue_names).all()
    assert atoms.chain_ids.tolist() == ["A"] * 8 + ["B"] * 8  # the format has no room for BB
    assert (atoms.residue_numbers == template.residue_numbers).all()
    assert (atoms.names == "CA").all()


@pytest.mark.parametrize("residues", [1, 2, 3, 16])
@pytest.mark.parametrize("noise", [0.0, 1e-3, 1.0, 30.0])
def test_the_deviation_from_the_template_is_after_superposition(page: Any, residues: int, noise: float) -> None:
    generator = np.random.default_rng(residues)
    target = 10 * generator.normal(size=(residues, 3))
    moved = target @ random_rotations(1, generator)[0].T + 50 + noise * generator.normal(size=(residues, 3))
    for mobile in (moved, moved * [1, 1, -1]):
        found = page.evaluate("([a, b]) => cryoatom.rmsd(a, b)", [mobile.ravel().tolist(), target.ravel().tolist()])
        assert found == pytest.approx(float(rmsd(torch.from_numpy(mobile), torch.from_numpy(target))), abs=2e-5)


def test_the_page_tells_the_deviation_from_the_template(report: SimpleNamespace, page: Any) -> None:
    page.evaluate("cryoatom.showImage(9)")
    pair = (conformation(report.data, [9]), report.data.template.positions)
    least = float(rmsd(*map(torch.from_numpy, pair)))
    assert page.inner_text("#rmsd") == f"RMSD from the template {least:.2f} Å, after superposition"


def test_a_motion_can_be_followed(report: SimpleNamespace, page: Any) -> None:
    frames = report.data.series["motion 1"]
    page.select_option("#series", "0")
    page.focus("#frame")
    for frame in (1, 2):
        page.keyboard.press("ArrowRight")
        page.wait_for_selector(f"body[data-kind=series][data-frame='{frame}']")
        assert coordinates(page) == pytest.approx(frames[frame], abs=0.02)
    assert page.inner_text("#shown-detail") == f"{EVIL} 2"


def test_a_motion_plays_while_the_map_answers(page: Any) -> None:
    page.click(f"#motion-cards button[data-series='{EVIL}']")
    page.wait_for_selector("body[data-kind=series][data-frame='1']")
    assert page.evaluate("cryoatom.state.playing && cryoatom.state.series") == 1
    page.select_option("#colour", "1")
    page.wait_for_selector("body[data-frame='3']")
    page.click("#play")
    assert not page.evaluate("cryoatom.state.playing")
    page.click("#picture-cards button >> nth=1")
    page.wait_for_selector("body[data-row='38'][data-kind=image]")


def test_colours_and_maps_change(report: SimpleNamespace, page: Any) -> None:
    page.select_option("#colour", "1")
    page.wait_for_function("scatter.data[0].marker.showscale")
    gain = report.data.colours[f"gain {EVIL}"]
    assert page.evaluate("Array.from(scatter.data[0].marker.color)") == pytest.approx(gain, abs=1e-3)
    assert page.locator("#classes button").count() == 0
    page.select_option("#map", "1")
    page.wait_for_function("scatter.layout.xaxis.title.text === 'first'")
    assert page.evaluate("Array.from(scatter.data[0].x)") == pytest.approx(
        report.data.motions.amplitudes[:, 0], abs=0.01
    )


def test_residues_take_the_colour_that_is_chosen(page: Any) -> None:
    paints = page.locator("#residue-colour option").all_inner_texts()
    legends = []
    for index in range(len(paints)):
        page.select_option("#residue-colour", str(index))
        legends.append(page.inner_text("#residue-legend"))
    assert paints[:2] == ["fluctuation (Å)", "domain"]
    assert legends[1].split() == ["1", "2", "3"]
    assert legends[paints.index("chain")].split() == ["A", "BB"]


def test_no_tube_bridges_a_break(report: SimpleNamespace, page: Any) -> None:
    assert page.evaluate("cryoatom.viewer.parts") == [[0, 3], [4, 7], [8, 15]]
    assert page.evaluate("cryoatom.viewer.shapes.main.length") == 3


def test_the_page_shows_what_was_checked(page: Any) -> None:
    assert page.locator("#trust .badge").all_inner_texts() == ["✓ good", "! look closer", "✗ bad", "– for information"]
    assert page.locator("#trust figure img").count() == 1
    assert page.locator("#plots figure img").count() == 1
    assert page.evaluate("[...document.images].every((image) => image.naturalWidth > 100)")
    assert page.locator("#picture-cards canvas").count() == 6


def test_names_harm_nothing(report: SimpleNamespace, page: Any) -> None:
    assert page.inner_text("h1") == EVIL
    assert page.locator("img[onerror], img[src=x]").count() == 0


def test_every_control_has_a_name(page: Any) -> None:
    nameless = page.evaluate(
        "[...document.querySelectorAll('button, input, select')].filter((control) =>"
        " !(control.innerText || control.labels?.length || control.ariaLabel)).map((control) => control.outerHTML)"
    )
    assert nameless == []


def test_a_page_of_next_to_nothing_opens(browser: Any, tmp_path: Path) -> None:
    """One image of a template with a lone residue, and nothing found in it."""
    atoms = helix(8)
    template = template_from_atoms(atoms[(atoms.residue_numbers != 4) & (atoms.residue_numbers != 6)], "lone")[0]
    still = motions(template.positions, np.zeros((0, 6, 3)), np.zeros((1, 0), np.float32))
    write_report(
        tmp_path / "report.html", ReportData("One image", {}, (), template, np.arange(1), {}, {}, still, {}, {})
    )
    small = opened(browser, tmp_path / "report.html")
    small.page.fill("#row", "0")
    small.page.press("#row", "Enter")
    small.page.wait_for_selector("body[data-row='0']")
    assert coordinates(small.page) == pytest.approx(template.positions, abs=1e-3)
    assert small.page.evaluate("cryoatom.viewer.parts") == [[0, 2], [3, 3], [4, 5]]
    assert small.said == []
    small.context.close()


def test_without_webgl_the_rest_works(browser: Any, tmp_path: Path) -> None:
    data = example(images=9000)
    write_report(tmp_path / "report.html", data)
    without = opened(
        browser,
        tmp_path / "report.html",
        "const real = HTMLCanvasElement.prototype.getContext; HTMLCanvasElement.prototype.getContext ="
        " function (name, ...more) { return name.includes('webgl') ? null : real.call(this, name, ...more); };",
    )
    page = without.page
    assert page.locator("#no-webgl").is_visible()
    assert page.evaluate("scatter.data[0].x.length") < 9000 / 2
    draw(page, "select", [(-0.5, -10), (0.5, 100)])  # a pixel is several rows high
    page.wait_for_selector("body[data-kind=selection]")
    images = page.evaluate("cryoatom.state.images")
    assert images == list(range(0, 10 * len(images), 10)) and len(images) == pytest.approx(100, abs=8)
    assert coordinates(page) == pytest.approx(conformation(data, images), abs=0.02)
    assert without.said == []
    without.context.close()
