from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from molecules import data_folder, helix, join, make_atoms
from scipy.spatial.transform import Rotation

from cryoatom.cli.main import cli
from cryoatom.files.structure import read_atoms, write_atoms
from cryoatom.files.trajectory import read_trajectory
from cryoatom.structure.match import match_residues
from cryoatom.structure.residues import CANONICAL, canonical_residue
from cryoatom.structure.template import (
    Template,
    center_template,
    matched_deviation,
    read_template,
    select_residues,
    superpose_template,
    template_from_atoms,
    write_template,
)

DATA = data_folder()
REAL_FILES = sorted(
    str(path.relative_to(DATA))
    for path in DATA.rglob("*")
    if path.name.endswith((".pdb", ".ent", ".cif", ".pdb.gz", ".cif.gz", ".pdbqt", ".pdb.bz2"))
)
SIZES = {  # residues by chain
    "adk_open.pdb": {"4AKE": 214},
    "adk_closed.pdb": {"4AKE": 214},
    "adk_oplsaa.pdb": {"A": 214},
    "1hvr.pdb": {"A": 99, "B": 99},
    "4E43.pdb": {"A": 99, "B": 99, "C": 6},
    "19hc.pdb.gz": {"A": 292, "B": 292},
    "1osm.pdb.gz": {"A": 185},
    "nmr_neopetrosiamide.pdb": {"A": 28},
    "unordered_res.pdb": {"X": 35},
    "cobrotoxin.pdb": {"A": 62},
    "gromos11/gromos11_traj_solv.pdb.gz": {"A": 5},
    "dssp/3nbkA.pdb.gz": {"A": 158},
    "mmcif/3PWP.cif.gz": {"A": 275, "B": 100, "C": 9, "D": 200, "E": 245},
    "mmcif/3KPR.pdb.gz": dict(zip("ABCDEFGHIJ", [276, 99, 9, 201, 241] * 2, strict=True)),
    "mmcif/5PTI.cif.gz": {"A": 58},
    "mmcif/1YJP.cif": {"A": 7},
}


def from_atoms(*parts, **selection):
    return template_from_atoms(join(*parts), "test", **selection)


def renumber(atoms, **columns):
    return replace(atoms, **{name: np.broadcast_to(value, len(atoms)).copy() for name, value in columns.items()})


def assert_valid(template: Template) -> None:
    count = len(template)
    assert count and set(template.residue_names.tolist()) <= CANONICAL
    assert all(template.chain_ids != "")
    assert np.isfinite(template.atoms.positions).all()
    assert not {"H", "D", "X"} & set(template.atoms.elements.tolist())
    np.testing.assert_array_equal(template.atom_residue[template.atoms.names == "CA"], np.arange(count))
    assert set(template.atoms.elements[template.atoms.names == "CA"].tolist()) == {"C"}
    keys = zip(template.atom_residue.tolist(), template.atoms.names.tolist(), strict=True)
    assert max(Counter(keys).values()) == 1
    residues = zip(template.chain_ids, template.residue_numbers, template.insertion_codes, strict=True)
    assert max(Counter(residues).values()) == 1
    same_chain = template.chain_ids[1:] == template.chain_ids[:-1]
    jumps = np.diff(template.chain_position)
    assert (jumps[~same_chain] == 1000).all() and (jumps[same_chain] >= 1).all()


def assert_equal(first: Template, second: Template) -> None:
    for name in ("residue_names", "chain_ids", "residue_numbers", "insertion_codes", "chain_position", "atom_residue"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    np.testing.assert_array_equal(first.atoms.names, second.atoms.names)
    np.testing.assert_array_equal(first.atoms.elements, second.atoms.elements)
    np.testing.assert_allclose(first.positions, second.positions, atol=1e-3)
    np.testing.assert_allclose(first.atoms.positions, second.atoms.positions, atol=1e-3)
    np.testing.assert_allclose(first.confidence, second.confidence, atol=0.006)


@pytest.mark.parametrize("name", REAL_FILES)
def test_every_real_file_is_a_template_or_one_clear_error(name, tmp_path):
    try:
        template, report = read_template(DATA / name)
    except ValueError as error:
        assert str(DATA / name) in str(error) and "\n" not in str(error)
        assert name not in SIZES and not name.startswith(("adk", "dssp", "mmcif"))
        return
    assert_valid(template)
    assert Counter(template.chain_ids.tolist()) == SIZES.get(name, Counter(template.chain_ids.tolist()))
    write_template(tmp_path / "t.cif", template)
    again, clean = read_template(tmp_path / "t.cif")
    assert_equal(template, again)
    assert not clean.dropped and not clean.renamed
    assert clean.notes == tuple(note for note in report.notes if "periodic box" in note)
    np.testing.assert_array_equal(read_atoms(DATA / name).positions[report.kept], template.atoms.positions)


def test_real_files_are_many():
    assert len(REAL_FILES) > 100


def test_charmm_file_in_full():
    template, report = read_template(DATA / "adk_closed.pdb")
    assert template.bonded.all() and len(template.atoms) == 1656
    assert report.renamed == {"HSD -> HIS": 3}
    assert report.dropped == {"hydrogen atom": {"H": 1685}}
    ends = template.atoms.names[template.atom_residue == 213].tolist()
    assert "O" in ends and "OXT" in ends and not {"OT1", "OT2"} & set(ends)
    isoleucines = template.atoms[template.atoms.residue_names == "ILE"]
    assert "CD1" in isoleucines.names and "CD" not in isoleucines.names


def test_what_is_dropped_is_listed():
    report = read_template(DATA / "mmcif/3PWP.cif.gz")[1]
    assert report.dropped["ligand or ion"] == {"GOL": 7, "SO4": 1}
    assert report.dropped["water"] == {"HOH": 66}
    assert report.dropped["alternate location (atoms)"] == {"GLN": 6}
    assert read_template(DATA / "mmcif/1BD2.cif.gz")[1].breaks[0].startswith("D:132 | 137 (10.6")
    assert read_template(DATA / "1hvr.pdb")[1].renamed == {"CSO -> CYS": 2}


@pytest.mark.parametrize(
    ("parent", "names"),
    [
        ("MET", "MSE FME CXM NMET"),
        ("SER", "SEP"),
        ("THR", "TPO"),
        ("TYR", "PTR TYS TYM"),
        ("PRO", "HYP CPRO"),
        ("CYS", "CSO CYX CYM CYSH CYS2 CME OCS SEC"),
        ("LYS", "KCX MLY M3L LYN LYSH PYL"),
        ("HIS", "HSD HSE HSP HID HIE HIP HISE HISH CHIE NHID"),
        ("ASP", "ASH ASPP"),
        ("GLU", "GLH GLUP PCA"),
        ("UNK", "UNK"),
    ],
)
def test_residue_names(parent, names):
    assert {canonical_residue(name) for name in names.split()} == {parent}


@pytest.mark.parametrize("name", "HOH TIP3 SOL DA GUA HEM NAG CA ZN ACE NME CL NA POPC".split())
def test_what_is_no_amino_acid(name):
    assert canonical_residue(name) is None


def test_selenium_is_read_as_the_parents_sulphur():
    atoms = renumber(helix(3), residue_names=["MSE"] * 15)
    selenium = make_atoms(["SE"], elements="Se", residue_names="MSE", residue_numbers=3, positions=[[3, 3, 3]])
    template, report = from_atoms(atoms, selenium)
    assert template.residue_names.tolist() == ["MET"] * 3
    assert (template.atoms.names[-1], template.atoms.elements[-1]) == ("SD", "S")
    assert report.renamed == {"MSE -> MET": 3}


@pytest.mark.parametrize("pair", [("OT1", "OT2"), ("OC1", "OC2"), ("O1", "O2"), ("O", "OT2")])
def test_carboxylates_of_every_dialect(pair):
    atoms = join(
        helix(2), make_atoms([*pair, "N", "CA", "C"], residue_numbers=3, positions=np.arange(15).reshape(5, 3))
    )
    template, _ = template_from_atoms(atoms, "test")
    assert template.atoms.names[template.atom_residue == 2].tolist() == ["O", "OXT", "N", "CA", "C"]


def test_the_best_occupied_conformer_is_kept_whole():
    first, middle, last = (helix(3)[start : start + 5] for start in (0, 5, 10))
    a = renumber(middle, altlocs="A", occupancies=0.4)
    b = renumber(middle, altlocs="B", occupancies=0.6, residue_names="SER")
    template, report = from_atoms(first, a, b, last)
    assert template.residue_names.tolist() == ["ALA", "SER", "ALA"]
    assert report.dropped == {"alternate location (atoms)": {"SER": 5}}
    even, _ = from_atoms(first, renumber(a, occupancies=0.5), renumber(b, occupancies=0.5), last)
    assert even.residue_names.tolist() == ["ALA"] * 3
    apart, _ = from_atoms(first, a, last, b)
    assert_equal(apart, template)


def test_a_conformer_needs_a_c_alpha():
    residue = helix(2)
    altlocs = np.array([""] * 5 + ["B", "A", "B", "B", "B"])
    template, _ = template_from_atoms(renumber(residue, altlocs=altlocs), "test")
    assert template.atoms.names[template.atom_residue == 1].tolist() == ["CA"]


def test_residues_without_c_alpha_hydrogens_and_duplicates_are_dropped():
    atoms = helix(4)
    atoms = atoms[~((atoms.residue_numbers == 2) & (atoms.names == "CA"))]
    extra = make_atoms(["CB", "HB1"], residue_numbers=4)
    template, report = from_atoms(atoms, extra)
    assert template.residue_numbers.tolist() == [1, 3, 4]
    assert template.chain_position.tolist() == [0, 2, 3]
    assert report.dropped == {
        "residue without C-alpha": {"ALA": 1},
        "duplicate atom": {"ALA": 1},
        "hydrogen atom": {"H": 1},
    }


def test_insertion_codes_are_residues_of_their_own():
    atoms = helix(4)
    template, _ = template_from_atoms(
        renumber(
            atoms, residue_numbers=np.repeat([52, 52, 52, 53], 5), insertion_codes=np.repeat(["", "A", "B", ""], 5)
        ),
        "test",
    )
    assert template.insertion_codes.tolist() == ["", "A", "B", ""]
    assert template.bonded.all()


def test_an_unknown_residue_counts_when_it_is_bonded_into_the_chain():
    names = np.repeat(["ALA", "XYZ", "ALA"], 5)
    template, report = template_from_atoms(renumber(helix(3), residue_names=names), "test")
    assert template.residue_names.tolist() == ["ALA"] * 3
    assert report.renamed == {"XYZ -> ALA": 1} and "XYZ is unknown" in report.notes[0]
    far = renumber(helix(3), residue_names=names)
    far.positions[5:10] += 30
    assert template_from_atoms(far, "test")[1].dropped == {"ligand or ion": {"XYZ": 1}}


def test_a_free_amino_acid_is_a_ligand():
    ligand = helix(1, residue_names="GLU")
    ligand = join(ligand, make_atoms(["OXT"], residue_names="GLU"))
    ligand = replace(renumber(ligand, residue_numbers=401), positions=ligand.positions + 15)
    template, report = from_atoms(helix(5), ligand)
    assert len(template) == 5
    assert report.dropped == {"free amino acid": {"GLU": 1}}


def test_copies_of_a_nameless_chain_get_names():
    chain = helix(4, chain_ids="")
    template, report = from_atoms(chain, replace(chain, positions=chain.positions + 30))
    assert Counter(template.chain_ids.tolist()) == {"A": 4, "B": 4}
    assert np.diff(template.chain_position).tolist() == [1, 1, 1, 1000, 1, 1, 1]
    assert len(report.notes) == 2
    named = renumber(chain, chain_ids="A")
    template, _ = from_atoms(named, replace(named, positions=chain.positions + 30))
    assert list(dict.fromkeys(template.chain_ids.tolist())) == ["A", "A2"]


def test_modified_residues_at_the_end_of_the_file_go_where_they_are_bonded():
    atoms = helix(5)
    template, report = from_atoms(atoms[:10], atoms[15:], atoms[10:15])
    assert template.residue_numbers.tolist() == [1, 2, 3, 4, 5]
    assert template.bonded.all() and "out of order" in report.notes[0]


@pytest.mark.parametrize(
    ("names", "numbers", "shift", "expected"),
    [
        (("N", "CA", "C", "O"), [1, 2, 3, 4], 0, [0, 1, 2, 3]),
        (("N", "CA", "C", "O"), [1, 2, 30, 31], 0, [0, 1, 2, 3]),  # a gap in the numbers, but a peptide bond
        (("N", "CA", "C", "O"), [1, 2, 3, 4], 3, [0, 1, 3, 4]),
        (("N", "CA", "C", "O"), [1, 2, 9, 10], 9, [0, 1, 8, 9]),
        (("N", "CA", "C", "O"), [9, 10, 2, 3], 9, [0, 1, 3, 4]),
        (("CA",), [1, 2, 3, 4], 0, [0, 1, 2, 3]),
        (("CA",), [1, 2, 4, 5], 0, [0, 1, 3, 4]),
        (("CA",), [1, 2, 3, 4], 1, [0, 1, 3, 4]),  # 4.6 Å
    ],
)
def test_chain_breaks_by_number_and_distance(names, numbers, shift, expected):
    atoms = helix(4, names=names)
    atoms = renumber(atoms, residue_numbers=np.repeat(numbers, len(names)))
    direction = atoms.positions[atoms.names == "CA"][2] - atoms.positions[atoms.names == "CA"][1]
    atoms.positions[2 * len(names) :] += shift * direction / np.linalg.norm(direction)
    template, report = template_from_atoms(atoms, "test")
    assert template.chain_position.tolist() == expected
    assert len(report.breaks) == (~template.bonded).sum()


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("1-3", [1, 2, 3, 1, 2, 3]),
        ("A:1-3", [1, 2, 3]),
        ("A:1-2,5,B:4-5", [1, 2, 5, 4, 5]),
        (" 2 , 4 ", [2, 4, 2, 4]),
        ("-3-1", [1, 1]),
    ],
)
def test_selections(spec, expected):
    template, _ = from_atoms(helix(5), helix(5, chain_ids="B"))
    assert template.residue_numbers[select_residues(spec, template)].tolist() == expected
    selected, report = from_atoms(helix(5), helix(5, chain_ids="B"), residues=spec)
    assert selected.residue_numbers.tolist() == expected
    assert report.dropped == {"residue not selected": {"ALA": 10 - len(expected)}}
    np.testing.assert_array_equal(report.kept[selected.atoms.names == "CA"] % 5, 1)


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        ({"chains": ["Z"]}, "test has no protein chain Z; it has chain A 1-5, chain B 1-5"),
        ({"residues": "7-9"}, "'7-9' selects no residue; the structure has chain A 1-5"),
        ({"residues": "1..5"}, "cannot read '1..5' in the residue selection"),
        ({"residues": "1,,2"}, "cannot read ''"),
        ({"chains": ["A"], "residues": "B:1-5"}, "have none of the residues"),
    ],
)
def test_empty_selections(selection, message):
    with pytest.raises(ValueError, match=message):
        from_atoms(helix(5), helix(5, chain_ids="B"), **selection)


def test_a_molecule_torn_by_a_periodic_box_is_noticed():
    report = read_template(DATA / "adk_oplsaa.pdb")[1]
    assert len(report.breaks) == 5
    assert "4 pairs of consecutive residues are over 20 Å apart" in report.notes[-1]


def test_a_file_without_protein_says_what_it_has():
    with pytest.raises(ValueError, match="no protein residue with a C-alpha .*2 x water"):
        from_atoms(make_atoms(["O"], residue_names="HOH"), make_atoms(["O"], residue_names="HOH", residue_numbers=2))


def test_centring_moves_every_atom_alike():
    template, _ = read_template(DATA / "adk_open.pdb")
    centred = center_template(template)
    np.testing.assert_allclose(centred.positions.mean(axis=0), 0, atol=1e-10)
    shift = centred.atoms.positions - template.atoms.positions
    np.testing.assert_allclose(shift, np.broadcast_to(shift[0], shift.shape), atol=1e-10)


def test_superposing_undoes_a_rigid_motion_for_other_chain_names_and_parts(tmp_path):
    template, _ = read_template(DATA / "1hvr.pdb")
    motion = Rotation.from_rotvec([1, 2, -0.5])
    moved = template.with_positions(motion.apply(template.atoms.positions) + [30, -10, 5])
    assert_equal(superpose_template(moved, template), template)
    part, _ = read_template(DATA / "1hvr.pdb", residues="A:10-60")
    named = replace(part, chain_ids=np.full(len(part), "X"), residue_numbers=part.residue_numbers + 100)
    onto_part = superpose_template(moved, replace(named, atoms=part.atoms))
    np.testing.assert_allclose(onto_part.positions[9:60], part.positions, atol=1e-6)
    assert matched_deviation(onto_part, part) == (51, pytest.approx(0, abs=1e-6))


def test_superposing_needs_the_same_protein():
    template, _ = read_template(DATA / "adk_open.pdb")
    other, _ = read_template(DATA / "mmcif/1YJP.cif")
    with pytest.raises(ValueError, match="residues of the two structures match"):
        match_residues(template, other)


def test_closed_and_open_adk_differ_as_known():
    closed, opened = (read_template(DATA / f"adk_{state}.pdb")[0] for state in ("closed", "open"))
    count, deviation = matched_deviation(superpose_template(closed, opened), opened)
    assert count == 214 and 6.8 < deviation < 7.3


def test_the_kept_index_takes_trajectory_frames_to_templates():
    trajectory = read_trajectory(DATA / "adk_dims2.dcd", DATA / "adk.psf")
    assert trajectory.atoms is not None
    atoms = replace(trajectory.atoms, positions=trajectory.positions[0].astype(np.float64))
    template, report = template_from_atoms(atoms, "adk.psf")
    last = template.with_positions(trajectory.positions[-1][report.kept])
    alpha = trajectory.positions[-1][trajectory.atoms.names == "CA"]
    np.testing.assert_array_equal(last.positions, alpha)
    assert last.bonded.all()


def test_templates_are_written_as_mmcif_only(tmp_path):
    template, _ = read_template(DATA / "mmcif/1YJP.cif")
    with pytest.raises(ValueError, match="name it .cif"):
        write_template(tmp_path / "t.pdb", template)
    assert not list(tmp_path.iterdir())


def run(*arguments: str | Path):
    return CliRunner().invoke(cli, [str(a) for a in arguments], prog_name="cryoatom", env={"COLUMNS": "150"})


def test_command_centres_lists_and_writes(tmp_path):
    output = tmp_path / "t.cif"
    result = run("template", DATA / "mmcif/3PWP.cif.gz", "-o", output, "--chain", "A", "--chain", "D")
    assert result.exit_code == 0, result.stderr
    for text in ("475 (3799 heavy atoms)", "A (275), D (200)", "centred", "66: HOH (66)", "dropped: ligand or ion"):
        assert text in result.stdout
    template, _ = read_template(output)
    np.testing.assert_allclose(template.positions.mean(axis=0), 0, atol=1e-3)


def test_command_superposes_onto_the_frame_of_the_poses(tmp_path):
    closed, opened = DATA / "adk_closed.pdb", DATA / "adk_open.pdb"
    result = run("template", closed, "-o", tmp_path / "t.cif", "--residues", "1-100", "--onto", opened)
    assert "100 residues on adk_open.pdb, RMSD" in result.stdout
    template, _ = read_template(tmp_path / "t.cif")
    target, _ = read_template(opened, residues="1-100")
    np.testing.assert_allclose(template.positions.mean(axis=0), target.positions.mean(axis=0), atol=1e-3)
    assert run("template", closed, "-o", tmp_path / "f.cif", "--no-center").exit_code == 0
    assert_equal(read_template(tmp_path / "f.cif")[0], read_template(closed)[0])


def test_command_reports_one_line_and_writes_nothing(tmp_path):
    write_atoms(tmp_path / "water.pdb", make_atoms(["O"], residue_names="HOH"))
    for arguments in ((tmp_path / "water.pdb",), (DATA / "adk_open.pdb", "--chain", "B"), (tmp_path / "missing.cif",)):
        result = run("template", *arguments, "-o", tmp_path / "t.cif")
        assert result.exit_code == 1
        assert len(result.stderr.splitlines()) == 1 and result.stderr.startswith("Error: ")
    assert [path.name for path in tmp_path.iterdir()] == ["water.pdb"]
