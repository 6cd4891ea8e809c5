"""The table that a run leaves."""

import csv


def read_table(folder, name="ifim.csv"):
    """The table's rows; no partial file may lie beside it."""
    assert not list(folder.glob(".partial*"))
    with (folder / name).open(newline="") as file:
        return list(csv.DictReader(file))
