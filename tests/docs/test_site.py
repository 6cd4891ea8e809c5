"""The site builds without a warning and without a network, and its pages ask no other host."""

import ast
import importlib.util
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

import monai_ifim
from _helpers.browser import chromium
from _helpers.pages import DOCS, ROOT

HOOKS = DOCS / "hooks"
NOT_PAGES = {"tutorial.md"}  # made from the notebook


def hook(name: str):
    spec = importlib.util.spec_from_file_location(f"docs_{name}", HOOKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def errors():
    return hook("errors")


def navigation() -> str:
    return (ROOT / "mkdocs.yml").read_text().partition("\nnav:")[2]


def test_every_page_is_in_the_navigation():
    listed = set(re.findall(r"[\w/]+\.md", navigation()))
    assert listed == {p.relative_to(DOCS).as_posix() for p in DOCS.rglob("*.md")} | NOT_PAGES


def test_what_the_tutorial_writes_is_no_part_of_the_site():
    """Its images and results lie in docs/tutorial/, which git ignores as well."""
    assert "docs/tutorial/" in (ROOT / ".gitignore").read_text().splitlines()
    excluded = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["exclude_docs"].splitlines()
    assert "/tutorial/" in excluded


def test_every_public_name_is_in_the_reference():
    named: dict[str, object] = {}
    for page in (DOCS / "reference").glob("*.md"):
        for path in re.findall(r"^::: (\S+)$", page.read_text(), re.M):
            module, _, name = path.rpartition(".")
            named[name] = getattr(importlib.import_module(module), name)
    objects = {id(each) for each in named.values()}
    missing = {n for n in monai_ifim.__all__ if id(getattr(monai_ifim, n)) not in objects}
    assert missing == set()
    assert len(named) == len(monai_ifim.__all__)


def test_every_message_is_on_the_page(errors):
    """Every text that a ``raise`` of the package has, whatever its type, and in a topic."""
    page = errors.markdown()
    missing, count = [], 0
    for path in sorted(errors.PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        named = errors.named_texts(tree)
        for node in ast.walk(tree):
            if not (isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)):
                continue
            kind = ast.unparse(node.exc.func).rpartition(".")[2]
            if kind in errors.INTERNAL or not node.exc.args:
                continue
            text = errors.text_of(node.exc.args[0], named)
            if text is None:
                continue
            count += 1
            wrong, fix = errors.split(text)
            words = [re.search(r"[a-z]{3}", part) for part in (wrong, fix)]
            if errors.as_text(wrong) not in page or None in words:
                missing.append((path.name, node.lineno, text))
    assert count > 300
    assert missing == []


def test_no_entry_is_without_words(errors):
    """A line such as "Fix: …" or "expected …, got …" tells a reader nothing."""
    lines = [line for line in errors.markdown().splitlines() if line and line[0] != "#"]
    wrong = [line.removeprefix("- ") for line in lines if line.startswith("- ")]
    fixes = [line.partition("**Fix:**")[2] for line in lines if "**Fix:**" in line]
    assert len(wrong) == len(fixes) == len(lines) / 2
    idle = re.compile(r"\b(expected|got|in|from|of|as|a|an|the|one|or|and|none|nothing|neither)\b")
    assert [text for text in wrong if not re.search(r"[a-z]{2}", idle.sub("", text), re.I)] == []
    assert [text for text in fixes if not re.search(r"[a-z]{3}", text, re.I)] == []


@pytest.mark.parametrize(
    "source",
    [
        'raise ValueError(f"expected {a}, got {b}; give another one")',
        'raise ValueError(f"expected a number, got {b}; {fix}")',
        'raise ValueError(f"{a}: {b}")',
    ],
)
def test_a_message_without_words_ends_the_build(errors, source: str, monkeypatch):
    monkeypatch.setattr(errors, "messages", lambda: list(errors.messages_of(source, "core/a.py")))
    with pytest.raises(ValueError, match=r"a sentence and its fix in core/a\.py, line 1"):
        errors.markdown()


def test_constants_and_functions_stand_for_their_texts(errors):
    source = """
_HOW = "save it in " "grey"
def check(name):
    ways = "move it"
    ways_of = 3 * "a"
    if name:
        raise ValueError(f"expected a, got {name}; {_HOW}")
    elif _by_list(name):
        raise ValueError(f"expected {_HOW!r}, got b; {ways}")
    raise ValueError("expected c, got d; " + _by_list(name) + _twice + ways_of)
def _by_list(name):
    return f"run it on {name}"
_twice = "x"
_twice = "y"
"""
    found = errors.messages_of(source, "core/a.py")
    assert [message.text for message in sorted(found, key=lambda message: message.line)] == [
        "expected a, got …; save it in grey",
        "expected 'save it in grey', got b; move it",
        "expected c, got d; run it on ………",
    ]


@pytest.mark.parametrize(
    ("text", "wrong", "fix"),
    [
        ("expected a, got b; give a", "expected a, got b", "give a"),
        ("expected a, got b: is it c? Take d", "expected a, got b: is it c?", "Take d"),
        ("expected a folder, got …", "expected a folder, got …", "give a folder"),
        ("this failed", "this failed", ""),
    ],
)
def test_what_went_wrong_and_the_fix(errors, text: str, wrong: str, fix: str):
    assert errors.split(text) == (wrong, fix)


def test_angles_between_trainings_are_those_of_the_results():
    rows = re.findall(r"^\| .*\d° \[.*\|$", (DOCS / "components.md").read_text(), re.M)
    found = re.findall(
        r"differ in the seed have eigenspaces (.*?) apart", (DOCS / "results_single.md").read_text()
    )
    angle = re.compile(r"[\d.]+° \[[\d.]+°, [\d.]+°\]")
    assert len(rows) == len(found) > 5
    assert sorted(a for row in rows for a in angle.findall(row)) == sorted(
        a for text in found for a in angle.findall(text)
    )


class Loaded(HTMLParser):
    """Addresses that a page loads by itself: scripts, styles, fonts, pictures, frames."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        loads = tag in ("script", "img", "iframe", "source", "video", "audio", "embed")
        if loads and given.get("src"):
            self.addresses.append(given["src"])
        if tag == "link" and given.get("rel") not in ("canonical", "next", "prev", "alternate"):
            self.addresses.append(given.get("href") or "")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for package in ("mkdocs", "material", "mkdocstrings"):
        pytest.importorskip(package, reason="the extra docs is not installed")
    folder = tmp_path_factory.mktemp("site") / "site"
    # A proxy that does not answer: a build that asks for anything fails.
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "all_proxy"), "http://127.0.0.1:9")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env=os.environ | nowhere | {"PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.slow
def test_nothing_is_loaded_from_elsewhere(site: Path):
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        parser = Loaded()
        parser.feed(page.read_text(encoding="utf-8"))
        theirs = [a for a in parser.addresses if re.match(r"(https?:)?//", a)]
        assert theirs == [], page.name
    for style in site.rglob("*.css"):
        assert not re.search(r"url\(\s*['\"]?(https?:)?//|@import", style.read_text("utf-8"))


@pytest.mark.slow
def test_messages_tutorial_and_names_are_there(site: Path):
    assert "add the missing axes" in (site / "errors.html").read_text(encoding="utf-8")
    assert "data:image/png;base64" in (site / "tutorial.html").read_text(encoding="utf-8")
    reference = "".join(p.read_text(encoding="utf-8") for p in (site / "reference").glob("*.html"))
    for name in monai_ifim.__all__:
        assert re.search(rf'<h3 id="[\w.]+"[^>]*>(?:(?!</h3>).)*\b{name}\b', reference, re.S), name


@pytest.mark.slow
def test_pages_in_a_browser(site: Path):
    """No error, no request to a host, nothing wider than a telephone's screen."""
    faults: list[str] = []
    with chromium() as browser:
        for width in (1280, 390):
            page = browser.new_page(viewport={"width": width, "height": 900})
            page.on("console", lambda m: faults.append(m.text) if m.type == "error" else None)
            page.on("pageerror", lambda error: faults.append(str(error)))
            page.on("request", lambda r: r.url.startswith("http") and faults.append(r.url))
            # 404.html is for a server: its addresses begin at the root.
            for path in sorted({*site.rglob("*.html")} - {site / "404.html"}):
                page.goto(path.as_uri())
                wide = page.evaluate("document.documentElement.scrollWidth")
                if wide > width:
                    faults.append(f"{path.name} is {wide} wide at {width}")
            page.close()
    assert faults == []
