"""How tests read what a run leaves."""

import csv

from cryoatom.run_folder import RunFolder


def read_metrics(folder: RunFolder) -> list[dict[str, float]]:
    """Return the rows of metrics.csv; an empty cell is a term that the row lacks."""
    with folder.metrics.open(newline="", encoding="utf-8") as file:
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]
