"""Where the bundle lies whose configuration is being run."""

from __future__ import annotations

import ast
import sys
from collections.abc import Sequence
from pathlib import Path


def bundle_root(arguments: Sequence[str] | None = None) -> str:
    """Folder of the bundle that the command line runs.

    MONAI hands a configuration no word about its own place, and the customary
    ``"bundle_root": "."`` finds the weights only from inside the bundle's folder. With
    ``"bundle_root": "$monai_ifim.bundle.root()"`` a bundle runs from any folder;
    ``--bundle_root`` overrides it as always.

    Args:
        arguments: command line to read ``--config_file`` from; ``sys.argv`` when None.

    Returns:
        The folder that holds ``configs/`` of the first configuration file, or ``"."`` when
        the command line names no configuration file (a bundle run from Python: pass
        ``bundle_root`` there).

    >>> bundle_root(["--config_file", "bundles/ifim_signal_2d/configs/inference.json"])
    'bundles/ifim_signal_2d'
    >>> bundle_root(["--config_file=['a/configs/train.json','b/evaluate.json']"])
    'a'
    >>> bundle_root([])
    '.'
    """
    folder = _first_config_file(sys.argv[1:] if arguments is None else arguments).parent
    return str(folder.parent if folder.name == "configs" else folder)


def _first_config_file(arguments: Sequence[str]) -> Path:
    for position, argument in enumerate(arguments):
        flag, equals, value = argument.partition("=")
        if flag.lstrip("-") not in ("config_file", "config-file"):
            continue
        if not equals:
            value = arguments[position + 1] if position + 1 < len(arguments) else ""
        if value.startswith(("[", "(")):
            value = str(ast.literal_eval(value)[0])
        return Path(value.split(",")[0])
    return Path()
