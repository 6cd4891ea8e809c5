"""What a configuration asks of each image, with the names that a bundle gives."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from typing import Any

from monai_ifim.bundle.metadata import channel_names, class_names, label_names
from monai_ifim.bundle.root import bundle_root
from monai_ifim.core import class_numbers
from monai_ifim.questions import NuisanceColumns, Question, ShareColumns, VerifiedFlip

_SHARES = ("key", "labels", "channels")


def chosen_questions(
    shares: str | Mapping[str, Any] | bool | None = None,
    nuisances: Sequence[Any] | str | Mapping[str, Any] | None = None,
    level: float = 0.1,
    folder: str | os.PathLike[str] | None = None,
    verify: str | Mapping[str, Any] | None = None,
) -> list[Question]:
    """Questions for ``IFIMHandler(questions=…)``, by what a configuration says.

    Args:
        shares: the key of label maps in the batch, or ``key``, ``labels`` and ``channels`` of
            ``ShareColumns``; True for shares of channels alone.
        nuisances: names, with options or without, as for ``NuisanceColumns``.
        level: KL divergence in nats that counts as a change of a prediction by a nuisance.
        folder: of the bundle, whose metadata names labels and channels; that of the command line
            by default.
        verify: ``"ddn"`` or ``"pgd"``, the search of ``VerifiedFlip``, or its ``method``,
            ``steps`` and ``bounds``.

    Returns:
        Those that were chosen.

    Raises:
        ValueError: an unknown name or option.

    >>> print(*(question.name for question in chosen_questions("organs", ["rotation", "gain"])))
    shares nuisances
    >>> chosen_questions()
    []
    """
    found: list[Question] = []
    if shares:
        found.append(_shares(shares, bundle_root() if folder is None else folder))
    if nuisances:
        found.append(NuisanceColumns(nuisances, level))
    if verify:
        found.append(_verified(verify))
    return found


def bundle_class_numbers(
    chosen: Sequence[Any] | None, folder: str | os.PathLike[str] | None = None
) -> list[Any] | None:
    """Classes for ``classes`` and ``groups``, by the names that a bundle has for them.

    Args:
        chosen: names, numbers, or lists of them; None or empty for no choice.
        folder: of the bundle; that of the command line by default.

    Returns:
        Numbers; None for no choice.

    Raises:
        ValueError: a name that the bundle's metadata does not have.

    >>> bundle_class_numbers([[0], [1, 2]], ".")
    [[0], [1, 2]]
    """
    if not chosen:
        return None
    if isinstance(chosen, str):
        raise ValueError(f"expected a list of classes, got {chosen!r}; write ['{chosen}', …]")
    return class_numbers(chosen, class_names(bundle_root() if folder is None else folder))


def _verified(verify: Any) -> VerifiedFlip:
    given = {"method": verify} if isinstance(verify, str) else verify
    known = ("method", "steps", "bounds")
    wrong = [name for name in given if name not in known] if isinstance(given, Mapping) else [given]
    if wrong:
        raise ValueError(
            f"expected 'ddn', 'pgd', or {', '.join(known)}, for verify, got {wrong[0]!r}; leave it "
            "out"
        )
    return VerifiedFlip(**given)


def _shares(shares: Any, root: str | os.PathLike[str]) -> ShareColumns:
    given: Any = {"key": shares} if isinstance(shares, str) else {} if shares is True else shares
    names = given if isinstance(given, Mapping) else [given]
    wrong = [name for name in names if name not in _SHARES]
    if wrong:
        close = difflib.get_close_matches(str(wrong[0]), _SHARES, n=1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise ValueError(
            f"expected the key of label maps, or {', '.join(_SHARES)}, for shares, got "
            f"{wrong[0]!r}{hint}; write organs, or {{'key': 'organs', 'labels': {{'liver': 1}}}}"
        )
    key = given.get("key")
    labels = given.get("labels") or (label_names(root, key) if key else None)
    return ShareColumns(key, labels, given.get("channels", channel_names(root) or True))
