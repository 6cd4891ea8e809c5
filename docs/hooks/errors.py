"""The page of error messages, from the `raise` statements of the package.

A message is a sentence: what was expected, what came, and after a semicolon how to fix it. Parts
that depend on the case are shown as ``…``.
"""

from __future__ import annotations

import ast
import html
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "monai_ifim"
MARK = "<!-- messages -->"
# Raised for Python itself or caught inside the package: nobody reads these.
INTERNAL = ("AttributeError", "IndexError", "Terminated", "ArgumentTypeError", "UnusableError")
_FOLDER = (
    "choose another output folder, go on with --resume, or move the results with --existing move"
)
_OVERLAY = "run the bundle itself with the overlay `ifim.yaml`; the message has the command"
# Fixes of the few messages that have none and do not begin with what was expected, or whose fix
# depends on the case.
KNOWN = {
    "expected one of …, got …": "choose one of those that it names, or leave it out",
    "expected no results of another run in …, got … or journals without a run.json": _FOLDER,
    "expected results of the same network and settings in …, got a run of others: ……": _FOLDER,
    "expected … in … with _target_ and …, whose images can be replaced, got …": _OVERLAY,
    "expected a bundle that loads one file for each image, got … in its preprocessing": _OVERLAY,
    "forward and reverse mode disagree": "none is needed: double backward passes are taken then",
    "the header is longer than the file": "write the file again with PooledEigenspace.save",
    "values from … to … of … bytes, … expected": "write the file again with PooledEigenspace.save",
    "the preprocessing dropped the image's metadata (track_meta)": (
        "leave track_meta on in the bundle's preprocessing"
    ),
    "no file …": "give the path of the weights",
    "the experiment … failed: …": "the message after the colon has its own entry on this page",
    "expected the package …, got none": (
        "install it, or the extra that has it; the message ends with the command to paste"
    ),
    "expected an id of the configuration, got …": "take one of those that the message lists",
    "expected one of the arguments …, got …": (
        "take the name that the message proposes (did you mean …?), or leave the argument out"
    ),
}
# Words that alone do not say what went wrong.
EMPTY = {"expected", "got", "in", "from", "of", "as", "a", "an", "the", "one", "or", "and"}
EMPTY |= {"none", "nothing", "neither"}

# Where a message is listed: the longest folder or file that a module's path begins with.
TOPICS = {
    "core": "Images, network and logits",
    "core/families": "Likelihoods",
    "core/solvers": "Methods, rank and tolerance",
    "core/options.py": "Methods, rank and tolerance",
    "core/spectrum.py": "Methods, rank and tolerance",
    "core/changes": "Which changes count",
    "core/inputs": "Several inputs",
    "core/pooling": "Pooled eigenspaces",
    "changes": "Which changes count",
    "questions": "Which changes count",
    "questions/nuisances.py": "Rotation, gain, blur and other nuisances",
    "core/nuisances": "Rotation, gain, blur and other nuisances",
    "nuisances.py": "Rotation, gain, blur and other nuisances",
    "inferers.py": "Engines: inferer, handler, metrics",
    "handlers": "Engines: inferer, handler, metrics",
    "metrics.py": "Engines: inferer, handler, metrics",
    "outputs.py": "Engines: inferer, handler, metrics",
    "transforms": "Transforms",
    "data": "Lists, loaders and tables",
    "data/sources": "Files: formats, DICOM, limits",
    "data/run_folder": "Results folders, resume, shards",
    "data/run_table": "Results folders, resume, shards",
    "bundle": "Bundles",
    "runs": "The command `run`",
    "cli": "Other commands",
    "cluster.py": "Many processes",
    "distributed.py": "Many processes",
    "messages.py": "Settings given as text",
    "experiments": "Experiments",
    "report": "Pictures and reports",
    "dicom": "Results as DICOM objects",
    "label": "MONAI Label",
    "deploy": "MONAI Deploy",
}


@dataclass(frozen=True)
class Message:
    """One message as the source has it.

    Attributes:
        module: path below the package.
        line: of the statement.
        kind: the type of the exception; empty where a function makes the text.
        text: the sentence, ``…`` where it depends on the case.
    """

    module: str
    line: int
    kind: str
    text: str

    @property
    def topic(self) -> str:
        """The heading under which it is listed."""
        parts = self.module.split("/")
        for length in range(len(parts), 0, -1):
            topic = TOPICS.get("/".join(parts[:length]))
            if topic is not None:
                return topic
        raise KeyError(f"no topic for {self.module}; give it one in TOPICS of {__name__}")


def text_of(node: ast.AST, named: Mapping[str, str] | None = None) -> str | None:
    """The text that an expression makes, ``…`` for what depends on the case.

    Args:
        node: of the expression.
        named: texts of constants and functions, of ``named_texts``.

    Returns:
        The text; None where the expression is none.
    """
    named, text = named or {}, None
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        text = node.value
    elif isinstance(node, ast.Name):
        text = named.get(node.id)
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        text = named.get(f"{node.func.id}()")
    elif isinstance(node, ast.FormattedValue) and not node.format_spec:
        text = text_of(node.value, named)
        text = repr(text) if text is not None and node.conversion == ord("r") else text
    elif isinstance(node, ast.JoinedStr):
        text = "".join(_shown(text_of(value, named)) for value in node.values)
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        sides = text_of(node.left, named), text_of(node.right, named)
        text = None if sides == (None, None) else "".join(map(_shown, sides))
    return text


def _shown(text: str | None) -> str:
    return "…" if text is None else text


def named_texts(tree: ast.Module) -> dict[str, str]:
    """What the names of a module stand for in its messages.

    Args:
        tree: of the module.

    Returns:
        Texts by the names that are bound once in the module, whether outside of functions or
        inside one, and by ``f()`` for functions that only return a text.
    """
    bound = Counter(
        [node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)]
        + [
            node.id
            for node in ast.walk(tree)
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
        ]
    )
    named: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name, value = node.targets[0].id, node.value
        elif isinstance(node, ast.FunctionDef) and isinstance(node.body[-1], ast.Return):
            returns = [part for part in ast.walk(node) if isinstance(part, ast.Return)]
            name, value = f"{node.name}()", node.body[-1].value
            bound[name] += len(returns)
        else:
            continue
        text = None if bound[name] != 1 or value is None else text_of(value)
        if text is not None and says(text):
            named[name] = text
    return named


def says(text: str) -> bool:
    """Whether a text has words of its own, beside those that all messages have.

    Args:
        text: of a message, or its fix.

    Returns:
        Whether a reader learns something from it.
    """
    return bool({word.lower() for word in re.findall(r"[^\W\d_]{2,}", text)} - EMPTY)


def messages_of(source: str, module: str) -> Iterator[Message]:
    """Every message of one module: texts that are raised, and others that begin as ours do."""
    tree = ast.parse(source)
    named = named_texts(tree)
    inner: set[int] = set()  # parts of texts that are listed already, and docstrings
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
            argument = node.exc.args[0]
            text = text_of(argument, named)
            inner |= {id(part) for part in ast.walk(argument)} if text is not None else set()
            kind = ast.unparse(node.exc.func).rpartition(".")[2]
            if text is not None and kind not in INTERNAL:
                yield Message(module, node.lineno, kind, text)
        elif isinstance(node, ast.Expr):
            inner.add(id(node.value))
        elif isinstance(node, ast.expr) and id(node) not in inner:
            text = text_of(node, named)
            if text is not None and text.startswith("expected ") and len(text) > 9:
                inner |= {id(part) for part in ast.walk(node)}
                yield Message(module, node.lineno, "", text)


def messages() -> list[Message]:
    """Every message of the package, in the order of its modules and lines."""
    found = [
        message
        for path in sorted(PACKAGE.rglob("*.py"))
        for message in messages_of(
            path.read_text(encoding="utf-8"), path.relative_to(PACKAGE).as_posix()
        )
    ]
    return sorted(found, key=lambda message: (message.module, message.line))


def split(text: str) -> tuple[str, str]:
    """What went wrong, and the fix in words; of a message without one what it expects.

    Args:
        text: of a message.

    Returns:
        The two parts; the second is empty where there is none.
    """
    text = " ".join(text.split())
    wrong, _, fix = text.partition("; ")
    if not fix:
        wrong, mark, fix = text.partition("? ")
        wrong += mark.strip()
    wrong = wrong if fix else text
    fix = KNOWN.get(wrong, fix)
    if not fix and (given := re.match(r"expected (.+?), got ", text)):
        fix = f"give {given[1]}"
    return wrong, fix


def as_text(text: str) -> str:
    """A sentence that Markdown shows as it is."""
    return html.escape(re.sub(r"([\\`*_{}\[\]#])", r"\\\1", text), quote=False)


def markdown() -> str:
    """The lists by topic, for the place of the mark in ``docs/errors.md``.

    Returns:
        Markdown.

    Raises:
        ValueError: a message that says nothing once what depends on the case is left out, or one
            without a fix in words.
    """
    by_topic: dict[str, dict[str, str]] = {topic: {} for topic in TOPICS.values()}
    for message in messages():
        wrong, fix = split(message.text)
        if not (says(wrong) and says(fix)):
            raise ValueError(
                f"expected a sentence and its fix in {message.module}, line {message.line}, got "
                f"{message.text!r}; write them in the source, or the fix in KNOWN of {__name__}"
            )
        by_topic[message.topic][wrong] = fix
    lines = []
    for topic, found in by_topic.items():
        lines += [f"## {topic}", ""]
        for wrong, fix in sorted(found.items(), key=lambda item: item[0].lower()):
            lines.append(f"- {as_text(wrong)}  \n    **Fix:** {as_text(fix)}")
        lines.append("")
    return "\n".join(lines)
