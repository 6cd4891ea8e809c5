"""Correlation of two numbers of the same images."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import rankdata

from monai_ifim.experiments.statistics.bootstrap import Figures, Floats, Indices, paired_numbers


def spearman(a: ArrayLike, b: ArrayLike) -> Figures:
    """Spearman's rank correlation; a draw in which a or b is constant does not count.

    Args:
        a: (n,).
        b: (n,), of the same images in the same order.

    Returns:
        One figure, between -1 and 1.

    Raises:
        ValueError: another shape, different counts, a value that is not finite, or constant a
            or b.
    """
    pair = np.stack(paired_numbers(a=a, b=b))
    for name, row in zip("ab", pair, strict=True):
        if row.min() == row.max():
            raise ValueError(
                f"expected {name} to vary, got {row[0]} for all {len(row)} images; a constant "
                "has no rank correlation"
            )

    # scipy.stats.spearmanr of R draws would correlate each draw with every other one.
    def of(drawn: Indices) -> Floats:
        ranks = rankdata(pair[:, drawn], axis=-1)
        ranks -= (drawn.shape[-1] + 1) / 2  # the mean of mid-ranks, ties or not
        size = np.sqrt((ranks**2).sum(axis=-1).prod(axis=0))
        size[size == 0] = np.nan
        return (ranks.prod(axis=0).sum(axis=-1) / size).clip(-1, 1)[None]

    return Figures(pair.shape[1], of, width=2)
