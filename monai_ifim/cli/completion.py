"""Completion of the command line by a shell."""

from __future__ import annotations

import argparse
from typing import Any

SHELLS = ("bash", "zsh")
_BASH = """\
_monai_ifim() {{
    local word="${{COMP_WORDS[COMP_CWORD]}}" options=""
    case "${{COMP_WORDS[1]}}" in
{cases}
    esac
    if [ "$COMP_CWORD" = 1 ]; then options="{commands}"; fi
    COMPREPLY=($(compgen -W "$options" -- "$word"))
}}
complete -o default -F _monai_ifim monai-ifim
"""


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """What a shell runs to complete commands and options; files are completed as ever.

    Args:
        parser: of the whole command line.
        shell: one of ``SHELLS``.

    Returns:
        The script.
    """
    commands: dict[str, Any] = {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            commands |= action.choices
    cases = [
        f'        {name}) options="{" ".join(_options(own))}" ;;' for name, own in commands.items()
    ]
    words = " ".join([*commands, *_options(parser)])
    start = "autoload -U +X bashcompinit && bashcompinit\n" if shell == "zsh" else ""
    return start + _BASH.format(cases="\n".join(cases), commands=words)


def _options(parser: argparse.ArgumentParser) -> list[str]:
    """Options in full, and the choices of what has a fixed list of them."""
    found = []
    for action in parser._actions:
        found += [name for name in action.option_strings if name.startswith("--")]
        if action.choices is not None and not isinstance(action, argparse._SubParsersAction):
            found += [str(choice) for choice in action.choices]
    return list(dict.fromkeys(found))
