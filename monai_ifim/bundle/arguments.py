"""The command line of ``python -m monai.bundle run``, which a configuration is not told."""

from __future__ import annotations

import ast
import difflib
import re
import sys
from collections.abc import Iterator, Sequence
from itertools import zip_longest

from monai.bundle import ConfigParser

_PREFIX = "ifim_"


def config_files(arguments: Sequence[str]) -> list[str]:
    """The files of ``--config_file``.

    Args:
        arguments: the command line without the program.

    Returns:
        The paths in order; none where the command line has no ``--config_file``.

    >>> config_files(["--config_file=['a/configs/train.json','b/evaluate.json']"])
    ['a/configs/train.json', 'b/evaluate.json']
    """
    for name, value in _named(arguments):
        if name == "config_file":
            if value.startswith(("[", "(")):
                return [str(file) for file in ast.literal_eval(value)]
            return value.split(",")
    return []


def check_arguments(arguments: Sequence[str] | None = None) -> None:
    """Refuse ``--ifim_...`` that no configuration file has.

    MONAI adds an id that it does not know to the configuration, where nothing looks at it, so that
    a misspelt option would have no effect and no message. Configurations of this package call
    this before they make the handler. A run from Python has no command line and is not checked.

    Args:
        arguments: the command line without the program; that of this process when None.

    Raises:
        ValueError: an argument that begins with ``ifim`` and is in none of the files.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    files = config_files(arguments)
    given = [_root(name) for name, _ in _named(arguments) if name.startswith(_PREFIX)]
    if not files or not given:
        return
    ids = {_root(name) for name in ConfigParser.load_config_files(files)}
    known = sorted(name for name in ids if name.startswith(_PREFIX))
    for name in given:
        if name not in known:
            # Without what all of them begin with, which would make any two of them alike.
            words = [other.removeprefix(_PREFIX) for other in known]
            close = difflib.get_close_matches(name.removeprefix(_PREFIX), words, n=1)
            hint = f"did you mean --{_PREFIX}{close[0]}? " if close else ""
            raise ValueError(
                f"expected an option of the configuration files, got --{name}; {hint}"
                f"there are {', '.join(f'--{other}' for other in known)}"
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
