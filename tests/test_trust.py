"""The trust page: verdicts, files, plots."""

import csv
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from molecules import helix

from cryoatom.analysis.controls import KINDS, MEAN, OWN, Controls
from cryoatom.analysis.convergence import Drift
from cryoatom.analysis.half_agreement import HalfSets
from cryoatom.analysis.trust import trust_checks, write_trust
from cryoatom.analysis.trust_plots import trust_plots
from cryoatom.ensemble.stereochemistry import geometry_of, measure_geometry
from cryoatom.plotting import save_png
from cryoatom.structure.template import template_from_atoms

TEMPLATE = template_from_atoms(helix(20), "helix")[0]
IMAGES = 40


def controls_of(own: float, others: float, *, held: int = 30) -> Controls:
    generator = np.random.default_rng(0)

    def drawn(count: int) -> dict[str, np.ndarray]:
        noise = generator.normal(0, 5, count)
        return {kind: (own if kind == OWN else others) + noise + generator.normal(0, 1, count) for kind in KINDS}

    return Controls(np.arange(IMAGES), drawn(IMAGES), drawn(held) if held else {}, 4.0)


def drift_of(*to_end: float) -> Drift:
    count = len(to_end)
    moved = np.array([np.nan, *np.abs(np.diff(to_end))])
    nll = -100 + np.array(to_end)
    return Drift(np.arange(1, count + 1), moved, moved, np.array(to_end), np.array(to_end), nll, nll, 10)


def halves_of(difference: float, correlation: float | None = 0.99) -> HalfSets:
    bins = np.linspace(-5, 5, 8)
    return HalfSets(
        np.arange(IMAGES),
        np.full(IMAGES, difference),
        np.arange(IMAGES) % 3,
        np.full(len(TEMPLATE), difference),
        bins,
        np.full(8, difference / 2),
        correlation,
        spread=2.0,
        shares_poses=False,
    )


def ensemble(noise: float) -> np.ndarray:
    generator = np.random.default_rng(0)
    return TEMPLATE.positions + generator.normal(0, noise, (IMAGES, len(TEMPLATE), 3))


def everything(**changes: Any) -> dict[str, Any]:
    return {
        "geometry": measure_geometry(ensemble(0.02), TEMPLATE.positions, TEMPLATE.chain_position),
        "controls": controls_of(200, 100),
        "drift": drift_of(3, 1, 0.3, 0.03, 0.01),
        "half_sets": halves_of(0.2),
        **changes,
    }


def verdicts(**given: Any) -> dict[str, str]:
    return {check.name: check.verdict for check in trust_checks(**given)}


def test_a_good_run_is_called_good():
    images = {"is_junk": np.zeros(IMAGES)}
    template = geometry_of(TEMPLATE.positions, TEMPLATE.chain_position)
    found = verdicts(**everything(), images=images, template_geometry=template)
    wrong = found.pop("Wrong template")  # here the template explains no more than the mirrored one
    assert set(found.values()) == {"good"} and wrong != "good" and len(found) >= 12


@pytest.mark.parametrize(
    ("given", "name", "verdict"),
    [
        ({"controls": controls_of(99, 100)}, "Heterogeneity", "bad"),
        ({"controls": controls_of(103, 100)}, "Heterogeneity", "look"),  # less than the optimism
        ({"controls": controls_of(104.5, 100)}, "Heterogeneity", "look"),
        ({"controls": controls_of(107, 100)}, "Heterogeneity", "good"),
        ({"controls": controls_of(107, 100)}, "Another image's conformation", "look"),  # less than twice the optimism
        ({"controls": controls_of(112, 100)}, "Another image's conformation", "good"),
        ({"controls": controls_of(110, 100, held=0)}, "Heterogeneity", "good"),
        ({"controls": controls_of(99, 100)}, "Another image's pose", "bad"),
        ({"half_sets": halves_of(1.9)}, "Half sets: same image", "bad"),
        ({"half_sets": halves_of(0.7)}, "Half sets: same image", "look"),
        ({"half_sets": halves_of(0.2, 0.5)}, "Half sets: order of images", "bad"),
        ({"drift": drift_of(5, 4, 3, 2, 1)}, "Drift of the structures", "bad"),
        ({"drift": drift_of(2.0)}, "Drift of the structures", ""),
        ({"drift": replace(drift_of(5, 4, 3), has_end=False)}, "Drift of the structures", ""),
        ({"drift": drift_of(3, 0.1, 0.1, 0.1, 2)}, "Held-out likelihood", "bad"),
        ({"images": {"is_junk": np.arange(10) < 2}}, "Images that do not fit", "look"),
        ({"images": {"is_junk": np.arange(10) < 9}}, "Images that do not fit", "bad"),
    ],
)
def test_what_is_wrong_is_called_so(given, name, verdict):
    assert verdicts(**given)[name] == verdict


def test_words_are_right_for_controls_that_fit_better():
    checks = {check.name: check for check in trust_checks(controls=controls_of(97, 100, held=0))}
    for name in ("Another image's conformation", "Static template", "Another image's pose"):
        assert checks[name].value.endswith("nats an image better") and "-" not in checks[name].value
    assert checks["Heterogeneity"].value.endswith("nats an image worse than the mean conformation")
    assert "no figures of held-out images" in checks["Heterogeneity"].meaning


def test_dead_images_are_counted_apart():
    images = {"is_junk": np.arange(10) < 3, "is_dead": np.arange(10) < 1}
    (check,) = trust_checks(images=images)
    assert check.value == "20.0%, and 1 that could not be used"


def test_bad_chains_are_called_so_unless_the_template_is_as_bad():
    torn = measure_geometry(ensemble(1.0), TEMPLATE.positions, TEMPLATE.chain_position)
    found = verdicts(geometry=torn)
    assert found["Bonds"] == found["Angles"] == found["Bond lengths"] == "bad"
    assert verdicts(geometry=torn, template_geometry=torn)["Bonds"] == "good"


@pytest.mark.parametrize("name", ["geometry", "controls", "drift", "half_sets"])
def test_what_was_not_measured_is_left_out(name, tmp_path):
    given = everything(**{name: None})
    checks = trust_checks(**given)
    assert 0 < len(checks) < len(trust_checks(**everything()))
    written = write_trust(tmp_path, checks, **given)
    assert f"{name}.csv" not in [path.name for path in written]
    assert trust_checks() == () and trust_checks(half_sets=halves_of(0.1, None))


def test_files_hold_what_was_measured(tmp_path):
    given = everything()
    checks = trust_checks(**given)
    written = write_trust(tmp_path, checks, **given)
    assert [path.name for path in written] == [
        *("trust.json", "geometry.csv", "controls.csv", "drift.csv", "half_sets.csv")
    ]
    told = json.loads((tmp_path / "trust.json").read_text())
    assert [each["name"] for each in told] == [check.name for check in checks]
    assert set(told[0]) == {"name", "value", "reference", "verdict", "meaning"}
    with (tmp_path / "controls.csv").open() as file:
        rows = {row["kind"]: row for row in csv.DictReader(file)}
    assert float(rows[MEAN]["gain_nats"]) == pytest.approx(given["controls"].mean(MEAN)[0], abs=1e-3)
    with (tmp_path / "drift.csv").open() as file:
        assert next(csv.DictReader(file))["from_previous"] == ""


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"controls": controls_of(5, 4, held=0)},
        {"drift": drift_of(1.0)},
        {"drift": replace(drift_of(2.0, 0.0), has_end=False)},
    ],
)
def test_plots_can_be_drawn(changes, tmp_path):
    plots = trust_plots(TEMPLATE, **everything(**changes))
    names = [plot.name for plot in plots]
    drift = changes.get("drift")
    assert len(set(names)) == len(names) and ("drift.png" in names) == (drift is None or len(drift.epochs) > 1)
    for plot in plots[:2]:
        save_png(plot.figure, tmp_path / plot.name)
        assert (tmp_path / plot.name).stat().st_size > 5000
    assert all(plot.caption and plot.title for plot in plots)
