"""Markdown, as the generated pages of the documentation are written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_ifim.data.atomic import complete_file


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    r"""A table, or words where there are no rows.

    Args:
        header: heading of each column.
        rows: the cells, as many in each row as there are columns.

    Returns:
        Its lines; a vertical bar within a cell is escaped.

    >>> print(table(["a", "b"], [["1", "x|y"]]))
    | a | b |
    | --- | --- |
    | 1 | x\|y |
    """
    if not rows:
        return "Not measured."
    lines = (header, ["---"] * len(header), *rows)
    return "\n".join(f"| {' | '.join(map(_escaped, line))} |" for line in lines)


def _escaped(cell: str) -> str:
    return cell.replace("|", r"\|")


def folded(title: str, text: str) -> str:
    """A text that the reader opens by a click on its title.

    Args:
        title: what is always visible.
        text: Markdown.

    Returns:
        The text in HTML's ``details``, which GitHub shows inside Markdown.
    """
    return f"<details><summary>{title}</summary>\n\n{text}\n\n</details>"


def rendered(room: str, template: str, values: Mapping[str, Any], path: Path) -> Path:
    """Fill in a template and write the page.

    Args:
        room: the package below ``monai_ifim.report`` that has the template.
        template: its file.
        values: of all its names.
        path: of the page.

    Returns:
        The path.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined  # asked for by pages alone

    environment = Environment(  # Markdown, so nothing is escaped for HTML
        loader=PackageLoader("monai_ifim.report", room),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    with complete_file(path) as partial:
        partial.write_text(environment.get_template(template).render(values), encoding="utf-8")
    return path
