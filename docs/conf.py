"""Sphinx configuration."""

from importlib.metadata import version as installed_version

import click
from docutils import nodes
from docutils.parsers.rst import Directive
from sphinx.application import Sphinx

from cryoatom.cli.main import cli

project = "cryoatom"
author = "cryoatom developers"
copyright = "2026, cryoatom developers"
version = release = installed_version("cryoatom")

extensions = ["myst_parser", "sphinx.ext.mathjax"]
myst_enable_extensions = ["amsmath", "deflist", "dollarmath"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = f"cryoatom {release}"


class CommandHelp(Directive):
    """A section for each command, holding its --help as the terminal shows it."""

    def run(self) -> list[nodes.Node]:
        group = click.Context(cli, info_name="cryoatom", terminal_width=100)
        return [self.section(name, group) for name in cli.list_commands(group)]

    @staticmethod
    def section(name: str, group: click.Context) -> nodes.section:
        command = cli.get_command(group, name)
        assert command is not None
        text = click.Context(command, info_name=name, parent=group, terminal_width=100).get_help()
        title = nodes.title(text=f"cryoatom {name}")
        return nodes.section("", title, nodes.literal_block(text, text, language="text"), ids=[f"cryoatom-{name}"])


def setup(app: Sphinx) -> None:
    app.add_directive("command-help", CommandHelp)
