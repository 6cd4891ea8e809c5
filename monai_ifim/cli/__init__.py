"""Command line: ``monai-ifim``, or ``python -m monai_ifim``.

Modules of this folder import the standard library alone until a command runs, so that ``--help``
and ``--version`` answer at once.
"""

from monai_ifim.cli.program import main

__all__ = ["main"]
