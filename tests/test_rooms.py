"""Small rooms: short files, short functions, few files in a folder; tests share only _helpers.

A function that has a reason to be longer, or to take more arguments, says so in a comment between
its ``def`` and its body: ``# long: reason`` or ``# noqa: PLR0913 - reason``.
"""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = sorted((ROOT / "monai_ifim").rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
SOURCES = [*PACKAGE, *TESTS, *sorted((ROOT / "benchmarks").glob("*.py"))]
LINES, FILES, BODY, ARGUMENTS = 400, 12, 50, 8
REASON = re.compile(r"# (long:|noqa: PLR0913)\W*\w.{9,}")


def name_of(path):
    return path.relative_to(ROOT).as_posix()


def functions(tree, prefix=""):
    """Every function with its dotted name, those inside others too."""
    for node in ast.iter_child_nodes(tree):
        inner = prefix
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            inner = f"{prefix}{node.name}."
            if not isinstance(node, ast.ClassDef):
                yield inner.removesuffix("."), node
        yield from functions(node, inner)


def body_start(function):
    """Line of the first statement that is no docstring; None where there is none."""
    rest = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return rest[0].lineno if rest else None


def length(function):
    """Lines of the body without its docstring."""
    start = body_start(function)
    return 0 if start is None else function.end_lineno - start + 1


def arguments(function):
    """How many arguments a function names besides ``self`` and ``cls``."""
    spec = function.args
    named = [*spec.posonlyargs, *spec.args, *spec.kwonlyargs]
    return sum(each.arg not in ("self", "cls") for each in named)


def exceeding(source, measure, limit):
    """Names of functions beyond a limit that give no reason for it."""
    lines = source.splitlines()
    for name, function in functions(ast.parse(source)):
        if measure(function) > limit:
            head = lines[function.lineno - 1 : body_start(function) or function.end_lineno]
            if not any(REASON.search(line) for line in head):
                yield name


def exceeding_in_package(measure, limit):
    return {
        f"{name_of(path)}:{name}"
        for path in PACKAGE
        for name in exceeding(path.read_text(encoding="utf-8"), measure, limit)
    }


def test_no_long_file():
    long = {name_of(p) for p in SOURCES if len(p.read_text("utf-8").splitlines()) > LINES}
    assert long == set()


def test_no_crowded_folder():
    folders = {path.parent for path in PACKAGE}
    own = {name_of(folder): set(folder.glob("*.py")) for folder in folders}
    count = {name: len({f for f in files if f.stem != "__init__"}) for name, files in own.items()}
    assert {name: n for name, n in count.items() if n > FILES} == {}


def test_no_long_function():
    assert exceeding_in_package(length, BODY) == set()


def test_few_arguments():
    assert exceeding_in_package(arguments, ARGUMENTS) == set()


@pytest.mark.parametrize("path", TESTS, ids=name_of)
def test_tests_share_only_helpers(path):
    others = {p.stem for p in TESTS if p.parent.name != "_helpers"}
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = {
        name.split(".")[0]
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert names & others == set()
    tests = [name for name, _ in functions(tree) if name.split(".")[-1].startswith("test_")]
    assert path.parent.name != "_helpers" or not tests


SHORT = '''
class A:
    def method(self, a, b):
        """A docstring
        of two lines."""
        one = a
        return one
'''


@pytest.mark.parametrize(
    ("source", "measure", "limit", "found"),
    [
        (SHORT, length, 2, []),
        (SHORT, length, 1, ["A.method"]),
        (SHORT, arguments, 2, []),
        (SHORT, arguments, 1, ["A.method"]),
        ("def f(a, *b, c=1, **d): return a", arguments, 1, ["f"]),
        ("def f(a, b):  # noqa: PLR0913 - a host calls it so\n    return a", arguments, 1, []),
        ("def f(a, b):  # noqa: PLR0913\n    return a", arguments, 1, ["f"]),
        ("def f(a):\n    # long: one table of cases\n    b = a\n    return b", length, 1, []),
        ("def f(a):\n    b = a\n    # long: said too late\n    return b", length, 1, ["f"]),
        ("def f():\n    def g(a):\n        pass\n    return g", arguments, 0, ["f.g"]),
    ],
)
def test_the_measures(source, measure, limit, found):
    assert list(exceeding(source, measure, limit)) == found
