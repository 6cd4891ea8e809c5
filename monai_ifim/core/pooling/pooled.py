"""The eigenspace of a pooled F, as a value that can be compared, merged and stored."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from monai_ifim.core.angles import principal_angles
from monai_ifim.core.checks import check_rank
from monai_ifim.core.pooling.sketch import Rows, Sketch
from monai_ifim.core.pooling.storage import read_tensors, write_tensors
from monai_ifim.core.smoothing import along_axes, gaussian_matrices

_FORMAT = "monai_ifim pooled eigenspace 1"
_ABOUT = "about."  # before the names of further texts
# Eigenvalues below this share of the largest are rounding of the rows.
_ROUNDING = 1e-12
# Halves agree where the smallest squared cosine of their leading directions is this.
_STABLE = 0.5

Metric = float | Tensor | None


@dataclass(frozen=True)
class Totals:
    """What was pooled.

    Attributes:
        count: images.
        weight: sum that the weighted F are divided by.
        first: Σ w tr F.
        second: Σ (w tr F)².
        left_out: images without a direction: not finite, or (with unit traces) a trace of 0.
    """

    count: int = 0
    weight: float = 0.0
    first: float = 0.0
    second: float = 0.0
    left_out: int = 0

    def __add__(self, other: Totals) -> Totals:
        mine, theirs = asdict(self), asdict(other)
        return Totals(**{name: mine[name] + theirs[name] for name in mine})


@dataclass(frozen=True, eq=False, repr=False)
class PooledEigenspace:
    """Leading eigenpairs of F̄ = Σ w_i F(x_i) / Σ w_i.

    Attributes:
        halves: two sketches, of every other image each; ``pooled_eigenspace`` makes them.
        totals: what was pooled.
        rank: at most so many eigenpairs.
        weights: ``"unit_trace"``, ``"equal"`` or ``"numbers"``.
        likelihood: the predictive family in words.
        mean_jacobian: mean over the images of ∂(logits - their mean)/∂x, (K, C, *S), which is the
            baseline to show beside the eigenvectors; of sigmoids without the mean. None with more
            logits than the sketch has rows, and where a method left directions out.
        control: the same images with a network of random weights; None where it was not asked for.
        about: texts that are stored with it, such as ``"network"``, its class and digest; of merged
            ones those in which all agree.
    """

    halves: tuple[Rows, Rows]
    totals: Totals
    rank: int
    weights: str
    likelihood: str
    mean_jacobian: Tensor | None = None
    control: PooledEigenspace | None = None
    about: Mapping[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        """One line: how many images of which shape, and the stable directions."""
        return (
            f"PooledEigenspace({self.count} images of shape {tuple(self.eigenvectors.shape[1:])}, "
            f"{len(self.eigenvalues)} directions, {self.stable_rank} stable, {self.likelihood}, "
            f"weights {self.weights!r})"
        )

    @cached_property
    def _whole(self) -> tuple[Rows, Tensor]:
        rows = self.halves[0] + self.halves[1]
        rows = rows.times(torch.full_like(rows.scale, 1 / self.totals.weight))
        return rows.decomposed(self.rank)

    @cached_property
    def eigenvalues(self) -> Tensor:
        """(R,) in float64, falling, R <= rank. With unit traces they are shares of the trace 1."""
        squares = self._whole[1][0]
        return squares[squares > _ROUNDING * squares[:1]]

    @cached_property
    def eigenvectors(self) -> Tensor:
        """(R, C, *S), orthonormal; the entry of the largest magnitude is positive."""
        return _unit(self._whole[0].values[0, : len(self.eigenvalues)])

    @property
    def trace(self) -> float:
        """Of F̄."""
        return float(self._whole[0].trace)

    @property
    def lost_trace(self) -> float:
        """What of the trace is not in the sketch; of exact methods, no eigenvalue lacks more."""
        rows = self.halves[0] + self.halves[1]
        return float(rows.lost_trace) / self.totals.weight

    @property
    def eigenvalue_error(self) -> float:
        """What an eigenvalue may lack at most: the largest that each truncation dropped, summed.

        Where a method left directions out, with what it may have lost with a probability of 99 %.
        """
        rows = self.halves[0] + self.halves[1]
        return float(rows.bound) / self.totals.weight

    @property
    def count(self) -> int:
        """How many images were pooled."""
        return self.totals.count

    @property
    def left_out(self) -> int:
        """How many images had no direction."""
        return self.totals.left_out

    @property
    def effective_count(self) -> float:
        """(Σ w tr F)² / Σ (w tr F)²: how many images of equal traces would say as much."""
        totals = self.totals
        return totals.first**2 / totals.second if totals.second > 0 else 0.0

    @cached_property
    def stability(self) -> Tensor:
        """Agreement of the two halves of the images, (R,) in float64.

        Entry r is the smallest squared cosine of the principal angles between the r leading
        directions of either half; 0 where a half has fewer.
        """
        result = torch.zeros_like(self.eigenvalues)
        spaces = [_directions(half, len(result)) for half in self.halves]
        for r in range(min(len(result), *(len(space) for space in spaces))):
            first, second = (space[None, : r + 1] for space in spaces)
            result[r] = principal_angles(first, second)[0, -1].cos().square()
        return result

    @property
    def stable_rank(self) -> int:
        """The most leading directions in which the halves agree (stability of at least 0.5)."""
        stable = (self.stability >= _STABLE).nonzero()
        return int(stable.max()) + 1 if len(stable) else 0

    @property
    def jacobian_directions(self) -> Tensor:
        """Orthonormal directions that span the mean Jacobian, (Q, C, *S), strongest first.

        Raises:
            ValueError: there is no mean Jacobian.
        """
        if self.mean_jacobian is None:
            raise ValueError(
                "expected a mean Jacobian, got none: there were more logits than rows of the "
                "sketch, or directions were left out; give a larger sketch, or method='exact'"
            )
        ones = torch.ones(1, dtype=torch.float64, device=self.mean_jacobian.device)
        return _directions(Rows(self.mean_jacobian[None], ones, ones, 0 * ones), self.rank)

    def coefficients(self, images: Tensor, rank: int | None = None) -> Tensor:
        """Inner products of images with the eigenvectors: no backward pass.

        Args:
            images: (B, C, *S), in the network's input space.
            rank: of the leading ``rank`` eigenvectors alone.

        Returns:
            (B, R) in float64.

        Raises:
            ValueError: images of another shape, or a rank out of range.
        """
        check_rank(rank, None, len(self.eigenvalues))
        shape = tuple(self.eigenvectors.shape[1:])
        if tuple(images.shape[1:]) != shape:
            raise ValueError(
                f"expected images (B, {', '.join(map(str, shape))}), got {tuple(images.shape)}; "
                "preprocess them as those that were pooled"
            )
        values = images.detach().as_subclass(Tensor).double().flatten(1)
        return values @ self.eigenvectors[:rank].to(values).flatten(1).T

    def split(self, images: Tensor, rank: int | None = None) -> tuple[Tensor, Tensor]:
        """Components inside and outside of the pooled eigenspace: no backward pass.

        Args:
            images: (B, C, *S), in the network's input space.
            rank: of the leading ``rank`` eigenvectors alone.

        Returns:
            Both (B, C, *S); they add up to the images and are orthogonal.
        """
        plain = images.detach().as_subclass(Tensor)
        high = self.synthesis(self.coefficients(images, rank)).to(plain)
        return high, plain - high

    def synthesis(self, coefficients: Tensor) -> Tensor:
        """The combination of the leading eigenvectors with these coefficients.

        Args:
            coefficients: (B, R) or fewer columns, for example from ``coefficients(images)``.

        Returns:
            (B, C, *S), of the coefficients' dtype.
        """
        vectors = self.eigenvectors[: coefficients.shape[1]].to(coefficients)
        return torch.einsum("br,r...->b...", coefficients, vectors)

    def angles(
        self, other: PooledEigenspace | Tensor, metric: Metric = None, *, rank: int | None = None
    ) -> Tensor:
        """Principal angles to another space, in radians, ascending.

        Args:
            other: a pooled eigenspace, or directions (Q, C, *S).
            metric: in which directions are compared: None for pixels; a number for directions
                smoothed with that standard deviation in voxels; images (n, C, *S) less the mean of
                their class, in whose covariance (the within-class one) they are compared.
            rank: of the leading ``rank`` directions of both; the smaller of both stable ranks (at
                least one) by default.

        Returns:
            (rank,) in float64. Show those to ``control`` beside them: random weights can come
            close, too, above all in a covariance.
        """
        theirs = other.eigenvectors if isinstance(other, PooledEigenspace) else other
        if rank is None:
            ranks = [self.stable_rank]
            ranks.append(other.stable_rank if isinstance(other, PooledEigenspace) else len(other))
            rank = max(1, min(ranks))
        check_rank(rank, None, min(len(self.eigenvalues), len(theirs)))
        seen = _seen_through(metric, self.eigenvectors)
        mine, theirs = seen(self.eigenvectors[:rank]), seen(theirs[:rank])
        return principal_angles(mine[None], theirs[None].to(mine))[0]

    def merged(self, other: PooledEigenspace) -> PooledEigenspace:
        """Pooled over the images of both: of shards, ranks or runs.

        Args:
            other: of the same network, weights and shape of images.

        Returns:
            As if all images had come in one stream, but for what the sketches drop.

        Raises:
            ValueError: another family, kind of weights, or shape.
        """
        for name in ("likelihood", "weights"):
            if getattr(self, name) != getattr(other, name):
                raise ValueError(
                    f"expected one {name} for both, got {getattr(self, name)!r} and "
                    f"{getattr(other, name)!r}; pool both in the same way"
                )
        shapes = [tuple(each.halves[0].values.shape[2:]) for each in (self, other)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"expected images of one shape, got {shapes[0]} and {shapes[1]}; preprocess both "
                "in the same way"
            )
        jacobian = None
        if self.mean_jacobian is not None and other.mean_jacobian is not None:
            share = self.count / (self.count + other.count)
            jacobian = share * self.mean_jacobian + (1 - share) * other.mean_jacobian
        pairs = zip(self.halves, other.halves, strict=True)
        first, second = (_few(mine + theirs, self._size(other)) for mine, theirs in pairs)
        control = None
        if self.control is not None and other.control is not None:
            control = self.control.merged(other.control)
        return replace(
            self,
            halves=(first, second),
            totals=self.totals + other.totals,
            rank=min(self.rank, other.rank),
            mean_jacobian=jacobian,
            control=control,
            about=dict(self.about.items() & other.about.items()),
        )

    def _size(self, other: PooledEigenspace) -> int:
        return max(half.values.shape[1] for half in (*self.halves, *other.halves))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the sketches, so that what is read can be merged, too. The control is left out.

        Args:
            path: of a file in the safetensors format, which holds no code; it appears only when it
                is complete.
        """
        tensors: dict[str, Tensor] = {}
        for i, half in enumerate(self.halves):
            tensors |= {f"half_{i}.{name}": value for name, value in vars(half).items()}
        if self.mean_jacobian is not None:
            tensors["mean_jacobian"] = self.mean_jacobian
        tensors |= {"eigenvalues": self.eigenvalues, "eigenvectors": self.eigenvectors}
        texts = {"weights": self.weights, "likelihood": self.likelihood, "rank": self.rank}
        texts |= {"format": _FORMAT, **asdict(self.totals)}
        texts |= {f"{_ABOUT}{name}": text for name, text in self.about.items()}
        write_tensors(path, tensors, {name: str(value) for name, value in texts.items()})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> PooledEigenspace:
        """Read what ``save`` wrote.

        Args:
            path: of the file.

        Returns:
            The same eigenspace, on the CPU.

        Raises:
            ValueError: not such a file.
        """
        tensors, texts = read_tensors(path)
        if texts.get("format") != _FORMAT:
            raise ValueError(
                f"expected {_FORMAT!r} in {path}, got {texts.get('format')!r}; write it with save()"
            )
        names = ("values", "scale", "trace", "bound")
        try:
            first, second = (Rows(*(tensors[f"half_{i}.{n}"] for n in names)) for i in (0, 1))
            numbers = {n: float(texts[n]) for n in ("weight", "first", "second")}
            counts = {n: int(texts[n]) for n in ("count", "left_out")}
            rank, weights, likelihood = int(texts["rank"]), texts["weights"], texts["likelihood"]
        except KeyError as error:
            raise ValueError(
                f"expected the entry {error} in {path}, got none; write it with save()"
            ) from error
        return cls(
            halves=(first, second),
            totals=Totals(**numbers, **counts),  # type: ignore[arg-type]
            rank=rank,
            weights=weights,
            likelihood=likelihood,
            mean_jacobian=tensors.get("mean_jacobian"),
            about={n.removeprefix(_ABOUT): t for n, t in texts.items() if n.startswith(_ABOUT)},
        )


def _few(rows: Rows, size: int) -> Rows:
    sketch = Sketch(size)
    sketch.add(rows)
    assert sketch.rows is not None
    return sketch.rows


def _directions(rows: Rows, most: int) -> Tensor:
    """Orthonormal directions (Q, C, *S) of the rows of one sum, strongest first."""
    rows, squares = rows.decomposed(most)
    kept = squares[0] > _ROUNDING * squares[0, :1]
    return _unit(rows.values[0, : int(kept.sum())])


def _unit(rows: Tensor) -> Tensor:
    flat = rows.flatten(1)
    lengths = torch.linalg.vector_norm(flat, dim=1, keepdim=True, dtype=torch.float64)
    largest = flat.gather(1, flat.abs().argmax(dim=1, keepdim=True))
    return (flat / lengths.to(flat) * torch.where(largest < 0, -1, 1)).view_as(rows)


def _seen_through(metric: Metric, like: Tensor) -> Callable[[Tensor], Tensor]:
    """What is done to directions (Q, C, *S) before their angles are taken."""
    if metric is None:
        return lambda v: v.double()
    if isinstance(metric, Tensor):
        if metric.ndim != like.ndim or metric.shape[1:] != like.shape[1:]:
            raise ValueError(
                f"expected images (n, {', '.join(map(str, like.shape[1:]))}) less their class's "
                f"mean as the metric, got {tuple(metric.shape)}; preprocess them as the others"
            )
        deviations = metric.as_subclass(Tensor).double().flatten(1)
        return lambda v: (v.to(deviations).flatten(1) @ deviations.T)[:, None]
    spatial = like.shape[2:]
    matrices = gaussian_matrices(spatial, [float(metric)] * len(spatial))
    return lambda v: along_axes(v.double(), matrices)
