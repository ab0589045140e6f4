"""What `cryoatom template` shows at the end."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from rich.table import Table

from cryoatom.structure.hand import hand_of

if TYPE_CHECKING:
    from cryoatom.structure.template import Template, TemplateReport

_MAX_NAMES = 8


def template_table(title: str, result: Template, report: TemplateReport, frame: str) -> Table:
    """Return what was kept, renamed and dropped as a table."""
    table = Table("template", title)
    atoms = "C-alphas only" if result.is_alpha_only else f"{len(result.atoms)} heavy atoms"
    table.add_row("residues", f"{len(result)} ({atoms})")
    table.add_row("chains", ", ".join(f"{chain} ({n})" for chain, n in Counter(result.chain_ids.tolist()).items()))
    table.add_row("hand", str(hand_of(result)))
    table.add_row("mean B factor or pLDDT", f"{result.confidence.mean():.1f}")
    table.add_row("frame", frame)
    table.add_row("chain breaks", "\n".join(report.breaks) or "none")
    table.add_row("renamed", _names(report.renamed) or "none")
    for kind, names in report.dropped.items():
        table.add_row(f"dropped: {kind}", f"{sum(names.values())}: {_names(names)}")
    if report.notes:
        table.add_row("notes", "\n".join(report.notes))
    return table


def _names(names: Counter[str]) -> str:
    shown = ", ".join(f"{name} ({n})" for name, n in names.most_common(_MAX_NAMES))
    return shown + ", ..." * (len(names) > _MAX_NAMES)
