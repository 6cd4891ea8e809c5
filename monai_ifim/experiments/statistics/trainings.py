"""Hierarchical bootstrap: drawn are trainings, and the images on which they are compared.

A figure of one training on n images is given for the images themselves and for B draws of them;
all trainings have the same draws. Every resample takes one of the draws of the images, and draws
the trainings with replacement. One training alone says nothing about others: its interval has the
images' part only, and ``trainings`` says 1.

A draw of n images holds only 63 % of them, so what is pooled over it is worse than over all, and
the draws of a figure have another mean than the figure itself. Only their spread is used: they are
moved so that their mean is the figure.

Source: A. C. Davison and D. V. Hinkley, "Bootstrap methods and their application", Cambridge 1997,
section 3.8.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

_RESAMPLES = 2000

Summary = dict[str, float | int]
Range = tuple[float, float]


def over_trainings(
    values: ArrayLike, limits: Range | None = None, *, level: float = 0.95, seed: int = 0
) -> Summary:
    """Mean over trainings.

    Args:
        values: (T, 1 + B), first of the images themselves, then of each draw of them.
        limits: of the figures, which no end of the interval leaves; None for none.
        level: of the interval.
        seed: of the resamples.

    Returns:
        ``value``, ``low``, ``high`` and the number of ``trainings``.

    Raises:
        ValueError: another shape, or a number that is not finite.

    >>> over_trainings([[1.0, 1.0], [3.0, 3.0]])["value"]
    2.0
    """
    table = _centred(values, 2)
    random = np.random.default_rng(seed)
    draws = _draws(table.shape[-1], random)
    chosen = random.integers(len(table), size=(_RESAMPLES, len(table)))
    return {
        **_summary(table[:, 0].mean(), table[chosen, draws[:, None]].mean(axis=1), level, limits),
        "trainings": len(table),
    }


def over_pairs(
    values: ArrayLike, limits: Range | None = None, *, level: float = 0.95, seed: int = 0
) -> Summary:
    """Mean over pairs of different trainings.

    Args:
        values: (T, T, 1 + B), symmetric in the trainings; the diagonal does not count.
        limits: of the figures, which no end of the interval leaves; None for none.
        level: of the interval.
        seed: of the resamples.

    Returns:
        ``value``, ``low``, ``high`` and the number of ``trainings``.

    Raises:
        ValueError: another shape, fewer than two trainings, or a number that is not finite.
    """
    table = _centred(values, 3)
    count = len(table)
    if count < 2:
        raise ValueError(f"expected at least two trainings for pairs, got {count}; train more")
    table[np.arange(count), np.arange(count)] = 0
    random = np.random.default_rng(seed)
    draws = _draws(table.shape[-1], random)
    chosen = random.integers(count, size=(_RESAMPLES, count))
    # A resample of one training over and over again has no pair: it is drawn anew.
    alike = (chosen == chosen[:, :1]).all(axis=1)
    while alike.any():
        chosen[alike] = random.integers(count, size=(int(alike.sum()), count))
        alike = (chosen == chosen[:, :1]).all(axis=1)
    pairs = table[chosen[:, :, None], chosen[:, None, :], draws[:, None, None]]
    different = (chosen[:, :, None] != chosen[:, None, :]).sum(axis=(1, 2))
    value = table[:, :, 0].sum() / (count * (count - 1))
    return {
        **_summary(value, pairs.sum(axis=(1, 2)) / different, level, limits),
        "trainings": count,
    }


def across(
    values: ArrayLike, limits: Range | None = None, *, level: float = 0.95, seed: int = 0
) -> Summary:
    """Mean over pairs of one training of each of two kinds.

    Args:
        values: (T, U, 1 + B).
        limits: of the figures, which no end of the interval leaves; None for none.
        level: of the interval.
        seed: of the resamples.

    Returns:
        ``value``, ``low``, ``high`` and the number of ``trainings`` T + U.

    Raises:
        ValueError: another shape, or a number that is not finite.
    """
    table = _centred(values, 3)
    random = np.random.default_rng(seed)
    draws = _draws(table.shape[-1], random)
    first, second = (random.integers(n, size=(_RESAMPLES, n)) for n in table.shape[:2])
    pairs = table[first[:, :, None], second[:, None, :], draws[:, None, None]]
    return {
        **_summary(table[:, :, 0].mean(), pairs.mean(axis=(1, 2)), level, limits),
        "trainings": sum(table.shape[:2]),
    }


def _draws(figures: int, random: np.random.Generator) -> NDArray[np.intp]:
    """Which draw of the images each resample takes; the images themselves where there is none."""
    return (
        random.integers(1, figures, size=_RESAMPLES) if figures > 1 else np.zeros(_RESAMPLES, int)
    )


def _summary(
    value: float, resampled: NDArray[np.float64], level: float, limits: Range | None
) -> Summary:
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    if limits is not None:
        low, high = np.clip([low, high], *limits)
    return {"value": float(value), "low": float(low), "high": float(high)}


def _centred(values: ArrayLike, dimensions: int) -> NDArray[np.float64]:
    """The figures with draws whose mean is the figure of the images themselves."""
    table = np.asarray(values).astype(np.float64)  # a copy
    shape = "(T, 1 + B)" if dimensions == 2 else "(T, U, 1 + B)"
    if table.ndim != dimensions or not table.size:
        raise ValueError(f"expected figures {shape}, got {table.shape}; one row a training")
    if not np.isfinite(table).all():
        raise ValueError(
            f"expected finite figures, got {int((~np.isfinite(table)).sum())} that are not; leave "
            "out images without an eigenpair"
        )
    if table.shape[-1] > 1:
        table[..., 1:] += table[..., :1] - table[..., 1:].mean(axis=-1, keepdims=True)
    return table
