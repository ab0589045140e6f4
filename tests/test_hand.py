"""The hand of real proteins and their mirror images."""

from dataclasses import replace

import numpy as np
import pytest
from molecules import data_folder, helix, join

from cryoatom.geometry import random_rotations
from cryoatom.structure.hand import Hand, hand_of, helix_hand
from cryoatom.structure.template import Template, read_template, template_from_atoms

REFLECTIONS = [np.diag([1.0, 1.0, -1.0]), -np.eye(3), np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])]


def adk(*, alpha_only: bool = False) -> Template:
    whole = read_template(data_folder() / "adk_closed.pdb")[0]
    return template_from_atoms(whole.atoms[whole.atoms.names == "CA"], "C-alphas")[0] if alpha_only else whole


def moved(template: Template, matrix: np.ndarray) -> Template:
    return template.with_positions(template.atoms.positions @ matrix.T + 7.0)


@pytest.mark.parametrize("alpha_only", [False, True])
def test_a_protein_is_right_in_any_pose_and_its_mirror_images_are_not(alpha_only):
    template = adk(alpha_only=alpha_only)
    right = hand_of(template)
    assert (right.hand, right.wrong) == ("right", 0)
    assert right.evidence == ("helices" if alpha_only else "C-alpha chirality")
    assert right.right == 194 if not alpha_only else right.right > 50  # 20 of 214 are glycines
    for rotation in random_rotations(3, np.random.default_rng(0)):
        assert hand_of(moved(template, rotation)) == right
        for reflection in REFLECTIONS:
            mirrored = hand_of(moved(template, rotation @ reflection))
            assert (mirrored.hand, mirrored.right, mirrored.wrong) == ("mirrored", 0, right.right)


@pytest.mark.parametrize("name", ["adk_open.pdb", "1hvr.pdb", "4E43.pdb", "mmcif/3PWP.cif.gz", "dssp/3e8mA.pdb.gz"])
def test_proteins_are_right_handed_by_residues_and_by_helices(name):
    template = read_template(data_folder() / name)[0]
    assert hand_of(template).hand == "right" == helix_hand(template.positions, template.bonded).hand


def test_turns_of_noisy_conformations_are_counted_together():
    template = adk()
    noise = np.random.default_rng(0).normal(scale=0.3, size=(20, len(template), 3))
    conformations = (template.positions + noise).astype(np.float32)
    together = helix_hand(conformations, template.bonded)
    each = [helix_hand(conformation, template.bonded) for conformation in conformations]
    assert together.hand == "right"
    assert (together.right, together.wrong) == (sum(h.right for h in each), sum(h.wrong for h in each))
    assert helix_hand(-conformations, template.bonded).hand == "mirrored"


def test_strands_and_short_or_broken_chains_are_unknown():
    strand = np.stack([3.3 * np.arange(40), 0.9 * (-1.0) ** np.arange(40), np.zeros(40)], axis=1)
    assert helix_hand(strand, np.ones(39, dtype=bool)) == Hand(0, 0, "helices")
    for count in (1, 2, 3, 4):
        template = template_from_atoms(helix(count, names=["CA"]), "short")[0]
        assert hand_of(template).hand == "unknown"
    positions = template_from_atoms(helix(30, names=["CA"]), "helix")[0].positions
    assert helix_hand(positions, np.ones(29, dtype=bool)).right == 26
    assert helix_hand(positions, np.arange(29) % 4 != 3) == Hand(0, 0, "helices")


def test_chirality_that_is_mixed_is_unknown_and_that_is_missing_leaves_it_to_helices():
    template = adk()
    turned = replace(template.atoms, positions=-template.atoms.positions, chain_ids=np.full(len(template.atoms), "B"))
    both = hand_of(template_from_atoms(join(template.atoms, turned), "both hands")[0])
    assert both == Hand(194, 194, "C-alpha chirality") and both.hand == "unknown"
    amino = template_from_atoms(template.atoms[template.atoms.names != "CB"], "no side chains")[0]
    assert hand_of(amino).evidence == "helices"  # without CB there is no chirality
    few = template.atoms[(template.atoms.names != "CB") | (template.atoms.residue_numbers <= 5)]
    assert hand_of(template_from_atoms(few, "few side chains")[0]).evidence == "helices"


def test_glycines_leave_it_to_helices():
    glycines = helix(30, names=["N", "CA", "C", "O"], residue_names="GLY")
    assert hand_of(template_from_atoms(glycines, "glycines")[0]) == Hand(26, 0, "helices")


def test_the_verdict_needs_enough_and_clear_evidence():
    verdicts = {(5, 0): "unknown", (6, 0): "right", (0, 6): "mirrored", (8, 2): "right", (7, 3): "unknown"}
    for (right, wrong), verdict in verdicts.items():
        assert Hand(right, wrong, "helices").hand == verdict
    assert str(Hand(0, 6, "helices")) == "mirrored (helices: 0 right, 6 mirrored)"
