"""What other programs of this kind got wrong, each with its mistake (research notes, parts C and D); ours must not."""

import ast
import os
import re
import sys
import tomllib
from collections import Counter
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from fits import bent, settings, small_template, write_dataset
from molecules import helix, join
from particle_data import star_table, write_stack

import cryoatom
from cryoatom.cli.main import cli
from cryoatom.config import Settings
from cryoatom.files.mrc import open_stack
from cryoatom.files.star import read_star_particles, write_star_particles
from cryoatom.particles.table import read_particles
from cryoatom.records import Optics
from cryoatom.results.evaluate import evaluate_files
from cryoatom.results.evaluate_config import EvaluateConfig
from cryoatom.run_folder import RunFolder
from cryoatom.simulate_config import SimulateConfig
from cryoatom.structure.template import Template, template_from_atoms, write_template
from cryoatom.train_config import TrainConfig
from cryoatom.training.assemble import build_objective
from cryoatom.training.images import prepare_images
from cryoatom.training.inputs import choose_device, read_inputs
from cryoatom.training.regularizers import Rigidity, bond_loss
from cryoatom.training.stage import silent
from cryoatom.training.train import train
from cryoatom.workers import Workers

PACKAGE = Path(cryoatom.__file__).parent
ROOT = PACKAGE.parent
TREES = {path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_dataset(folder, 9)
    return folder


# --- settings and start-up ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [TrainConfig, SimulateConfig, EvaluateConfig])
def test_every_setting_is_read_somewhere(model: type[Settings]):
    """A peer reads `loss_mask_radius` from its YAML file and passes None on (D3)."""
    nodes = [node for tree in TREES.values() for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    of_settings = {
        node.attr for node in nodes if ast.unparse(node.value).rpartition(".")[2] in ("config", "settings", "self")
    }
    assert set(model.model_fields) - of_settings <= {"preset"}  # which Settings.merge takes from a dictionary


@pytest.mark.parametrize(
    ("text", "words"),
    [("seed: null", "seed: .*found None"), ("\tseed: 1", "not a YAML file"), ("lr:\t1", "not a YAML")],
)
def test_a_setting_without_a_value_and_a_tab_are_one_clear_line(tmp_path, text, words):
    """`seed: null` crashes in torch.manual_seed, and the YAML file that is shipped has tabs (D3)."""
    (tmp_path / "c.yaml").write_text(text)
    given = {"particles": Path("p.star"), "template": Path("t.cif"), "outdir": Path("run")}
    with pytest.raises(ValueError, match=words) as caught:
        TrainConfig.merge(given, tmp_path / "c.yaml")
    assert "\n" not in str(caught.value)


def test_importing_does_nothing():
    """`random.seed(0)` when a module is imported (D6)."""
    statements = [(module, node) for module, tree in TREES.items() for node in tree.body]
    calls = [(m, n.lineno) for m, n in statements if isinstance(n, ast.Expr) and isinstance(n.value, ast.Call)]
    assert calls == [] and not [m for m, n in statements if isinstance(n, ast.For | ast.While | ast.With | ast.Try)]


def test_no_random_number_comes_from_a_global_generator():
    """Seeds set for all and never restored, and shuffles that follow them (D1, D3)."""
    found = []
    for module, tree in TREES.items():
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            name, keywords = ast.unparse(call.func), {keyword.arg for keyword in call.keywords}
            is_global = bool(re.fullmatch(r"(np\.)?random\.(?!default_rng|Generator|SFC64)\w+", name))
            is_global |= bool(re.fullmatch(r"torch\.rand(?!om)\w*", name)) and "generator" not in keywords
            is_global |= name == "np.random.default_rng" and not call.args
            if is_global or name in ("torch.manual_seed", "torch.seed"):
                found.append((module, name))
    assert set(found) == {("training/assemble.py", "torch.manual_seed")}  # inside torch.random.fork_rng


def test_no_folder_of_a_developer_is_in_the_code():
    """`source /lmb/home/schwab/miniconda3/...` (D5)."""
    pattern = re.compile(r"(?<![\w.])/(home|Users|lmb|work|scratch|mnt)/")
    assert [m for m in TREES if pattern.search((PACKAGE / m).read_text())] == []


def test_dependencies_are_what_is_imported():
    """Tools of developers, wandb, Qt and pinned CUDA wheels as dependencies, or none named at all (C, D2, D3)."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = {re.split(r"[>=<~! \[]", line)[0].replace("-", "_") for line in project["dependencies"]}
    named = (named - {"pyyaml"}) | {"yaml"}
    imported = set()
    for tree in TREES.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module.partition(".")[0])
    others = imported - set(sys.stdlib_module_names) - {"cryoatom"}
    assert others == named
    assert [line for line in project["dependencies"] if re.search(r"[<=~!]", line.replace(">=", ""))] == []  # no pins


def test_a_device_that_is_not_there_is_an_error():
    """Without a GPU a peer ends at once, without a word and with exit code 0 (D3)."""
    with pytest.raises(ValueError, match="--device cuda:17 cannot be used"):
        choose_device("cuda:17")


# --- particles ------------------------------------------------------------------------------------------------------

ALTERED = {
    "voltage_kv": 200.0,
    "cs_mm": 0.01,
    "amplitude_contrast": 0.2,
    "defocus_u": 1.5e4,
    "defocus_v": 0.8e4,
    "defocus_angle": 1.0,
    "phase_shift": 1.2,
}


def test_each_image_has_all_of_its_own_optics(tmp_path, folder):
    """Voltage, Cs, amplitude contrast of the first particle for all, and no phase shift (D2, D5); w fixed (D4)."""
    given = read_star_particles(folder / "particles.star")
    count = len(ALTERED) + 1
    values = np.tile(given.optics.as_array()[:1], (count, 1))
    for row, (name, value) in enumerate(ALTERED.items()):
        values[row + 1, [field.name for field in fields(Optics)].index(name)] = value
    same = given[np.zeros(count, dtype=np.int64)]  # one image, eight times, each with one parameter of its own
    stack = open_stack(folder / "particles.mrcs").read(np.zeros(count, dtype=np.int64))
    write_stack(tmp_path / "particles.mrcs", stack, given.pixel_size)
    names = np.array([f"{row + 1}@particles.mrcs" for row in range(count)])
    path = (tmp_path / "particles.mrcs").resolve()
    place = {"slice_of_image": np.arange(count), "stacks": (path,)}
    write_star_particles(
        tmp_path / "particles.star", replace(same, image_names=names, optics=Optics(*values.T), **place)
    )
    (tmp_path / "template.cif").symlink_to(folder / "template.cif")
    crops, kernels = prepared(tmp_path, np.arange(count))
    others = prepared(tmp_path, np.arange(1, count)[::-1])  # in other company
    for row, name in enumerate(ALTERED, start=1):
        for found, again in zip((crops, kernels), others, strict=True):
            assert (found[row] - found[0]).norm() > 1e-3 * found[0].norm(), name
            torch.testing.assert_close(again[-row], found[row], rtol=0, atol=2e-3 * float(found[row].abs().max()))


def prepared(folder: Path, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the crops and kernels that a run prepares of some rows."""
    np.save(folder / "rows.npy", rows)
    config = settings(folder, noise="white", ind=folder / "rows.npy")
    data = prepare_images(config, read_inputs(config), RunFolder(config.outdir), Workers(1), silent)
    return data.read(np.arange(len(rows)))


def test_files_are_looked_for_once_a_stack_and_not_once_an_image(tmp_path, monkeypatch):
    """list.index for each particle: hours for 100,000 names over 5,000 stacks (D5)."""
    for stack in range(20):
        write_stack(tmp_path / f"{stack}.mrcs", np.random.default_rng(0).normal(size=(20, 8, 8)))
    calls = Counter()
    for owner, name in ((Path, "is_file"), (os, "stat"), (os, "open"), (os, "lstat")):
        original = getattr(owner, name)

        def counted(*args, original=original, name=name, **kwargs):
            calls[name] += 1
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, counted)
    seen = []
    for images in (1, 20):
        names = [f"{image + 1}@{stack}.mrcs" for image in range(images) for stack in range(20)]
        write_names(tmp_path / "p.star", names)
        calls.clear()
        assert len(read_particles(tmp_path / "p.star")) == 20 * images
        seen.append(dict(calls))
    assert seen[0] == seen[1] and sum(seen[0].values()) >= 20


def write_names(path: Path, names: list[str]) -> None:
    constants = {"rlnVoltage": "300", "rlnSphericalAberration": "2.7", "rlnAmplitudeContrast": "0.1"}
    constants |= {"rlnDefocusU": "1e4", "rlnDefocusV": "1e4", "rlnDefocusAngle": "0", "rlnImagePixelSize": "1.5"}
    path.write_text(star_table("", {"rlnImageName": names} | {k: [v] * len(names) for k, v in constants.items()}))


def test_a_stack_larger_than_memory_is_read_where_it_is_asked(tmp_path):
    """Stacks are read whole by default, and slowly where they are not (C13); offsets of 32 bits end at 4 GiB."""
    count, box = 400_000, 64
    last = np.random.default_rng(0).normal(size=(2, box, box)).astype(np.float32)
    path = write_stack(tmp_path / "large.mrcs", last)
    header = bytearray(path.read_bytes()[:1024])
    header[8:12] = count.to_bytes(4, "little")
    with path.open("wb") as file:
        file.write(header)
        file.truncate(1024 + 4 * box**2 * count)  # a hole of 6.5 GB takes no room
        file.seek(-last.nbytes, os.SEEK_END)
        file.write(last.tobytes())
    found = open_stack(path).read(np.array([count - 1, 5, count - 2]))
    np.testing.assert_array_equal(found, np.stack([last[1], np.zeros((box, box), np.float32), last[0]]))


# --- runs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2])
def test_a_handful_of_images_is_a_run(tmp_path, count):
    """Below 100 images a step of N // 100 is 0 and the program ends (D2, D3); the rest of N by batch is lost (D1)."""
    write_dataset(tmp_path, count)
    run = train(settings(tmp_path, num_epochs=1, batch_size=64))
    conformations = np.load(run.conformations)
    assert conformations.shape[0] == count and np.isfinite(conformations).all()


def test_a_finished_run_that_is_loaded_ends_well_and_keeps_its_log(tmp_path, folder):
    """IndexError after `--load latest` (D1); run.log opened anew (D3); epochs from 0, or one too many (D1, D3)."""
    (tmp_path / "c.yaml").write_text(settings(folder, tmp_path / "run", num_epochs=2).to_yaml(["cryoatom", "train"]))
    outputs = []
    for load in ([], ["--load", "latest"]):
        result = CliRunner().invoke(cli, ["train", "--config", str(tmp_path / "c.yaml"), *load])
        assert result.exit_code == 0, result.output
        outputs.append((np.load(tmp_path / "run/conformations.npy"), (tmp_path / "run/run.log").read_text()))
    (first, log), (second, longer) = outputs
    np.testing.assert_array_equal(first, second)
    assert longer.startswith(log) and len(re.findall("finished$", longer, re.MULTILINE)) == 2
    assert re.findall(r"epoch (\d+):", longer) == ["1", "2"]  # no epoch was trained again
    text = (tmp_path / "run/config.yaml").read_text()
    assert "\t" not in text and "load: latest" in text
    names = {re.sub(r"\.\d+\.", ".N.", path.name) for path in (tmp_path / "run").iterdir()}
    documented = (ROOT / "docs/formats.md").read_text() + (ROOT / "README.md").read_text()
    assert [name for name in names if name not in documented] == []  # README: ckpt_{n}, the code: ckptN.pt (D3)


def test_a_resumed_run_follows_its_options_for_weights_and_scales(tmp_path, folder):
    """Settings that are read and have no effect (D3), here after --load."""
    config = settings(folder, tmp_path / "run", num_epochs=1, robust=True, scale="group", z_passes=0, dcd=False)
    checkpoint = train(config).weights(1)
    state = torch.load(checkpoint)
    state["fits"]["weights"][:4], state["fits"]["gains"][:] = 0.1, 1.5  # as if four images had not fitted
    torch.save(state, checkpoint)
    changes = {"num_epochs": 2, "load": "latest", "robust": False, "scale": "dataset"}
    resumed = train(config.model_copy(update=changes))
    fits = torch.load(resumed.weights(2))["fits"]
    assert (fits["weights"] == 1).all() and (fits["gains"] == 1).all()


@pytest.mark.parametrize("has_labels", [True, False])
def test_fewer_images_than_true_frames_are_evaluated(tmp_path, has_labels):
    """More images than frames are needed, and the first frames are repeated to make up the number (D4)."""
    frames = bent(np.linspace(-6, 6, 7)).astype(np.float32)
    np.save(tmp_path / "truth.npy", frames)
    np.save(tmp_path / "found.npy", frames[[5, 1, 6]])
    write_template(tmp_path / "template.cif", small_template())
    (tmp_path / "labels.txt").write_text("5\n1\n6\n")
    arguments = {"predictions": tmp_path / "found.npy", "template": tmp_path / "template.cif"}
    arguments |= {"gt": tmp_path / "truth.npy", "labels": tmp_path / "labels.txt" if has_labels else None}
    summary = evaluate_files(EvaluateConfig.model_validate(arguments | {"threads": 1})).summary()
    if has_labels:  # the frames that occur, as often as they occur
        assert max(summary[key] for key in ("rmsd_mean", "rmsd_unaligned_mean", "emd_rmsd")) < 1e-3
    else:
        assert 0 < summary["emd_rmsd"] < 3


# --- losses ---------------------------------------------------------------------------------------------------------


def with_bond(length: float) -> Template:
    """A chain of C-alphas whose fifth bond is of this length; numbers have no gap."""
    atoms = helix(10, names=("CA",))
    step = atoms.positions[5] - atoms.positions[4]
    moved = atoms.positions + (np.arange(10) >= 5)[:, None] * step * (length / np.linalg.norm(step) - 1)
    return template_from_atoms(replace(atoms, positions=moved), "bonds")[0]


@pytest.mark.parametrize(("length", "is_bonded"), [(2.8, True), (3.04, True), (3.8, True), (9.0, False)])
def test_bonds_keep_the_length_they_have(folder, length, is_bonded):
    """3.8 Å for every neighbour, across breaks and for cis-prolines too, which have 2.8 to 3.1 Å (D4)."""
    template = with_bond(length)
    objective = build_objective(settings(folder), template, 2.0)
    start = torch.from_numpy(template.positions).float()
    assert template.bonded[4] == is_bonded
    moved = start.clone()
    moved[5:] += 1.5 * (start[5] - start[4]) / length
    terms = [bond_loss(x[None], objective.bond_lengths, objective.bonded).item() for x in (start, moved)]
    assert terms[0] < 1e-8 and (terms[1] > 0.1) == is_bonded


def rigidity_of(template: Template) -> Rigidity:
    return Rigidity(torch.from_numpy(template.positions), torch.from_numpy(template.chain_position), 0.25)


def test_chains_in_one_place_do_not_make_the_loss_nan():
    """0 / 0 and log 0 in losses of pairs (D3, D4); here in pairs of weight 0."""
    one = small_template().atoms
    template, _ = template_from_atoms(join(one, replace(one, chain_ids=np.full(len(one), "B"))), "twice")
    noise = np.random.default_rng(0).normal(scale=0.1, size=(2, len(template), 3))
    x = torch.from_numpy(template.positions + noise).float().requires_grad_()
    value = rigidity_of(template)(x)
    (gradient,) = torch.autograd.grad(value.sum(), x)
    assert value.isfinite().all() and gradient.isfinite().all()


def test_residues_that_meet_cost_much_but_not_infinity():
    """The log of a squared distance is -inf if two residues meet (D4); half precision and centring bring them there."""
    template = small_template()
    x = torch.from_numpy(template.positions).float()[None].clone()
    x[:, 6] = x[:, 5]
    x.requires_grad_()
    value = rigidity_of(template)(x)
    (gradient,) = torch.autograd.grad(value.sum(), x)
    assert value.isfinite().all() and value > 1 and gradient.isfinite().all()
