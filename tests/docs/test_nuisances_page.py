"""docs/guides/nuisances.md: its commands run, its tables are those of what was measured."""

import csv
import json
from pathlib import Path

import pytest

from _helpers.pages import DOCS, ROOT, blocks, environment, shell
from benchmarks.nuisances import MARKS, NAMES, markdown, write_page
from monai_ifim.questions.nuisances import KINDS

PAGE = DOCS / "guides" / "nuisances.md"
MEASURED = json.loads((DOCS / "nuisances" / "measured.json").read_text())


def test_the_tables_are_those_of_the_file(tmp_path: Path):
    text = PAGE.read_text("utf-8")
    assert f"{MARKS[0]}\n{markdown(MEASURED)}\n{MARKS[1]}" in text
    copy = tmp_path / "page.md"
    copy.write_text(text)
    write_page(MEASURED, copy)
    assert copy.read_text() == text


def test_every_nuisance_is_named():
    assert list(NAMES) == list(KINDS)
    text = PAGE.read_text("utf-8")
    for name in KINDS:
        assert f"| `{name}` |" in text
    assert set(MEASURED["bundles"]) == {"ifim_hippocampus_3d", "ifim_mednist_2d"}


@pytest.mark.slow
def test_commands(tmp_path: Path):
    (tmp_path / "bundles").symlink_to(ROOT / "bundles")
    (text,) = blocks("guides/nuisances.md", "bash")
    shell(text, tmp_path, environment(tmp_path))
    with (tmp_path / "results" / "ifim.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4
    assert all("nuisance_gamma_flip" in row for row in rows)
    pages = list((tmp_path / "results" / "report" / "cases").glob("*.html"))
    assert all("What the prediction tolerates" in page.read_text() for page in pages)
