"""What libraries say during a command, kept away from what the command itself says."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

# Their errors are lines of the summary, one for each image.
_IN_THE_SUMMARY = (
    "monai_ifim.data.loaders",
    "monai_ifim.data.run_table.collected",
    "monai_ifim.data.run_table.writer",
)


@contextmanager
def messages_of_package(debug: bool) -> Iterator[None]:
    """Show warnings of this package on standard error, and those of other libraries nowhere.

    Args:
        debug: show everything.
    """
    root, own = logging.getLogger(), logging.getLogger("monai_ifim")
    shown = _Lines(sys.stderr)
    shown.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s" if debug else None))
    before = own.level, own.propagate, root.level
    silent = logging.NullHandler()
    root.addHandler(shown if debug else silent)
    if debug:
        root.setLevel(logging.INFO)
        own.setLevel(logging.DEBUG)
    else:
        shown.addFilter(lambda record: record.name not in _IN_THE_SUMMARY)
        own.addHandler(shown)
        own.propagate = False
        own.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            if not debug:
                warnings.simplefilter("ignore")
            yield
    finally:
        root.removeHandler(shown if debug else silent)
        own.removeHandler(shown)
        own.level, own.propagate, root.level = before


class _Lines(logging.StreamHandler):
    """One line for each message, in the place of a progress bar in a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        clear = "\r\x1b[K" if self.stream.isatty() else ""
        return clear + super().format(record)
