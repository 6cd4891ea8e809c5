"""A part of a prediction: some of the classes, or classes taken together.

Both are families of fewer logits that follow from the network's: y = r(z). Their contrasts, which
are combinations of y, become combinations of z by the transposed Jacobian of r.

- Some classes: the distribution given that one of them is true has their logits alone. Of a pair
  F = p (1 - p) (∇z_a - ∇z_b)(∇z_a - ∇z_b)ᵀ.
- Merged classes: y_g = log Σ exp z_c over the classes c of group g. F_merged ⪯ F: what is merged
  cannot tell more (the data processing inequality).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, cast

import torch
from torch import Tensor

from monai_ifim.core.families.family import Likelihood


class Recoded(ABC):
    """A family of logits y = r(z), with the methods of the family of y."""

    family: Likelihood

    @property
    @abstractmethod
    def outcomes(self) -> tuple[tuple[int, ...], ...]:
        """The classes that each of the new logits stands for."""

    @abstractmethod
    def recode(self, logits: Tensor) -> Tensor:
        """The new logits (B, Q) of logits (B, K)."""

    @abstractmethod
    def pulled_back(self, logits: Tensor, cotangents: Tensor) -> Tensor:
        """Combinations (M, B, Q) of the new logits as ones of the logits, (M, B, K)."""

    @abstractmethod
    def numbered(self, positions: Tensor) -> Tensor:
        """What the positions of new logits are called: integers of any shape."""

    def text(self, number: int) -> str:
        """What a table says for one outcome, with the numbers of its classes.

        Args:
            number: as in ``numbered``.

        Returns:
            The classes, joined by "or".
        """
        for position, classes in enumerate(self.outcomes):
            if int(self.numbered(torch.tensor(position))) == number:
                return outcome_text(classes)
        return str(number)

    def check(self, logits: Tensor) -> None:
        """Raise unless the logits are of the family and have all the classes.

        Args:
            logits: (B, K).

        Raises:
            ValueError: a class that does not exist.
        """
        self.family.check(logits)
        largest = max(c for classes in self.outcomes for c in classes)
        if largest >= logits.shape[1]:
            raise ValueError(
                f"expected numbers of classes from 0 to {logits.shape[1] - 1}, got {largest} in "
                f"{self!r}; the network has {logits.shape[1]} logits"
            )

    def contrasts(self, logits: Tensor) -> Tensor:
        """Contrasts of the new logits as combinations of the logits, (M, B, K)."""
        return self.pulled_back(logits, self.family.contrasts(self.recode(logits)))

    def factor(self, logits: Tensor) -> Tensor:
        """Of the new logits, (B, M, M) in float64."""
        return self.family.factor(self.recode(logits))

    def probabilities(self, logits: Tensor) -> Tensor:
        """Of the new logits' outcomes, (B, Q) in float64."""
        return self.family.probabilities(self.recode(logits))

    def most_probable(self, logits: Tensor) -> tuple[list[str], Tensor]:
        """The most probable outcome with the numbers of its classes, and its probability.

        Args:
            logits: (B, K).

        Returns:
            Texts, and (B,) in float64.
        """
        names, probability = self.family.most_probable(self.recode(logits))
        texts = [outcome_text(classes) for classes in self.outcomes]
        if len(texts) > 1:  # of one sigmoid, "0" and "1" are no and yes
            known = {str(position): text for position, text in enumerate(texts)}
            names = ["+".join(known.get(part, part) for part in name.split("+")) for name in names]
        return names, probability

    def outcome_probability(self, logits: Tensor, reference: Tensor) -> Tensor:
        """Of the outcome that is the most probable one for the reference logits, (B,)."""
        return self.family.outcome_probability(self.recode(logits), self.recode(reference))

    def entropy(self, logits: Tensor) -> Tensor:
        """Of the new distribution, (B,) in nats."""
        return self.family.entropy(self.recode(logits))

    def uncertainty(self, logits: Tensor) -> Tensor:
        """1 - the probability of the most probable outcome, (B,)."""
        return self.family.uncertainty(self.recode(logits))

    def divergence(self, before: Tensor, after: Tensor) -> Tensor:
        """KL divergence between two of the new distributions, (B,) in nats."""
        return self.family.divergence(self.recode(before), self.recode(after))

    def predicted(self, logits: Tensor) -> Tensor:
        """The most probable outcome as the family has it; classes by their numbers."""
        predicted = self.family.predicted(self.recode(logits))
        one_is_true = len(self.outcomes) > 1 and self.class_table(logits) is not None
        return self.numbered(predicted) if one_is_true else predicted

    def class_table(self, logits: Tensor) -> Tensor | None:
        """Probabilities of outcomes of which one is true, or None."""
        return self.family.class_table(self.recode(logits))

    def flips(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """By how much each contrast must rise for another outcome, and which one.

        Args:
            logits: (B, K).

        Returns:
            Both (B, M); outcomes as in ``numbered``.
        """
        rise, index = self.family.flips(self.recode(logits))
        return rise, index if len(self.outcomes) == 1 else self.numbered(index)

    def dense(self) -> NoReturn:
        """At every voxel this is not served.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            f"expected logits of shape (batch, classes) for {self!r}, got a dense prediction; "
            "choose or merge the channels with output_transform"
        )


@dataclass(frozen=True)
class ChosenClasses(Recoded):
    """The prediction given that one of some classes is true; of sigmoids, some labels alone.

    Attributes:
        family: of all logits.
        classes: their numbers.

    Raises:
        ValueError: a number twice, or none.
    """

    family: Likelihood
    classes: tuple[int, ...]

    def __post_init__(self) -> None:
        _check_numbers(self.classes, f"classes={list(self.classes)}")

    @property
    def outcomes(self) -> tuple[tuple[int, ...], ...]:
        """Each class alone."""
        return tuple((number,) for number in self.classes)

    def recode(self, logits: Tensor) -> Tensor:
        """The logits of the classes, (B, Q)."""
        return logits[:, list(self.classes)]

    def pulled_back(self, logits: Tensor, cotangents: Tensor) -> Tensor:
        """The same numbers at the classes, 0 at the others, (M, B, K)."""
        result = cotangents.new_zeros((len(cotangents), *logits.shape))
        result[:, :, list(self.classes)] = cotangents
        return result

    def numbered(self, positions: Tensor) -> Tensor:
        """The numbers of the classes."""
        return torch.tensor(self.classes, device=positions.device)[positions]

    def outcome_logits(self, logits: Tensor) -> list[tuple[int, int]]:
        """The logit that speaks for the outcome of each image, and its sign."""
        found = self.family.outcome_logits(self.recode(logits))
        return [(self.classes[position], sign) for position, sign in found]


@dataclass(frozen=True)
class MergedClasses(Recoded):
    """Classes taken together: normal against any disease.

    Attributes:
        family: of all logits, a softmax.
        groups: numbers of the classes of each group; classes in no group are left out, as if it
            were known that they are not true.

    Raises:
        ValueError: fewer than two groups, an empty one, or a class in two of them.
    """

    family: Likelihood
    groups: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        shown = f"groups={[list(group) for group in self.groups]}"
        if len(self.groups) < 2 or not all(self.groups):
            raise ValueError(
                f"expected at least two groups with at least one class each, got {shown}; for "
                "example groups=[[0], [1, 2]]"
            )
        _check_numbers([number for group in self.groups for number in group], shown)

    @property
    def outcomes(self) -> tuple[tuple[int, ...], ...]:
        """The groups."""
        return self.groups

    def recode(self, logits: Tensor) -> Tensor:
        """Logarithms of the groups' sums of exponentials, (B, Q) in float64."""
        z = logits.double()
        return torch.stack([z[:, list(group)].logsumexp(dim=1) for group in self.groups], dim=1)

    def pulled_back(self, logits: Tensor, cotangents: Tensor) -> Tensor:
        """Each group's number times the share of each of its classes, (M, B, K)."""
        result = logits.new_zeros((len(cotangents), *logits.shape))
        for position, group in enumerate(self.groups):
            shares = torch.softmax(logits[:, list(group)].double(), dim=1)
            # A group whose classes are all ruled out has no shares.
            shares = torch.where(shares.isnan() & ~logits[:, list(group)].isnan(), 0, shares)
            result[:, :, list(group)] = (cotangents[:, :, [position]] * shares).to(logits.dtype)
        return result

    def numbered(self, positions: Tensor) -> Tensor:
        """The numbers of the groups, in order."""
        return positions

    def outcome_logits(self, logits: Tensor) -> list[tuple[int, int]]:
        """The logit of the most probable class in each image's group, and the sign 1."""
        groups = self.family.predicted(self.recode(logits)).tolist()
        rows = zip(logits, (self.groups[group] for group in groups), strict=True)
        return [(group[int(row[list(group)].argmax())], 1) for row, group in rows]


def outcome_text(classes: Sequence[object]) -> str:
    """One outcome in words.

    Args:
        classes: numbers or names of its classes.

    Returns:
        The classes, joined by "or".

    >>> outcome_text([1, 2])
    '1 or 2'
    """
    return " or ".join(str(each) for each in classes)


def class_numbers(chosen: Sequence[Any], class_names: Sequence[str]) -> list[Any]:
    """Classes by name as numbers, for ``classes`` and ``groups``.

    Args:
        chosen: names, numbers, or lists of them.
        class_names: of all classes, in the order of the logits.

    Returns:
        The same with numbers alone.

    Raises:
        ValueError: a name that does not exist, or exists twice.

    >>> class_numbers([["normal"], ["cyst", 2]], ["normal", "cyst", "tumour"])
    [[0], [1, 2]]
    """
    numbers: list[Any] = []
    for each in chosen:
        if isinstance(each, str):
            if list(class_names).count(each) != 1:
                raise ValueError(
                    f"expected a class from {list(class_names)}, each name once, got {each!r}; "
                    "write the name as it is there, or the number of the class"
                )
            numbers.append(list(class_names).index(each))
        elif isinstance(each, Sequence):
            numbers.append(class_numbers(each, class_names))
        else:
            numbers.append(each)
    return numbers


def as_numbers(values: object, name: str) -> tuple[int, ...]:
    """Whole numbers of classes as a tuple.

    Args:
        values: a sequence of them.
        name: for the message.

    Returns:
        The numbers.

    Raises:
        ValueError: no sequence, or something in it that is no whole number.
    """
    listed = isinstance(values, Sequence) and not isinstance(values, str)
    items: list[Any] = list(cast(Sequence[Any], values)) if listed else [None]
    if any(isinstance(item, bool) or not hasattr(item, "__index__") for item in items):
        raise ValueError(
            f"expected {name} as a list of numbers of classes, got {values!r}; for names use "
            "class_numbers(names, class_names)"
        )
    return tuple(int(item) for item in items)


def _check_numbers(numbers: Sequence[int], shown: str) -> None:
    if not numbers or min(numbers) < 0 or len(set(numbers)) < len(numbers):
        raise ValueError(
            f"expected numbers of classes from 0 on, each one once, got {shown}; leave out what is "
            "double"
        )
