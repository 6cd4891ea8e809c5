"""Scripts of others that the report uses, where ``make assets`` has fetched them; not committed."""

from __future__ import annotations

from pathlib import Path


def asset(name: str) -> Path | None:
    """Where a script lies.

    Args:
        name: ``niivue.js``, ``tabulator.js`` or ``tabulator.css``.

    Returns:
        Its path; None where ``make assets`` was not run before the package was built.
    """
    path = Path(__file__).with_name(name)
    return path if path.is_file() else None
