"""The house rules that a program can check: layers, sizes, and who may print."""

import ast
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import cryoatom

ROOT = Path(__file__).parents[1]
SOURCES = {p.relative_to(ROOT): p.read_text() for p in sorted(Path(cryoatom.__file__).parent.rglob("*.py"))}
LIBRARY = {module: ast.parse(text) for module, text in SOURCES.items() if "cli" not in module.parts}


def test_imports_follow_the_layers():
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True, no_logo=True))"
    report = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert report.returncode == 0, report.stdout


def test_modules_are_short():
    assert not [module for module, text in SOURCES.items() if len(text.splitlines()) > 400]


def test_modules_start_by_saying_what_they_are():
    assert not [module for module, text in SOURCES.items() if not ast.get_docstring(ast.parse(text))]


def test_commands_have_at_most_80_lines():
    commands = {module: text for module, text in SOURCES.items() if "@click.command" in text}
    assert commands
    assert not [module for module, text in commands.items() if len(text.splitlines()) > 80]


def test_the_library_never_prints():
    calls = [(m, node) for m, tree in LIBRARY.items() for node in ast.walk(tree) if isinstance(node, ast.Call)]
    assert not [(module, node.lineno) for module, node in calls if getattr(node.func, "id", "") == "print"]


def test_no_error_is_swallowed():
    handlers = [(m, n) for m, tree in LIBRARY.items() for n in ast.walk(tree) if isinstance(n, ast.ExceptHandler)]
    assert not [(module, handler.lineno) for module, handler in handlers if handler.type is None]


def test_no_module_has_a_name_that_says_nothing():
    assert not {module.stem for module in SOURCES} & {"utils", "util", "helpers", "misc", "common", "tools"}


def test_the_program_is_installed():
    (program,) = entry_points(group="console_scripts", name="cryoatom")
    assert program.value == "cryoatom.cli.main:main"
