"""The Python blocks of the pages run, and their links lead somewhere."""

import re

import pytest

from _helpers.pages import DOCS, blocks

PAGES = sorted(page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md"))


def relative_links(text: str) -> list[str]:
    """What the links and pictures of a page lead to, without addresses and places in the page."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    inline = re.findall(r"\]\(<?([^)>\s]+)>?(?:\s+\"[^\"]*\")?\)", text)
    named = re.findall(r"^\[[^\]]+\]: +<?([^>\s]+)", text, flags=re.MULTILINE)
    html = re.findall(r"(?:href|src)=\"([^\"]+)\"", text)
    found = [each.partition("#")[0] for each in [*inline, *named, *html]]
    return [each for each in found if each and not re.match(r"[a-z][a-z+.-]*:", each)]


def test_what_a_link_is():
    text = """[a](b.md#c) [![d](e.png)](f.png) [g](https://h) [i](#j) <img src="k.png">

[l]: ../m.md

```python
x[0](not_a_link)
```
"""
    assert relative_links(text) == ["b.md", "e.png", "f.png", "../m.md", "k.png"]


@pytest.mark.parametrize("page", PAGES)
def test_links_stay_inside_the_site_and_lead_somewhere(page: str):
    """As mkdocs asks in strict mode; a file of the repository that is not in docs/ is no page."""
    for target in relative_links((DOCS / page).read_text(encoding="utf-8")):
        file = ((DOCS / page).parent / target).resolve()
        assert file.is_relative_to(DOCS.resolve()), f"{target} is outside docs/"
        # The page of the tutorial is made of its notebook.
        made = file.with_suffix(".ipynb") if file.name == "tutorial.md" else file
        assert made.is_file(), f"{target} does not exist"


@pytest.mark.parametrize("number", range(2))
def test_blocks(number):
    given = blocks("large.md", "python")
    assert len(given) == 2
    names = {}
    exec(given[number], names)
    assert names["space"].approximation is not None


QUESTIONS = blocks("questions.md", "python")


@pytest.mark.parametrize("number", range(len(QUESTIONS)))
def test_blocks_of_the_questions(number, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(QUESTIONS[number], {})
