"""Markdown, as the generated pages of the documentation are written."""

from __future__ import annotations

from collections.abc import Sequence


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
