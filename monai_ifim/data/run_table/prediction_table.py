"""The table of predictions: a file, the probability of each class, the class predicted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from monai_ifim.data.tables import Row, write_csv

FIRST, LAST = "file", "predicted_class"
JOURNALLED = "prediction"  # key of a journal's line
Prediction = tuple[str, list[float]]


def write_predictions(
    predictions: Sequence[Prediction], class_names: Sequence[str], path: Path
) -> None:
    """Write a row for each image, sorted by file.

    Args:
        predictions: the file of each image, and K probabilities of classes that exclude each other.
        class_names: K of them, in order; numbers stand for another count.
        path: of the table.

    Raises:
        ValueError: the images have different numbers of classes, or fewer than two.
        OSError: it cannot be written.
    """
    count = len(predictions[0][1]) if predictions else len(class_names)
    fits = count == len(class_names)
    names = list(class_names) if fits else [str(i) for i in range(count)]
    columns = [FIRST, *_distinct(names), LAST]
    write_csv((_row(columns, names, *each) for each in sorted(predictions)), columns, path)


def _row(columns: list[str], names: list[str], file: str, values: list[float]) -> Row:
    if len(values) != len(names) or len(values) < 2:
        raise ValueError(
            f"expected {max(len(names), 2)} probabilities of classes that exclude each other for "
            f"{file!r}, got {len(values)}; use MONAI's ClassificationSaver for other outputs"
        )
    predicted = names[max(range(len(values)), key=values.__getitem__)]
    return dict(zip(columns, [file, *values, predicted], strict=True))


def _distinct(names: Sequence[str]) -> list[str]:
    """Names of columns, of which no two are the same."""
    taken = [FIRST, *names, LAST]
    return [f"{name} ({i})" if taken.count(name) > 1 else name for i, name in enumerate(names)]
