"""The table of the source matrix in docs/sources.md."""

from collections.abc import Mapping
from pathlib import Path

from _helpers.source_matrix import PREPROCESSINGS, SOURCES

PAGE = Path(__file__).parents[2] / "docs" / "sources.md"


def table_of(counts: Mapping[tuple[str, str, str], int]) -> str:
    """A row for each kind of source: images on the file's grid, and those refused.

    Args:
        counts: by source, preprocessing, and "right" or "refused".

    Returns:
        Markdown.
    """
    lines = [["source", *PREPROCESSINGS], ["---"] * (1 + len(PREPROCESSINGS))]
    for kind in SOURCES:
        cells = []
        for name in PREPROCESSINGS:
            right, refused = (counts.get((kind, name, end), 0) for end in ("right", "refused"))
            parts = [str(right)] if right else []
            parts += [f"{refused} refused"] if refused else []
            cells.append(", ".join(parts) or "not run")
        lines.append([kind, *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
