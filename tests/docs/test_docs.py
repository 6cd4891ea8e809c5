"""The Python blocks of the pages run, and their links lead somewhere."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
PAGES = ("large.md", "scaling.md", "performance.md", "sources.md", "questions.md")


@pytest.mark.parametrize("page", PAGES)
def test_links(page):
    targets = re.findall(r"\]\(([^)#]+)\)", (DOCS / page).read_text())
    assert not [t for t in targets if "://" not in t and not (DOCS / t).exists()]


@pytest.mark.parametrize("number", range(2))
def test_blocks(number):
    blocks = re.findall(r"^```python\n(.*?)^```", (DOCS / "large.md").read_text(), re.M | re.S)
    assert len(blocks) == 2
    names = {}
    exec(blocks[number], names)
    assert names["space"].approximation is not None


QUESTIONS = re.findall(r"^```python\n(.*?)^```", (DOCS / "questions.md").read_text(), re.M | re.S)


@pytest.mark.parametrize("number", range(len(QUESTIONS)))
def test_blocks_of_the_questions(number, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(QUESTIONS[number], {})
