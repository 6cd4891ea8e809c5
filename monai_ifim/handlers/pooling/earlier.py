"""What earlier sessions of a run have pooled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from monai_ifim.data.run_pooled.parts import Names, current_parts, parts_of_run, text_of_part
from monai_ifim.data.run_table.writer import TableWriter


@dataclass(frozen=True)
class EarlierParts:
    """What earlier sessions have left, as far as it still counts.

    Attributes:
        paths: of the files.
        names: images that are in them.
        differing: choices that others of the run's sessions or shards have pooled with, where they
            are not this one's; empty for none.
    """

    paths: tuple[Path, ...] = ()
    names: Names = field(default_factory=set)
    differing: Mapping[str, str | int] = field(default_factory=dict)

    @classmethod
    def of(cls, table: TableWriter, choices: Mapping[str, str | int]) -> EarlierParts:
        """Look back.

        Args:
            table: of the run, which knows what is done.
            choices: of this session.

        Returns:
            What there is; no files where all is done again.

        Raises:
            ValueError: a file holds something else.
            OSError: it cannot be read.
        """
        folder = table.folder
        if folder is None:
            return cls()
        parts = {p: text_of_part(p) for p in parts_of_run(folder.path, folder.run, folder.session)}
        for text in parts.values():
            if text.choices and text.choices != choices:
                return cls(differing=text.choices)
        if not table.earlier.lines:
            return cls()
        listed = set(table.listed or ())
        files = {file for text in parts.values() for file in text.sources if file in listed}
        paths = current_parts(parts, {file: table.source(file) for file in files})
        return cls(tuple(paths), set().union(*(parts[path].names for path in paths)))

    def check(self, choices: Mapping[str, str | int]) -> None:
        """Refuse to pool in another way: it would come to nothing when all is done.

        Args:
            choices: of this session.

        Raises:
            ValueError: others of the run have pooled in another way.
        """
        if self.differing:
            raise ValueError(
                f"expected pooling with {_words(self.differing)}, as in other sessions or shards "
                f"of the run, got {_words(choices)}; choose the former again, or leave out pooled"
            )


def _words(choices: Mapping[str, str | int]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in choices.items())
