import json
from pathlib import Path

import numpy as np
from click.testing import CliRunner

from cryoatom.cli.main import cli


def test_the_demo_runs_every_command_on_a_small_scale(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["demo", "--images-per-frame", "3", "--num-epochs", "1"]
    result = CliRunner().invoke(cli, words)
    assert result.exit_code == 0, result.output
    for command in ("simulate", "template", "graph", "train", "eval"):
        assert f"$ cryoatom {command} " in result.output
    run = Path("cryoatom_demo/run")
    assert np.load(run / "conformations.npy", mmap_mode="r").shape == (75, 214, 3)
    summary = json.loads((run / "eval/summary.json").read_text())
    assert f"{summary['rmsd_mean']:.2f} Å" in result.stdout
    assert list((run / "eval").glob("*.png"))

    again = CliRunner().invoke(cli, words)
    assert again.exit_code == 1
    assert "--overwrite" in again.stderr
