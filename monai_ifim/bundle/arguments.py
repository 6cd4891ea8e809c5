"""The command line of ``python -m monai.bundle run``, which a configuration is not told."""

from __future__ import annotations

import ast
import difflib
import re
import sys
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import Any

from monai.bundle import ConfigParser

_PREFIX = "ifim_"


def config_files(arguments: Sequence[str]) -> list[str]:
    """The files of ``--config_file``.

    Args:
        arguments: the command line without the program.

    Returns:
        The paths in order, those that ``--args_file`` names where the command line has no
        ``--config_file``; none where neither does.

    >>> config_files(["--config_file=['a/configs/train.json','b/evaluate.json']"])
    ['a/configs/train.json', 'b/evaluate.json']
    """
    given = dict(_named(arguments))
    value: str | Sequence[str] | None = given.get("config_file")
    if value is None and "args_file" in given:
        value = ConfigParser.load_config_file(given["args_file"]).get("config_file")
    if not isinstance(value, str):
        return [] if value is None else [str(file) for file in value]
    if value.startswith(("[", "(")):
        return [str(file) for file in ast.literal_eval(value)]
    return value.split(",")


def written_in_files(name: str, files: Sequence[str], but: str) -> Any:
    """What the configuration files gave for an id before an overlay replaced it.

    Args:
        name: the id, ``evaluator::_target_`` for example.
        files: the configuration files, in order.
        but: the value that the overlay gives.

    Returns:
        The last value that is not the overlay's, as it is written; None where there is none.
    """
    found = None
    for file in files:
        content = ConfigParser.load_config_file(file)
        literal = [v for k, v in content.items() if k.replace("#", "::") == name]
        value = literal[-1] if literal else ConfigParser(content).get(name)
        found = value if value not in (None, but) else found
    return found


def check_arguments(arguments: Sequence[str] | None = None) -> None:
    """Refuse ``--ifim_...`` that no configuration file has, and options that are left open.

    MONAI adds an id that it does not know to the configuration, where nothing looks at it, so that
    a misspelt option would have no effect and no message. Configurations of this package call
    this before they make the handler. An option whose default is an id of the bundle
    (``ifim_output_dir: "@output_dir"``) must be given where the bundle has no such id. A run from
    Python has no command line and is not checked.

    Args:
        arguments: the command line without the program; that of this process when None.

    Raises:
        ValueError: an argument that begins with ``ifim`` and is in none of the files, or an
            option without a value.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    files = config_files(arguments)
    if not files:
        return
    given = [_root(name) for name, _ in _named(arguments)]
    config = ConfigParser.load_config_files(files)
    known = sorted({_root(name) for name in config if name.startswith(_PREFIX)})
    ids = {*given, *map(_root, config)}
    _check_defaults({name: config.get(name) for name in known if name not in given}, ids)
    for name in given:
        if name.startswith(_PREFIX) and name not in known:
            # Without what all of them begin with, which would make any two of them alike.
            words = [other.removeprefix(_PREFIX) for other in known]
            close = difflib.get_close_matches(name.removeprefix(_PREFIX), words, n=1)
            hint = f"did you mean --{_PREFIX}{close[0]}? " if close else ""
            raise ValueError(
                f"expected an option of the configuration files, got --{name}; {hint}"
                f"there are {', '.join(f'--{other}' for other in known)}"
            )


def _check_defaults(options: dict[str, Any], ids: set[str]) -> None:
    """Raise for an option whose default is an id that is not there."""
    for name, value in options.items():
        missing = value[1:] if isinstance(value, str) and re.fullmatch(r"@\w+", value) else None
        if missing and missing not in ids:
            raise ValueError(
                f"expected the id {missing} in the bundle, got none; pass --{missing} or --{name}"
            )


def _root(name: str) -> str:
    """``ifim_handler`` of ``ifim_handler::rank`` or ``ifim_handler#rank``."""
    return re.split("::|#", name, maxsplit=1)[0]


def _named(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Names, with underscores, and values of ``--name value`` and ``--name=value``."""
    for argument, following in zip_longest(arguments, arguments[1:], fillvalue=""):
        if re.match(r"--?[A-Za-z]", argument):
            name, equals, value = argument.lstrip("-").partition("=")
            yield name.replace("-", "_"), value if equals else following
