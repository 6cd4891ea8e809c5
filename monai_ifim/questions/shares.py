"""Where the sensitivity is: shares of the trace by region and by channel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from monai_ifim.changes import label_map_of, label_numbers
from monai_ifim.questions.question import Answer, Asked


class ShareColumns:
    """Columns ``share_<region>`` of a label map and ``channel_share_<name>``.

    Shares of regions add up to 1, ``share_other`` included, which is everything that has none of
    the labels. They are empty where F = 0. They say where the sensitivity is, not why.

    Args:
        key: of the label maps in the batch, (B, 1, *S) on the grid of the preprocessed images;
            None for shares of channels alone.
        labels: numbers of the regions, also by name, ``{"hippocampus": 1}``. A region that an image
            does not have has the share 0. By default those that each image has, and the others'
            cells are empty.
        channels: names of the channels in order; numbers where their count does not fit. No
            columns for images of one channel, or where it is False.
        other: name of the region that has none of the labels.

    Raises:
        ValueError: labels that are none, labels without a key, or a region named as the rest is.
    """

    name = "shares"
    volumes = ()

    def __init__(
        self,
        key: str | None = None,
        labels: Mapping[str, int] | Sequence[int] | None = None,
        channels: Sequence[str] | bool = True,
        other: str = "other",
    ) -> None:
        if (labels and key is None) or not (key is None or isinstance(key, str)):
            raise ValueError(
                f"expected the key of label maps with labels {labels!r}, got {key!r}; name it: "
                "{'key': 'organs', 'labels': {'liver': 1}}"
            )
        self.key, self.labels = key, label_numbers(labels or ())
        self.other = other
        if other in self.labels:
            raise ValueError(
                f"expected regions of other names than {other!r}, which is everything without a "
                "label, got one; give that another name with other='rest'"
            )
        self.channels = channels if isinstance(channels, bool) else [str(each) for each in channels]

    def answer(self, asked: Asked) -> Answer:
        """Shares of some images.

        Args:
            asked: the images.

        Returns:
            Columns.

        Raises:
            MissingEntry: no label maps under that key.
            ValueError: label maps of another grid, or of fractions.
        """
        columns: list[dict[str, float | None]] = [{} for _ in asked.images]
        if self.key is not None:
            self._add_regions(columns, asked, label_map_of(asked.batch, self.key))
        count = asked.images.shape[1]
        if self.channels is not False and count > 1:
            fits = self.channels is not True and len(set(self.channels)) == count
            names = self.channels if fits else range(count)
            shares = asked.space.channel_shares()
            self._add(columns, asked, [f"channel_share_{name}" for name in names], shares)  # type: ignore[union-attr]
        return Answer(columns)

    def _add_regions(
        self, columns: list[dict[str, float | None]], asked: Asked, labels: Tensor
    ) -> None:
        known = self.labels or label_numbers(labels.unique().tolist())
        numbers = torch.tensor(list(known.values()), device=labels.device)
        masks = [labels == number for number in known.values()]
        masks.append(~torch.isin(labels, numbers))
        shares = asked.space.shares(torch.stack(masks, dim=1))
        self._add(columns, asked, [f"share_{name}" for name in [*known, self.other]], shares)
        if self.labels:
            return
        for own, each in zip(columns, labels, strict=True):
            there = each.unique().tolist()
            for name, number in known.items():
                if number not in there:
                    del own[f"share_{name}"]

    @staticmethod
    def _add(
        columns: list[dict[str, float | None]], asked: Asked, names: Sequence[str], shares: Tensor
    ) -> None:
        zero = (asked.space.trace == 0).tolist()
        for own, row, without in zip(columns, shares.tolist(), zero, strict=True):
            own |= {n: None if without else s for n, s in zip(names, row, strict=True)}
