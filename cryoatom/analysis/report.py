"""The report page: one file that holds its data, its scripts and its libraries, and opens without a network."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Iterable
from html import escape
from importlib import resources
from pathlib import Path

from matplotlib import rc_context

from cryoatom.analysis.report_data import Check, Plot, ReportData
from cryoatom.analysis.report_payload import grey_limit, payload
from cryoatom.files.replacing import replacing
from cryoatom.plotting import STYLE

SCRIPTS = ("data.js", "colour.js", "molecule.js", "superpose.js", "viewer.js", "scatter.js", "sections.js", "report.js")
SECTIONS = {
    "explore": "Explore",
    "motions": "Motions",
    "images": "Images",
    "trust": "Trust",
    "plots": "Plots",
    "about": "About this run",
}
VERDICTS = {"good": "✓ good", "look": "! look closer", "bad": "✗ bad", "": "– for information"}
_HEADLINE = ("images", "residues", "epochs", "time")
_DPI = 130
_PIXELS_PER_INCH = 70  # on the screen, at least: letters of plots side by side are of one size
_PLACE = re.compile(r"{{(\w+)}}")
_CODE = re.compile(r"`([^`]+)`")


def write_report(path: Path, data: ReportData) -> None:
    """Write the report page, whole or not at all.

    Conformations are stored as amplitudes of 16 bits, by which no residue moves by more than 0.02 Å; places in maps,
    and colours, by 65,535 levels.

    Parameters
    ----------
    path
        An .html file.
    data
        What it shows.
    """
    parts = _parts(data)
    page = _PLACE.sub(lambda place: parts[place[1]], _read("template.html"))
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _parts(data: ReportData) -> dict[str, str]:
    """Return what belongs into each {{place}} of the template, as HTML."""
    limit = f"{grey_limit(data.pictures):g}"
    trust = [plot for plot in data.plots if plot.section.lower() == "trust"]
    others = [plot for plot in data.plots if plot.section.lower() != "trust"]
    is_empty = {"motions": not data.series, "images": not data.pictures, "plots": not others}
    return {
        "title": escape(data.title),
        "style": _read("report.css"),
        "headline": _headline(data.facts),
        "notes": _notes(data.notes),
        "links": _links(name for name in SECTIONS if not is_empty.get(name)),
        "accuracy": _accuracy(data.motions.error, len(data.motions)),
        "no_motions": "hidden" if is_empty["motions"] else "",
        "no_images": "hidden" if is_empty["images"] else "",
        "no_plots": "hidden" if is_empty["plots"] else "",
        "black": f"−{limit}",
        "white": f"+{limit}",
        "checks": _checks(data.checks),
        "trust_plots": _plots(trust),
        "plots": _plots_by_section(others),
        "facts": _facts(data.facts),
        "licences": escape("\n".join(f"{name}\n\n{_read(f'vendor/{name}-LICENSE')}" for name in ("plotly", "3Dmol"))),
        "plotly": _script(_read("vendor/plotly-gl2d.min.js")),
        "viewer_library": _script(_read("vendor/3Dmol-min.js")),
        "payload": _json(payload(data)),
        "script": _script("\n".join(_read(name) for name in SCRIPTS)),
    }


def _read(name: str) -> str:
    folder = resources.files("cryoatom.analysis") / "report_page"
    return folder.joinpath(*name.split("/")).read_text(encoding="utf-8")


def _script(text: str) -> str:
    """Keep a script from ending its element: inside of strings and patterns <\\/ means </."""
    return re.sub(r"</(script)", r"<\\/\1", text, flags=re.IGNORECASE).replace("<!--", r"<\!--")


def _json(value: object) -> str:
    """Return JSON that no parser of HTML can take for anything but text."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("&", r"\u0026").replace("<", r"\u003c").replace(">", r"\u003e")


def _prose(text: str) -> str:
    """Return text as HTML, what stands between backticks as code."""
    return _CODE.sub(r"<code>\1</code>", escape(text))


def _headline(facts: dict[str, str]) -> str:
    chosen = [(name, facts[name]) for name in facts if name.lower() in _HEADLINE]
    rows = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in chosen)
    return f'<dl class="headline">{rows}</dl>' if rows else ""


def _notes(notes: tuple[str, ...]) -> str:
    items = "".join(f"<li>{_prose(note)}</li>" for note in notes)
    return f'<ul class="notes" aria-label="Look at this first">{items}</ul>' if items else ""


def _links(names: Iterable[str]) -> str:
    return "".join(f'<a href="#{name}">{SECTIONS[name]}</a>' for name in names)


def _accuracy(error: float, count: int) -> str:
    return (
        f"Conformations of images are superposed on the mean structure and drawn from {count} principal motions: so a "
        f"C-alpha lies {error:.2f} Å (root mean square) from where the superposed conformation of the run has it. "
        "Motions and clusters are drawn as the decoder has them, without superposition."
    )


def _checks(checks: tuple[Check, ...]) -> str:
    if not checks:
        return '<p class="hint">Nothing was checked.</p>'
    heads = "".join(f'<th scope="col">{head}</th>' for head in ("Check", "Verdict", "Found", "Compare with", "Meaning"))
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(map(_check, checks))}</tbody></table>"


def _check(check: Check) -> str:
    badge = f'<span class="badge {check.verdict or "told"}">{VERDICTS[check.verdict]}</span>'
    cells = "".join(f"<td>{_prose(text)}</td>" for text in (check.value, check.reference, check.meaning))
    return f'<tr><th scope="row">{escape(check.name)}</th><td class="verdict">{badge}</td>{cells}</tr>'


def _plots(plots: list[Plot]) -> str:
    return f'<div class="plots">{"".join(map(_plot, plots))}</div>' if plots else ""


def _plots_by_section(plots: list[Plot]) -> str:
    sections = list(dict.fromkeys(plot.section for plot in plots))
    groups = ([plot for plot in plots if plot.section == section] for section in sections)
    heads = (f'<h3 class="group">{escape(section.capitalize())}</h3>' for section in sections)
    return "".join(head + _plots(group) for head, group in zip(heads, groups, strict=True))


def _plot(plot: Plot) -> str:
    image = io.BytesIO()
    with rc_context(STYLE):
        plot.figure.savefig(image, format="png", dpi=_DPI)
    source = base64.b64encode(image.getvalue()).decode("ascii")
    title, caption = escape(plot.title), _prose(plot.caption)
    width = _PIXELS_PER_INCH * plot.figure.get_figwidth()
    return (
        f'<figure class="card" style="--width: {width:.0f}px; --share: {width:.0f}"><h3>{title}</h3>'
        f'<img alt="{title}" src="data:image/png;base64,{source}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _facts(facts: dict[str, str]) -> str:
    rows = []
    for name, value in facts.items():
        text = f"<code>{escape(value)}</code>" if name.lower() == "command" else escape(value)
        rows.append(f"<dt>{escape(name)}</dt><dd>{text}</dd>")
    return f'<dl class="facts">{"".join(rows)}</dl>'
