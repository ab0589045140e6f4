import logging
import shlex
import signal
import subprocess
import sys
import time
from io import StringIO
from pathlib import Path
from typing import Literal

import click
import pytest
from children import default_signals
from click.testing import CliRunner, Result
from rich.console import Console

from cryoatom import __version__
from cryoatom.cli import main
from cryoatom.cli.log import add_run_log, console_log
from cryoatom.cli.options import settings_options
from cryoatom.cli.progress import PlainLines, progress
from cryoatom.config import Settings, setting

HEAVY = {"torch", "torch_geometric", "scipy", "gemmi", "matplotlib", "starfile", "pandas"}


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main.cli, arguments, prog_name="cryoatom")


@pytest.fixture
def failing(monkeypatch):
    """Add a command `fail` that raises what the test puts into the returned list."""
    errors: list[BaseException] = []

    @click.command()
    @click.option("--log", type=click.Path(path_type=Path))
    def fail(log: Path | None) -> None:
        if log:
            add_run_log(log)
        logging.getLogger("cryoatom.files.star").warning("the optics table is empty")
        raise errors[0]

    monkeypatch.setattr(main, "fail", fail, raising=False)
    monkeypatch.setitem(main.COMMANDS, "fail", "cryoatom.cli.main:fail")
    return errors


def test_help_lists_every_command_and_imports_nothing_heavy():
    code = "import sys\nfrom cryoatom.cli.main import cli\ncli(['--help'], standalone_mode=False)\nprint(*sys.modules)"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    *_, modules = output.splitlines()
    assert not HEAVY & set(modules.split())
    for command in main.COMMANDS:
        assert f"\n  {command} " in output


@pytest.mark.parametrize("command", main.COMMANDS)
def test_every_command_has_help_with_an_example(command):
    result = run(command, "--help")
    assert result.exit_code == 0, result.output
    assert f"cryoatom {command}" in result.output.split("Usage:", 1)[1].split("\n", 1)[1]
    assert r"\b" not in result.output, "click wants a backspace: no raw docstring"


def examples() -> list[str]:
    """Return the command lines that help texts, the README and the documentation show."""
    root = Path(__file__).parents[1]
    texts = [page.read_text() for page in (root / "README.md", *sorted((root / "docs").glob("*.md")))]
    texts += [run(command, "--help").output for command in main.COMMANDS]
    lines = [line.strip().partition("  #")[0] for text in texts for line in text.splitlines()]
    return sorted({line for line in lines if line.startswith("cryoatom ") and line.split()[1] in main.COMMANDS})


def test_every_example_is_a_command_line_that_can_be_parsed():
    lines = examples()
    assert len(lines) > 10
    context = click.Context(main.cli)
    for line in lines:
        _, name, *arguments = shlex.split(line)
        command = main.cli.get_command(context, name)
        assert command is not None
        command.make_context(name, arguments)  # raises for an unknown option or a value that is none


def test_no_arguments_print_the_help():
    assert run().output == run("--help").output
    assert run().exit_code == 0


def test_version_says_what_it_runs_on():
    assert run("--version").output == f"cryoatom {__version__}\n"
    verbose = run("--version", "-v").output
    assert verbose == run("-v", "--version").output
    assert all(word in verbose for word in ("torch 2", "CUDA", "cores"))


def test_a_misspelt_command_or_option_gets_a_suggestion():
    command = run("trian")
    assert command.exit_code == 2
    assert "Did you mean 'train'?" in command.stderr
    option = run("--debgu")
    assert option.exit_code == 2
    assert "--debug" in option.stderr


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("p.star has no rows"), "Error: p.star has no rows"),
        (FileNotFoundError("no file p.star"), "Error: no file p.star"),
        (OSError(28, "No space left on device", "run/z.npy"), "Error: No space left on device: run/z.npy"),
        (OSError(5, "Input/output error"), "Error: Input/output error"),
    ],
)
def test_an_error_is_one_line_and_a_failure(failing, error, line):
    failing.append(error)
    result = run("fail")
    assert result.exit_code == 1
    assert result.stderr.splitlines() == ["Warning: the optics table is empty", line]


def test_a_bug_is_one_line_that_says_so(failing):
    failing.append(RuntimeError("shape (3)\nC++ trace"))
    result = run("fail")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].startswith("Error: unexpected RuntimeError: shape (3) (`cryoatom --debug")


def test_debug_prints_the_traceback(failing):
    failing.append(ValueError("p.star has no rows"))
    assert "Traceback" not in run("fail").stderr
    assert "Traceback" in run("--debug", "fail").stderr


def test_the_traceback_is_appended_to_the_run_log(failing, tmp_path):
    failing.append(ValueError("p.star has no rows"))
    log = tmp_path / "run.log"
    log.write_text("an earlier run\n")
    assert "Traceback" not in run("fail", "--log", str(log)).stderr
    text = log.read_text()
    assert text.startswith("an earlier run\n")
    assert "Traceback" in text and "ValueError: p.star has no rows" in text and "the optics table is empty" in text


def test_bad_input_leaves_no_run_folder_behind(failing, tmp_path):
    failing.append(ValueError("p.star has no rows"))
    result = run("fail", "--log", str(tmp_path / "run" / "run.log"))
    assert result.stderr.splitlines()[-1] == "Error: p.star has no rows"
    assert not list(tmp_path.iterdir())


def test_the_run_log_begins_with_what_was_said_before_the_folder_existed(tmp_path):
    logger = logging.getLogger("cryoatom")
    with console_log(verbose=False, debug=False):
        add_run_log(tmp_path / "run" / "run.log")
        logger.info("reading")
        (tmp_path / "run").mkdir()
        logger.info("training")
        with progress(1, "Training", console=Console(file=StringIO())) as advance:
            advance(1, "epoch 1: fine")
    started, *lines = (tmp_path / "run" / "run.log").read_text().splitlines()
    assert f"cryoatom {__version__}: " in started
    assert [line.split(": ", 1)[1] for line in lines] == ["reading", "training", "Training: epoch 1: fine"]


def test_a_full_disk_does_not_hide_the_error(failing, tmp_path):
    failing.append(OSError(28, "No space left on device"))
    (tmp_path / "run.log").mkdir()  # cannot be opened for writing
    result = run("fail", "--log", str(tmp_path / "run.log"))
    assert result.stderr.splitlines() == [
        "Warning: the optics table is empty",
        "Error: No space left on device",
    ]


def test_logging_is_as_before_after_a_command(failing):
    failing.append(ValueError("no"))
    logger = logging.getLogger("cryoatom")
    before = (logger.level, list(logger.handlers))
    run("fail")
    assert (logger.level, list(logger.handlers)) == before


def test_an_interrupt_is_clean():
    code = "import click, time\nfrom cryoatom.cli import main\n"
    code += "@click.command()\ndef wait():\n    print('ready', flush=True)\n    time.sleep(60)\n"
    code += "main.wait = wait\nmain.COMMANDS['wait'] = 'cryoatom.cli.main:wait'\nmain.main()"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen([sys.executable, "-c", code, "wait"], preexec_fn=default_signals, **pipes)
    assert process.stdout is not None and process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=20)
    assert process.returncode == main.INTERRUPTED
    assert stderr == b"Error: interrupted\n"


class Cake(Settings):
    """Settings with one field of each kind."""

    recipe: Path = setting(..., "What to bake.", argument=True)
    layers: int = setting(3, "Layers.", flags=("-l", "--layers"), ge=1, le=9)
    sugar: float = setting(0.5, "Sugar.", gt=0)
    kind: Literal["plain", "nut"] = setting("plain", "Kind.")
    icing: bool = setting(True, "Icing.")
    range_cm: tuple[float, float] = setting((1.0, 2.0), "Height.")
    toppings: tuple[str, ...] = setting((), "Toppings.")
    note: Literal["none"] | int | None = setting(None, "Note.", union_mode="left_to_right")


@click.command()
@settings_options(Cake)
@click.option("--loud", is_flag=True)
def bake(cake: Cake, loud: bool) -> None:
    click.echo(f"{cake.model_dump(mode='json')} {loud}")


def baked(*arguments: str) -> Result:
    return CliRunner().invoke(bake, arguments)


def test_each_field_becomes_an_option():
    words = "r.txt -l 4 --sugar 1e-3 --kind nut --no-icing --range-cm 2 3 --toppings a --toppings b --note 7 --loud"
    assert baked(*words.split()).output == (
        "{'recipe': 'r.txt', 'layers': 4, 'sugar': 0.001, 'kind': 'nut', 'icing': False, "
        "'range_cm': [2.0, 3.0], 'toppings': ['a', 'b'], 'note': 7} True\n"
    )


def test_without_options_the_defaults_hold():
    expected = Cake(recipe=Path("r.txt")).model_dump(mode="json")
    assert baked("r.txt").output == f"{expected} False\n"


def test_help_shows_defaults_bounds_and_choices():
    text = " ".join(baked("--help").output.split())
    for words in (
        "-l, --layers INTEGER",
        "[default: 3; 1<=x<=9]",
        "[plain|nut]",
        "--icing / --no-icing",
        "[default: 0.5; x>0]",
    ):
        assert words in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [("r.txt -l 0", "0 is not in the range"), ("r.txt --kind nuts", "'plain', 'nut'"), ("r.txt --layer 3", "--layers")],
)
def test_a_bad_option_is_a_usage_error(arguments, words):
    result = baked(*arguments.split())
    assert result.exit_code == 2
    assert words in result.stderr


def test_a_flag_equal_to_the_default_still_beats_the_file(tmp_path):
    config = tmp_path / "cake.yaml"
    config.write_text("recipe: r.txt\nlayers: 5\nkind: nut\n")
    assert "'layers': 3, 'sugar': 0.5, 'kind': 'nut'" in baked("--config", str(config), "--layers", "3").output


def test_plain_progress_has_a_line_for_news_for_silence_and_for_the_end():
    lines: list[str] = []
    now = [0.0]
    report = PlainLines(1000, "training", unit="images", write=lines.append, seconds=30, clock=lambda: now[0])
    for second, done, note in [(1, 10, ""), (10, 250, "epoch 1"), (20, 300, "epoch 1"), (45, 500, ""), (90, 1000, "")]:
        now[0] = second
        report(done, note)
    assert [line.split(" ", 2)[2] for line in lines] == [
        "training 250/1,000 images (25%) elapsed 0:00:10 ETA 0:00:30  epoch 1",
        "training 500/1,000 images (50%) elapsed 0:00:45 ETA 0:00:45",
        "training 1,000/1,000 images (100%) elapsed 0:01:30 ETA 0:00:00",
    ]
    time.strptime(" ".join(lines[0].split(" ")[:2]), "%Y-%m-%d %H:%M:%S")


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_is_a_bar_on_a_terminal_and_lines_elsewhere(terminal):
    stream = StringIO()
    console = Console(file=stream, force_terminal=terminal, width=120, _environ={"TERM": "xterm"})
    with progress(4, "simulating", console=console) as advance:
        for done in range(1, 5):
            advance(done)
    text = stream.getvalue()
    assert "simulating" in text and "ETA" in text
    assert ("\x1b[" in text) == terminal
    assert len(text.splitlines()) == 1 or terminal
