"""A series of conformations is read back from each of its files; the script names files that are there."""

import logging
import re
from dataclasses import replace

import numpy as np
import pytest
from molecules import helix, join

from cryoatom.analysis.series import displacements, write_series
from cryoatom.files.chimerax import domain_script, quoted, series_script
from cryoatom.files.structure import read_atoms, read_models
from cryoatom.files.trajectory import read_trajectory
from cryoatom.structure.template import Template, template_from_atoms

LATENTS = np.zeros((5, 2))


def two_chains() -> Template:
    """Make two chains, the first with a break and an inserted residue."""
    first, second = helix(12), helix(6, chain_ids="B")
    numbers = first.residue_numbers + 20 * (first.residue_numbers > 7)
    second = replace(second, positions=second.positions + [40, 0, 0])
    return template_from_atoms(join(replace(first, residue_numbers=numbers), second), "two chains")[0]


@pytest.fixture
def template():
    return two_chains()


def frames_of(template: Template, count: int = 5) -> np.ndarray:
    growth = np.linspace(0, 1, len(template))[:, None] * [0.0, 0.0, 3.0]
    return (template.positions + np.linspace(0, 1, count)[:, None, None] * growth).astype(np.float32)


def test_every_file_holds_the_series(template, tmp_path):
    positions = frames_of(template)
    latents = np.random.default_rng(0).normal(size=(5, 3))
    folder = tmp_path / "new" / "pc1"
    written = write_series(folder, template, positions, name="pc1", latents=latents)
    singles = [f"struct_{number:03d}.pdb" for number in range(1, 6)]
    others = ["pc1.cif", "pc1.pdb", "pc1.dcd", "topology.cif", "z_values.txt", "open.cxc"]
    assert {path.name for path in written} == {*singles, *others} == {path.name for path in folder.iterdir()}
    for name in ("pc1.cif", "pc1.pdb"):
        atoms, models = read_models(folder / name)
        np.testing.assert_allclose(models, positions, atol=1e-3)
        np.testing.assert_array_equal(atoms.residue_numbers, template.residue_numbers)
        np.testing.assert_array_equal(atoms.chain_ids, template.chain_ids)
        np.testing.assert_allclose(atoms.b_factors, displacements(positions), atol=0.006)
    np.testing.assert_allclose(read_trajectory(folder / "pc1.dcd", folder / "topology.cif").positions, positions)
    np.testing.assert_allclose(read_atoms(folder / singles[3]).positions, positions[3], atol=1e-3)
    np.testing.assert_allclose(np.loadtxt(folder / "z_values.txt"), latents)


def test_displacements_are_from_the_first_frame(template):
    found = displacements(frames_of(template))
    np.testing.assert_allclose(found, 3 * np.linspace(0, 1, len(template)), atol=1e-5)
    assert not displacements(template.positions[None]).any()


def test_a_shorter_series_leaves_nothing_of_the_longer_one(template, tmp_path):
    write_series(tmp_path, template, frames_of(template, 6), name="a", latents=LATENTS)
    (tmp_path / "struct_of_mine.pdb").touch()
    write_series(tmp_path, template, frames_of(template, 2), name="a", latents=LATENTS)
    assert sorted(path.name for path in tmp_path.glob("struct*")) == [
        "struct_001.pdb",
        "struct_002.pdb",
        "struct_of_mine.pdb",
    ]


def test_what_the_pdb_format_cannot_hold_goes_to_mmcif(template, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        written = write_series(tmp_path, template, frames_of(template) + 10_000, name="far", latents=LATENTS)
    assert "only .cif files" in caplog.text and not [path for path in written if path.suffix == ".pdb"]
    np.testing.assert_allclose(read_models(tmp_path / "far.cif")[1], frames_of(template) + 10_000, atol=2e-3)
    assert 'open "far.cif" coordsets true' in (tmp_path / "open.cxc").read_text(encoding="utf-8")
    assert (tmp_path / "struct_005.cif").is_file()


def test_the_script_opens_colours_and_plays_the_series(template, tmp_path):
    write_series(tmp_path, template, frames_of(template), name="pc1", latents=LATENTS)
    text = (tmp_path / "open.cxc").read_text(encoding="utf-8")
    names = re.findall(r'^open "([^"]+)" coordsets true$', text, re.MULTILINE)
    assert names == ["pc1.pdb"] and (tmp_path / names[0]).is_file()
    assert "range 0,3.00" in text and "coordset #1 1,5 " in text
    assert text.index("coordset #1") < text.index("key true")


def test_one_frame_is_shown_and_not_played():
    text = series_script("a.pdb", 1, label="x", highest=1.0)
    assert not [line for line in text.splitlines() if line.startswith("coordset")]


@pytest.mark.parametrize(("name", "word"), [("a b.pdb", '"a b.pdb"'), ('a"b', '"a\\"b"'), ("a\\b", '"a\\\\b"')])
def test_names_are_one_word_of_a_command(name, word):
    assert quoted(name) == word


def test_domains_are_coloured_stretch_by_stretch_and_their_axes_drawn():
    axis = np.array([1.0, 2, 3]), np.array([-4.0, 5.5, 6])
    lines = domain_script(
        "motion1/topology.cif", [["A:1-29", "B:3"], ["A:30-67"]], [axis], ("#111111", "#222222")
    ).splitlines()
    assert 'open "motion1/topology.cif"' in lines
    first, second, third = (line for line in lines if line.startswith("color #1/"))
    assert first.startswith("color #1/A:1-29 #") and second.split()[2] == first.split()[2] != third.split()[2]
    assert (
        lines[-1]
        == f"shape cylinder radius 0.4 fromPoint 1.00,2.00,3.00 toPoint -4.00,5.50,6.00 color {third.split()[2]}"
    )
