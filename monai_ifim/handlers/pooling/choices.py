"""The pooled eigenspace of an epoch's images."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from monai_ifim.core import PooledEigenspace, Space, load_pooled
from monai_ifim.core.pooling.pool import Pool
from monai_ifim.core.pooling.stream import ROWS, check_choices

SUFFIX = ".safetensors"


def file_of_space(space: Space) -> Path | None:
    """The file that holds a pooled eigenspace which is to be read.

    Args:
        space: itself, a file, or none.

    Returns:
        The path; None where there is no file.
    """
    return Path(space) if space and isinstance(space, str | os.PathLike) else None


@dataclass(frozen=True)
class IFIMPooling:
    """What ``IFIMHandler(pooled=...)`` pools over the images of an epoch, and what it reports.

    All pairs of each image are pooled, whatever ``rank`` and ``energy`` of the handler keep; of a
    method that leaves directions out (segmentations, many classes) those that it has. No further
    pass is made. Memory: two sketches of at most twice ``sketch`` images' size each, on the device
    of the gradients.

    The file holds the sketches, eigenvalues and eigenvectors (``PooledEigenspace.load``); beside
    it, where all preprocessed images share shape and affine, a NIfTI file of the same name has the
    eigenvectors along its fourth axis, else the log says why not. Of several epochs each has a
    file, ``ifim_pooled_epoch_0003.safetensors``; the plain name is the last one's.

    Metrics of the engine, which are there before any other handler of the epoch's end looks:
    ``ifim_pooled_images`` and ``ifim_pooled_stable_rank``; from the second epoch on
    ``ifim_pooled_angle_before``, the largest principal angle to the epoch before, in degrees, and
    with a reference ``ifim_pooled_angle_reference``; each with ``_mean`` where ``angle_rank`` is
    more than 1. An angle alone shows that something has changed, not that it is better or worse;
    random weights can come close, too (``pooled_eigenspace(control="random_weights")``).

    Args:
        filename: in the handler's ``output_dir``, or a path, where no file of others is replaced;
            None for no file. The result is in ``engine.state.ifim_pooled`` as well, in a
            distributed run on rank 0.
        rank: eigenpairs to keep.
        weights: ``"unit_trace"`` or ``"equal"``, as in ``pooled_eigenspace``.
        sketch: rows to keep of each half of the images; four times the rank by default.
        reference: a pooled eigenspace, or a file of one, to which the angle is reported.
        angle_rank: how many leading directions are compared, the same in every epoch.
        blur: directions are compared after smoothing with this standard deviation in voxels,
            because single ones depend on the training; None for as they are.
        every_epoch: keep a file of each epoch. One takes up to 4 x ``sketch`` images' size.

    Raises:
        ValueError: another kind of file or of weights, or a number out of range.
        TypeError: a reference that is no pooled eigenspace.
        OSError: its file cannot be read.
    """

    filename: str | os.PathLike[str] | None = "ifim_pooled.safetensors"
    rank: int = 10
    weights: str = "unit_trace"
    sketch: int | None = None
    reference: PooledEigenspace | str | os.PathLike[str] | None = None
    angle_rank: int = 1
    blur: float | None = 2.0
    every_epoch: bool = True
    reference_file: Path | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        check_choices(self.rank, self.size, self.weights)
        if self.filename is not None and not os.fspath(self.filename).endswith(SUFFIX):
            raise ValueError(
                f"expected a name that ends in {SUFFIX}, got {os.fspath(self.filename)!r}; take "
                "ifim_pooled.safetensors"
            )
        if not 1 <= self.angle_rank <= self.rank:
            raise ValueError(
                f"expected angle_rank from 1 to rank={self.rank}, got {self.angle_rank}; 1 "
                "compares the leading direction"
            )
        if self.blur is not None and not 0 <= self.blur < float("inf"):
            raise ValueError(
                f"expected blur in voxels >= 0 or None, got {self.blur}; 2 is a good start"
            )
        reference = load_pooled(self.reference)
        object.__setattr__(self, "reference_file", file_of_space(self.reference))
        if reference is not None and len(reference.eigenvalues) < self.angle_rank:
            raise ValueError(
                f"expected a reference with angle_rank={self.angle_rank} directions, got "
                f"{len(reference.eigenvalues)}; give a smaller angle_rank"
            )
        object.__setattr__(self, "reference", reference)

    @property
    def size(self) -> int:
        """Rows of each sketch."""
        return ROWS * self.rank if self.sketch is None else self.sketch

    @property
    def summing(self) -> dict[str, str | int]:
        """Choices that must be the same in all sessions and shards of a run, by name."""
        return {"weights": self.weights, "rank": self.rank, "sketch": self.size}

    def pool(self) -> Pool:
        """What an epoch begins with."""
        return Pool(self.rank, self.size, self.weights, control=False)

    def path(self, output_dir: Path | None) -> Path | None:
        """Where the file is written.

        Args:
            output_dir: of the handler.

        Returns:
            The path; None for none.
        """
        if self.filename is None:
            return None
        return Path(self.filename) if output_dir is None else output_dir / self.filename
