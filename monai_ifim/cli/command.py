"""What one command is made of."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        name: as it is typed.
        help: one line for the list of commands.
        example: arguments that show its use, from the command's name on.
        add_arguments: adds its arguments to a parser.
        run: does the work; returns the exit status, None for 0. Imports what it needs itself.
        alias: another name for it, empty for none.
        extra: extra of the package that the command needs, empty for none.
    """

    name: str
    help: str
    example: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int | None]
    alias: str = ""
    extra: str = ""
