"""The program: its parser, and what becomes of an error."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from monai_ifim.cli import bundles, doctor, experiments, images, label, report, run
from monai_ifim.cli.command import Command
from monai_ifim.cli.completion import SHELLS, script
from monai_ifim.cli.failures import described

COMMANDS: tuple[Command, ...] = (
    *run.COMMANDS,
    *doctor.COMMANDS,
    *bundles.COMMANDS,
    *report.COMMANDS,
    *images.COMMANDS,
    *experiments.COMMANDS,
    *label.COMMANDS,
)


def main(arguments: Sequence[str] | None = None, program: str = "monai-ifim") -> int:
    """Run one command.

    Args:
        arguments: command line without the program's name; ``sys.argv`` when None.
        program: what the user typed to get here, for the help and the messages.

    Returns:
        Exit status of the command: 0 when it did what was asked.

    Raises:
        SystemExit: after help or version (status 0), or an error, told in one line on stderr: 2 for
            what the user can put right, 1 for what was not foreseen.
    """
    parser = build_parser(program)
    options = parser.parse_args(arguments)
    command: Command = options.command
    try:
        return int(command.run(options) or 0)
    except KeyboardInterrupt as error:
        status = getattr(error, "status", 130)  # SIGTERM has one of its own
        parser.exit(status, f"{program} {command.name}: interrupted\n")
    except Exception as error:  # the last place where an error can become a sentence
        if options.debug:
            raise
        status, sentence = described(error, command.extra)
        parser.exit(status, f"{program} {command.name}: {sentence}\n")


def build_parser(program: str) -> argparse.ArgumentParser:
    """Parser of the whole command line.

    Args:
        program: name for the help and the messages.

    Returns:
        The parser; its options hold the chosen ``Command`` as ``command``.
    """
    parser = _Parser(
        prog=program,
        description="Where an image classifier is locally sensitive: tools around the bundles.",
        epilog=f"{program} COMMAND --help shows the arguments of a command, and an example.",
    )
    parser.add_argument("--version", action=_Version, help="print the version and exit")
    parser.add_argument("--debug", action="store_true", help=_DEBUG)
    parser.add_argument(
        "--completion",
        choices=SHELLS,
        action=_Completion,
        help='print completion for a shell: eval "$(monai-ifim --completion bash)"',
    )
    # Also behind the command's name; SUPPRESS, so that it does not undo the one before the name.
    debug = _Parser(add_help=False)
    debug.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=_DEBUG)
    commands = parser.add_subparsers(required=True, metavar="COMMAND", title="commands")
    for command in COMMANDS:
        own = commands.add_parser(
            command.name,
            aliases=[command.alias] if command.alias else [],
            help=command.help,
            description=f"{command.help[0].upper()}{command.help[1:]}.",
            epilog=f"example:\n  {program} {command.example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            parents=[debug],
        )
        command.add_arguments(own)
        own.set_defaults(command=command)
    return parser


_DEBUG = "show the traceback of an error"


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


class _Completion(argparse.Action):
    """Prints the completion for a shell."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option: Any = None
    ) -> NoReturn:
        print(script(parser, values))
        parser.exit()


class _Version(argparse.Action):
    """Prints the version, which is looked up only then."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str | None = None) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from importlib.metadata import version

        print(f"monai-ifim {version('monai-ifim')}")
        parser.exit()
