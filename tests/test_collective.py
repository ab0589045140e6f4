"""Collective variables: against gemmi's geometry, what must not change them, and what cannot be read."""

import gemmi
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from molecules import helix, join
from scipy.spatial.transform import Rotation

from cryoatom.ensemble import collective
from cryoatom.ensemble.collective import (
    circular_mean,
    evaluate,
    parse_variable,
    parse_variables,
    unwrapped_about,
)
from cryoatom.ensemble.domain_plots import plot_collective
from cryoatom.structure.template import Template, template_from_atoms

TEXTS = ["distance:1-4/10-12", "angle:1-4/10-12/18", "dihedral:1-2/5,7/10-12/18-20"]


@pytest.fixture(scope="module")
def template() -> Template:
    return template_from_atoms(join(helix(20), helix(10, chain_ids="B")), "made")[0]


@pytest.fixture(scope="module")
def conformations(template: Template) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, 4, (30, len(template), 3))
    return (template.positions + noise).astype(np.float32)


def outside(kind: str, centres: list[np.ndarray]) -> float:
    points = [gemmi.Position(*centre.tolist()) for centre in centres]
    if kind == "distance":
        return points[0].dist(points[1])
    return float(np.rad2deg((gemmi.calculate_angle if kind == "angle" else gemmi.calculate_dihedral)(*points)))


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("at_once", [1, 10**6])
def test_values_are_those_of_gemmi(
    text: str, at_once: int, template: Template, conformations: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collective, "_RESIDUES_AT_ONCE", at_once)
    variable = parse_variable(text.replace(":", ":A:", 1), template)
    values = evaluate(variable, conformations)
    assert values.dtype == np.float64 and len(set(values.round(3))) > 10
    for positions, value in zip(conformations, values, strict=True):
        centres = [positions[chosen].astype(float).mean(axis=0) for chosen in variable.selections]
        assert value == pytest.approx(outside(variable.kind, centres), abs=1e-4)


@pytest.mark.parametrize("text", TEXTS)
def test_rigid_motions_change_nothing_and_a_mirror_the_sign_of_a_dihedral(
    text: str, template: Template, conformations: np.ndarray
) -> None:
    variable = parse_variable(text, template)
    values = evaluate(variable, conformations)
    turned = conformations @ Rotation.random(rng=np.random.default_rng(1)).as_matrix().T + 7.0
    assert evaluate(variable, turned) == pytest.approx(values, abs=1e-3)
    sign = -1 if variable.kind == "dihedral" else 1
    assert evaluate(variable, conformations * [1, 1, -1]) == pytest.approx(sign * values, abs=1e-3)


def test_a_variable_is_read_as_written(template: Template) -> None:
    variable = parse_variable(" lid = Angle : A:1-3,5/B:2/A:7-8 ", template)
    assert (variable.name, variable.kind, variable.unit) == ("lid", "angle", "°")
    assert [chosen.tolist() for chosen in variable.selections] == [[0, 1, 2, 4], [21], [6, 7]]
    both = parse_variable("distance:1-3/5", template)  # without a chain, of every chain
    assert both.selections[1].tolist() == [4, 24] and both.unit == "Å"
    assert both.name == "distance:1-3/5" and both.file_stem == "distance_1-3_5"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lid=bend:1/2/3", "'bend'; there are distance, angle, dihedral"),
        ("angle:1/2", "angle takes 3 selections separated by /, found 2"),
        ("distance:1/2/3", "distance takes 2"),
        ("distance:1/", "a selection is empty"),
        ("distance:1/500", "'500' selects no residue; the structure has"),
        ("distance:1/C:5", "selects no residue"),
        ("distance:1/x-y", "cannot read 'x-y'"),
        ("lid=1-5", r"expected \[NAME=\]KIND:SELECTION"),
        ("=distance:1/2", "cannot read"),
        ("a/b=distance:1/2", "names have no spaces or /"),
        ("a:b=distance:1/2", "names have no spaces or /"),
        ("a,b=distance:1/2", "names have no spaces or /"),
        ("a\nb=distance:1/2", "names have no spaces or /"),
        ("image=distance:1/2", "'image' is the column of image numbers"),
        ("Image=distance:1/2", "'Image' is the column of image numbers"),
        ("x" * 41 + "=distance:1/2", "at most 40 characters, this one has 41"),
        ("distance:1-3/1,2,3", "are the same residues"),
    ],
)
def test_what_cannot_be_read_is_told(text: str, message: str, template: Template) -> None:
    with pytest.raises(ValueError, match=message):
        parse_variable(text, template)


def test_file_names_of_long_variables_are_short_and_differ(template: Template) -> None:
    residues = ",".join(map(str, range(1, 20)))
    texts = [f"distance:{residues} /\n{last}" for last in (5, 6)] + ["x" * 40 + "=distance:1/2"]
    variables = parse_variables([*texts, "distance:" + ",".join(["1-3"] * 200) + "/5"], template)
    assert len({variable.file_stem for variable in variables}) == 4
    assert all(len(variable.file_stem) < 60 and "\n" not in variable.name for variable in variables)
    assert variables[2].file_stem == "x" * 40


def test_two_variables_of_one_name_are_refused(template: Template) -> None:
    assert len(parse_variables(["a=distance:1/2", "b=distance:1/2"], template)) == 2
    assert parse_variables([], template) == ()
    with pytest.raises(ValueError, match="two collective variables are called 'a'"):
        parse_variables(["a=distance:1/2", "A=distance:1/3", "a=distance:1/3"], template)
    with pytest.raises(ValueError, match="two collective variables"):  # their files would be one
        parse_variables(["a=distance:1/2", "A=distance:1/3"], template)


def test_dihedrals_are_averaged_around_the_circle() -> None:
    values = np.array([170.0, -170.0, 180.0, -180.0])
    assert abs(circular_mean(values)) == pytest.approx(180)
    assert circular_mean(np.array([10.0, 30.0])) == pytest.approx(20)
    assert unwrapped_about(values, 175.0) == pytest.approx([170, 190, 180, 180])


def test_points_on_a_line_are_no_error(template: Template) -> None:
    positions = np.arange(len(template))[None, :, None] * np.array([1.0, 0, 0])
    assert evaluate(parse_variable("angle:A:1/A:5/A:9", template), positions) == pytest.approx([180])
    assert np.isfinite(evaluate(parse_variable("dihedral:A:1/A:5/A:9/A:12", template), positions)).all()


@pytest.mark.parametrize("values", [[3.0], [5.0, 5.0], [-179.0, 178.0, 177.0], [10.0, 40.0, 90.0]])
@pytest.mark.parametrize("unit", ["Å", "°"])
def test_histograms_are_drawn(values: list[float], unit: str) -> None:
    drawn = plot_collective("lid", unit, np.array(values), {"template": 4.0, "mean": 170.0})
    assert isinstance(drawn, Figure)
    axes = drawn.axes[0]
    assert axes.get_xlabel() == f"lid ({unit})"
    bars = [bar for bar in axes.patches if isinstance(bar, Rectangle)]
    assert sum(bar.get_height() for bar in bars) == len(values)
    long = plot_collective("x" * 500, unit, np.array(values), {}).axes[0].get_xlabel()
    assert len(long) < 70 and long.endswith(f"({unit})")
    if unit == "°" and min(values) < 0:  # the three lie within 4 degrees
        assert bars[-1].get_x() - bars[0].get_x() < 5
