"""Where the bundle lies whose configuration is being run."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from monai_ifim.bundle.arguments import config_files
from monai_ifim.data.run_folder.identity import files_digest


def bundle_root(arguments: Sequence[str] | None = None) -> str:
    """Folder of the bundle that the command line runs.

    MONAI hands a configuration no word about its own place, and the customary
    ``"bundle_root": "."`` finds the weights only from inside the bundle's folder. With
    ``"bundle_root": "$monai_ifim.bundle_root()"`` a bundle runs from any folder;
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
    files = config_files(sys.argv[1:] if arguments is None else arguments)
    folder = Path(files[0] if files else "").parent
    return str(folder.parent if folder.name == "configs" else folder)


def bundle_digest(arguments: Sequence[str] | None = None) -> str | None:
    """SHA-256 of the configuration files that the command line runs.

    Args:
        arguments: command line to read ``--config_file`` from; ``sys.argv`` when None.

    Returns:
        64 hexadecimal digits; None when the command line names no configuration file.

    >>> bundle_digest([])
    """
    files = config_files(sys.argv[1:] if arguments is None else arguments)
    return files_digest(files) if files else None
