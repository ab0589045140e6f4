"""Hydrogen bonds from mkdssp (Debian package dssp), for test_graph.py.

`python tests/mkdssp.py` records tests/data/mkdssp_hydrogen_bonds.json, which the test falls back on where the program
is absent.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path

import gemmi
import numpy as np
from molecules import data_folder

from cryoatom.files.structure import write_atoms
from cryoatom.structure.template import Template, read_template

PROGRAM = shutil.which("mkdssp")
RECORD = Path(__file__).parent / "data" / "mkdssp_hydrogen_bonds.json"
OPTIONS = ["--write-experimental", "--output-format", "mmcif"]
FILES = ["adk_closed.pdb", "adk_open.pdb", "1hvr.pdb", "4E43.pdb", "dssp/1dx5I.pdb.gz", "mmcif/3PWP.cif.gz"]
Bond = tuple[int, int, float]


def version() -> str:
    """Return what mkdssp says of itself."""
    return subprocess.run(["mkdssp", "--version"], capture_output=True, text=True, check=True).stdout.split("\n")[0]


def hydrogen_bonds(template: Template) -> list[Bond]:
    """Run mkdssp: (donor, acceptor, energy to 0.1 kcal/mol), residues as indices into the template."""
    chains = {chain: chr(ord("A") + i) for i, chain in enumerate(dict.fromkeys(template.chain_ids.tolist()))}
    atoms = replace(template.atoms, chain_ids=np.array([chains[chain] for chain in template.atoms.chain_ids.tolist()]))
    with tempfile.TemporaryDirectory() as folder:
        source, result = Path(folder, "in.pdb"), Path(folder, "out.cif")
        write_atoms(source, atoms)
        header = "HEADER    TEST                                    01-JAN-00   1ABC\n"
        source.write_text(header + source.read_text())
        subprocess.run(["mkdssp", *OPTIONS, source, result], capture_output=True, check=True)
        rows = gemmi.cif.read(str(result)).sole_block().get_mmcif_category("_dssp_struct_bridge_pairs.")
    keys = zip(template.chain_ids.tolist(), template.residue_numbers.tolist(), template.insertion_codes, strict=True)
    index = {(chains[chain], str(number), code): i for i, (chain, number, code) in enumerate(keys)}
    return _bonds(rows, index)


def _bonds(rows: dict[str, list], index: dict[tuple[str, str, str], int]) -> list[Bond]:
    bonds = set()
    for row in range(len(rows["id"])):
        own = index[_key(rows, "", row)]
        for role in ("acceptor_1", "acceptor_2", "donor_1", "donor_2"):
            energy = rows[f"{role}_energy"][row]
            if energy and float(energy) <= -0.5:
                other = index[_key(rows, f"{role}_", row)]
                pair = (own, other) if role.startswith("acceptor") else (other, own)
                bonds.add((*pair, float(energy)))
    return sorted(bonds)


def _key(rows: dict[str, list], role: str, row: int) -> tuple[str, str, str]:
    chain, number, code = (rows[role + tag][row] for tag in ("auth_asym_id", "auth_seq_id", "pdbx_PDB_ins_code"))
    return chain, number, code or ""


if __name__ == "__main__":
    recorded = {name: hydrogen_bonds(read_template(data_folder() / name)[0]) for name in FILES}
    lines = [f'"{name}": {json.dumps(bonds, separators=(",", ":"))}' for name, bonds in recorded.items()]
    command = " ".join(["mkdssp", *OPTIONS])
    about = f'"program": "{version()}", "command": "{command}"'
    RECORD.write_text("{" + about + ',\n"bonds": {\n' + ",\n".join(lines) + "\n}}\n")
