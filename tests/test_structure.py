import gzip
from collections import Counter
from dataclasses import fields, replace

import numpy as np
import pytest
from molecules import data_folder, helix, join, make_atoms

from cryoatom.files.pdb import guess_elements
from cryoatom.files.structure import read_atoms, read_models, write_atoms, write_models
from cryoatom.records import Atoms

DATA = data_folder()
LINE = "ATOM      1  CA  ALA A   1      11.104   6.134  -6.504  1.00 20.00           C\n"


def assert_equal(first: Atoms, second: Atoms, *, atol: float = 1e-6) -> None:
    for f in fields(Atoms):
        a, b = getattr(first, f.name), getattr(second, f.name)
        if a.dtype.kind == "f":
            np.testing.assert_allclose(a, b, atol=0.006 if a.ndim == 1 else atol, err_msg=f.name)
        else:
            np.testing.assert_array_equal(a, b, err_msg=f.name)


@pytest.mark.parametrize("name", ["adk_open.pdb", "adk_closed.pdb"])
def test_elements_are_right_without_an_element_column(name):
    atoms = read_atoms(DATA / name)
    assert Counter(atoms.elements.tolist()) == {"C": 1040, "H": 1685, "N": 289, "O": 320, "S": 7}
    assert set(atoms.elements[atoms.names == "CA"].tolist()) == {"C"}
    assert set(atoms.chain_ids.tolist()) == {"4AKE"}


@pytest.mark.parametrize(
    ("name", "residue", "element"),
    [
        ("CA", "ALA", "C"),
        ("CA", "CA", "Ca"),
        ("CAL", "CAL", "Ca"),
        ("HG1", "THR", "H"),
        ("1HB", "ALA", "H"),
        ("CD", "HSD", "C"),
        ("SE", "MSE", "Se"),
        ("NE2", "HSE", "N"),
        ("SOD", "SOD", "Na"),
        ("NA+", "NA+", "Na"),
        ("FE", "HEM", "Fe"),
        ("NA", "HEM", "N"),
        ("CL1", "LIG", "Cl"),
        ("OH2", "TIP3", "O"),
        ("P", "GUA", "P"),
        ("?", "LIG", "X"),
    ],
)
def test_elements_from_names(name, residue, element):
    assert guess_elements(np.array([name]), np.array([residue])).tolist() == [element]


@pytest.mark.parametrize("entry", ["1BD2", "3PWP", "3KPR", "1BD2_short"])
def test_pdb_and_mmcif_of_an_entry_agree(entry):
    assert_equal(read_atoms(DATA / f"mmcif/{entry}.pdb.gz"), read_atoms(DATA / f"mmcif/{entry}.cif.gz"))


def test_atoms_keep_the_order_of_the_file_and_every_copy(tmp_path):
    chain = helix(3, chain_ids="")
    water = make_atoms(["OH2"], residue_names="TIP3", chain_ids="")
    whole = join(chain, water, replace(chain, positions=chain.positions + 50), water)
    write_atoms(tmp_path / "dimer.pdb", whole)
    assert_equal(read_atoms(tmp_path / "dimer.pdb"), whole, atol=6e-4)


@pytest.mark.parametrize("suffix", [".pdb", ".cif"])
def test_atoms_come_back(tmp_path, suffix):
    atoms = join(
        helix(2, chain_ids="A", b_factors=87.25, occupancies=0.5),
        make_atoms(["C1'", "HO5'"], residue_names="A", residue_numbers=-3, insertion_codes="B", chain_ids="x"),
        make_atoms(
            ["CA"], elements="Ca", residue_names="CA", chain_ids="B", altlocs="A", positions=[[1.2345, -99, 9e2]]
        ),
    )
    write_atoms(tmp_path / f"a{suffix}", atoms)
    assert_equal(read_atoms(tmp_path / f"a{suffix}"), atoms, atol=6e-4 if suffix == ".pdb" else 6e-5)


def test_long_chain_names_stay_in_mmcif_and_become_letters_in_pdb(tmp_path):
    atoms = join(
        helix(1, chain_ids="AA"), helix(1, chain_ids="A"), helix(1, chain_ids="AB"), helix(1, chain_ids="4AKE")
    )
    write_atoms(tmp_path / "a.cif", atoms)
    write_atoms(tmp_path / "a.pdb", atoms)
    assert read_atoms(tmp_path / "a.cif").chain_ids.tolist() == atoms.chain_ids.tolist()
    assert list(dict.fromkeys(read_atoms(tmp_path / "a.pdb").chain_ids.tolist())) == ["B", "A", "C", "4"]


def test_alphafold_3_files_need_no_author_names(tmp_path):
    columns = (
        "group_PDB id type_symbol label_atom_id label_alt_id label_comp_id label_asym_id label_entity_id label_seq_id "
        "pdbx_PDB_ins_code Cartn_x Cartn_y Cartn_z occupancy B_iso_or_equiv auth_seq_id auth_asym_id pdbx_PDB_model_num"
    )
    header = "data_fold\nloop_\n" + "".join(f"_atom_site.{name}\n" for name in columns.split())
    rows = (
        "ATOM 1 N N . SEP AA 1 1 ? 1.5 2.5 3.5 1.00 91.25 1 AA 1\n"
        "ATOM 2 C CA . SEP AA 1 1 ? 2.5 2.5 3.5 1.00 92.50 1 AA 1\n"
        "HETATM 3 ZN ZN . ZN B 2 . ? 9.5 2.5 3.5 1.00 70.00 1 B 1\n"
    )
    (tmp_path / "af3.cif").write_text(header + rows)
    atoms = read_atoms(tmp_path / "af3.cif")
    assert atoms.names.tolist() == ["N", "CA", "ZN"]
    assert atoms.elements.tolist() == ["N", "C", "Zn"]
    assert atoms.residue_names.tolist() == ["SEP", "SEP", "ZN"]
    assert atoms.chain_ids.tolist() == ["AA", "AA", "B"]
    assert atoms.b_factors.tolist() == [91.25, 92.5, 70.0]
    assert atoms.altlocs.tolist() == atoms.insertion_codes.tolist() == ["", "", ""]


def test_residue_numbers_beyond_four_digits(tmp_path):
    numbers = {"9999": 9999, "A000": 10_000, "ZZZZ": 1_223_055, "a000": 1_223_056, "  -5": -5}
    (tmp_path / "a.pdb").write_text("".join(f"{LINE[:22]}{text}{LINE[26:]}" for text in numbers))
    assert read_atoms(tmp_path / "a.pdb").residue_numbers.tolist() == list(numbers.values())
    assert read_atoms(DATA / "5digitResid.pdb").residue_numbers.tolist() == [1, 10, 100, 1000, 10000]


def test_blank_occupancies_and_short_lines(tmp_path):
    (tmp_path / "a.pdb").write_text(LINE[:54] + "\n")
    atoms = read_atoms(tmp_path / "a.pdb")
    assert (atoms.occupancies[0], atoms.b_factors[0], atoms.elements[0]) == (1.0, 0.0, "C")


def test_models_are_read_one_by_one_or_together():
    atoms, positions = read_models(DATA / "nmr_neopetrosiamide.pdb")
    assert positions.shape == (24, 392, 3)
    last = read_atoms(DATA / "nmr_neopetrosiamide.pdb", model=23)
    np.testing.assert_array_equal(last.positions, positions[23])
    np.testing.assert_array_equal(atoms.positions, positions[0])
    with pytest.raises(ValueError, match=r"has 24 model\(s\); model 25 was asked for"):
        read_atoms(DATA / "nmr_neopetrosiamide.pdb", model=24)


def test_models_of_other_atoms_are_an_error_only_together(tmp_path):
    with pytest.raises(ValueError, match="different numbers of atoms"):
        read_models(DATA / "mmcif/multimodel_warning.cif.gz")
    assert len(read_atoms(DATA / "mmcif/multimodel_warning.cif.gz")) == 3521
    text = f"MODEL 1\n{LINE}ENDMDL\nMODEL 2\n{LINE.replace(' CA ', ' CB ')}ENDMDL\n"
    (tmp_path / "a.pdb").write_text(text)
    with pytest.raises(ValueError, match="model 2 lists other atoms"):
        read_models(tmp_path / "a.pdb")
    assert read_atoms(tmp_path / "a.pdb", model=1).names.tolist() == ["CB"]


def test_gzip_is_told_by_its_content(tmp_path):
    (tmp_path / "a.pdb").write_bytes(gzip.compress(LINE.encode(), mtime=0))
    assert len(read_atoms(tmp_path / "a.pdb")) == 1


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.pdb", "REMARK nothing\n", "no ATOM or HETATM records"),
        ("a.pdb", LINE + LINE.replace("  6.134", " 6.13x4"), "line 2: columns 39-46 hold"),
        ("a.pdb", LINE[:40] + "\n", "line 1: columns 39-46 hold"),
        ("a.pdb", LINE.replace("A   1 ", "A  ?? "), "line 1: residue number '[?][?]'"),
        ("a.pdb.gz", gzip.compress(LINE.encode(), mtime=0)[:-12], "damaged or cut short"),
        ("a.cif", "ATOM 1 2 3", "not a readable mmCIF"),
        ("a.cif", "data_a\n_cell.length_a 1\n", "no _atom_site table"),
        ("a.cif", "data_a\nloop_\n_atom_site.id\n1\n", "no column auth_atom_id or label_atom_id"),
        ("a.xyz", "1", "expected a structure named .cif"),
    ],
)
def test_bad_files_are_one_clear_error(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message) as caught:
        read_atoms(tmp_path / name)
    assert name in str(caught.value)


@pytest.mark.parametrize("name", ["missing.cif", "missing.pdb"])
def test_missing_files(tmp_path, name):
    with pytest.raises(FileNotFoundError, match=name):
        read_atoms(tmp_path / name)


def test_what_pdb_cannot_hold_is_refused_and_nothing_is_left_behind(tmp_path):
    atoms = helix(1)
    write_atoms(tmp_path / "a.pdb", atoms)
    before = (tmp_path / "a.pdb").read_text()
    for wide in (
        replace(atoms, residue_numbers=atoms.residue_numbers + 99_999),
        replace(atoms, names=atoms.names + "XXXX"),
    ):
        with pytest.raises(ValueError, match="no room for .*write .cif instead"):
            write_atoms(tmp_path / "a.pdb", wide)
    with pytest.raises(ValueError, match="coordinates"):
        write_models(tmp_path / "a.pdb", atoms, atoms.positions[None] + 1e5)
    with pytest.raises(FileNotFoundError, match="the folder .* does not exist"):
        write_atoms(tmp_path / "b" / "a.pdb", atoms)
    assert (tmp_path / "a.pdb").read_text() == before
    assert list(tmp_path.iterdir()) == [tmp_path / "a.pdb"]
