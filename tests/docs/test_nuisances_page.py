"""docs/guides/nuisances.md: its commands run, its tables are those of what was measured."""

import csv
import json
from pathlib import Path

import pytest

from _helpers.pages import DOCS, ROOT, blocks, environment, shell
from benchmarks.nuisances import MARKS, NAMES, markdown, summary, write_page
from monai_ifim.data.tables import write_table
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


def test_a_run_in_numbers(tmp_path: Path):
    """Twenty images: those with the smaller amounts by the law reach the level, but for one."""
    known = {"reach": 10.0, "unit": "%", "one_sided": False}
    questions = [{"ranges": {"gain": known}}]
    record = {"identity": {"settings": {"questions": questions}}}
    (tmp_path / "run.json").write_text(json.dumps(record))
    rows = [
        {
            "file": f"{i}.png",
            "nuisance_gain": -0.5 * (i + 1) if i < 9 or i == 19 else None,
            "nuisance_gain_law": float(i + 1),
            "nuisance_gain_flip": 9.0 if i == 0 else None,
            "status": "ok",
        }
        for i in range(20)
    ]
    rows.append({"file": "broken.png", "status": "failed: unreadable"})
    write_table(rows, tmp_path / "ifim.csv")
    (line,) = summary(tmp_path)
    assert line["images"] == 20
    assert line["reached"] == 0.5
    assert line["changed"] == 0.05
    assert line["ratio"] == [0.5, 0.5, 0.5]
    assert line["measured"][1] == 2.75
    assert line["auc"] == 0.9
