"""The preprocessing of a plain network, and any preprocessing in words."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from typing import Any

from monai.transforms import (
    Compose,
    EnsureChannelFirstd,
    LoadImaged,
    NormalizeIntensityd,
    Orientationd,
    Resized,
    ScaleIntensityd,
    Spacingd,
)

from monai_ifim.transforms.checks import CheckImaged
from monai_ifim.transforms.single_slice import SqueezeSingleSliced, UnsqueezeSingleSliced

INTENSITIES = ("none", "range", "zscore")
_LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}
_LABELS = (("L", "R"), ("P", "A"), ("I", "S"))


def image_preprocessing(
    *,
    dims: int | None = None,
    channels: int | None = None,
    orientation: str | None = None,
    spacing: Sequence[float] | None = None,
    size: Sequence[int] | None = None,
    intensity: str = "none",
) -> Compose:
    """The usual preprocessing of a network's images, of the steps that are asked for alone.

    It loads the image under ``image`` and puts its channel first; pictures are read as what they
    show where Pillow is installed (``LoadPictured``). The other steps come in the order of the
    arguments, and each can be undone.

    Args:
        dims: spatial axes that the network takes; 2 drops the last axis of a single slice, 3 makes
            a volume of one. By default the length of ``size`` or ``spacing``.
        channels: how many channels it takes; an image of another shape is refused.
        orientation: of the axes, for example ``"RAS"``.
        spacing: of the voxels along each axis, in the unit of the affine, mostly mm.
        size: of the image along each axis.
        intensity: ``"range"`` scales each image to 0 to 1, ``"zscore"`` each channel to mean 0 and
            standard deviation 1, ``"none"`` leaves the values as they are.

    Returns:
        The steps.

    Raises:
        ValueError: an unknown intensity, numbers that do not fit together, or channels alone.

    >>> steps = image_preprocessing(size=(64, 60), channels=1, intensity="range")
    >>> in_words(steps).partition("SqueezeSingleSliced, ")[2]
    'CheckImaged (1 channel, 2 axes), Resized (64, 60), ScaleIntensityd (0 to 1)'
    """
    dims = _dimensions(dims, channels, orientation, spacing, size)
    if intensity not in INTENSITIES:
        raise ValueError(
            f"expected an intensity from {', '.join(INTENSITIES)}, got {intensity!r}; give a "
            "preprocessing of your own for another one"
        )
    load: Any = LoadImaged
    if find_spec("PIL") is not None:
        from monai_ifim.data.sources.pictures import LoadPictured as load
    steps: list[Any] = [load("image"), EnsureChannelFirstd("image")]
    if dims == 2:
        steps.append(SqueezeSingleSliced("image"))
    if channels is not None and dims is not None:
        steps.append(CheckImaged("image", channels, dims))
    steps += _geometry(dims, orientation, spacing, size)
    if intensity == "range":
        steps.append(ScaleIntensityd("image", minv=0.0, maxv=1.0))
    elif intensity == "zscore":
        steps.append(NormalizeIntensityd("image", channel_wise=True))
    return Compose(steps)


def _geometry(
    dims: int | None,
    orientation: str | None,
    spacing: Sequence[float] | None,
    size: Sequence[int] | None,
) -> Iterator[Any]:
    """Steps that change axes and grid."""
    if orientation is not None or (dims == 3 and (spacing, size) != (None, None)):
        yield UnsqueezeSingleSliced("image")
    if orientation is not None:
        yield Orientationd("image", axcodes=orientation, labels=_LABELS)
    if spacing is not None:
        yield Spacingd("image", pixdim=tuple(spacing), mode="bilinear")
    if size is not None:
        yield Resized("image", spatial_size=tuple(size), mode=_LINEAR[len(size)])


def _dimensions(
    dims: int | None,
    channels: int | None,
    orientation: str | None,
    spacing: Sequence[float] | None,
    size: Sequence[int] | None,
) -> int | None:
    """Spatial axes of the network; None where nothing says how many."""
    lengths = {"size": size, "spacing": spacing}
    given = {name: len(values) for name, values in lengths.items() if values is not None}
    given |= {} if dims is None else {"dims": dims}
    if len(set(given.values())) > 1 or not set(given.values()) <= set(_LINEAR):
        told = ", ".join(f"{number} by {name}" for name, number in given.items())
        raise ValueError(f"expected one number of axes, 1 to 3, got {told}; give one for each axis")
    found = next(iter(given.values()), None)
    if channels is not None and found is None:
        raise ValueError(
            "expected dims together with channels, to check images by, got channels alone; give "
            "dims or size as well"
        )
    if (channels is not None and channels < 1) or any(number <= 0 for number in size or ()):
        raise ValueError(f"expected numbers above 0, got channels {channels}, size {size}")
    if any(number <= 0 for number in spacing or ()):
        raise ValueError(f"expected a spacing above 0, got {spacing}; give one for each axis")
    if orientation is not None and found not in (None, 3):
        raise ValueError(
            f"expected an orientation for volumes alone, got {orientation!r} with {found} axes; "
            "leave it out"
        )
    return found


def in_words(transform: Any) -> str:
    """The steps of a preprocessing by name.

    Args:
        transform: one, or several in containers; None where there is none.

    Returns:
        Their classes in order.

    >>> from monai.transforms import Compose, LoadImaged, Resized
    >>> in_words(Compose([Resized("image", (4, 5))]))
    'Resized (4, 5)'
    """
    parts = getattr(transform, "transforms", None)
    if parts is None:
        parts = [] if transform is None else [transform]
    return ", ".join(in_words(p) if hasattr(p, "transforms") else _step(p) for p in parts) or "none"


def _step(transform: Any) -> str:
    """A transform's class, with what says most about it."""
    name = type(transform).__name__
    about = _ABOUT.get(name)
    return name if about is None else f"{name} ({about(transform)})"


def _numbers(values: Any) -> str:
    return ", ".join(f"{value:g}" for value in values)


_ABOUT: dict[str, Callable[[Any], str]] = {
    "CheckImaged": lambda t: (
        f"{t.channels} channel{'s' if t.channels > 1 else ''}, {t.spatial_dims} axes"
    ),
    "Orientationd": lambda t: str(t.ornt_transform.axcodes),
    "Spacingd": lambda t: _numbers(t.spacing_transform.pixdim),
    "Resized": lambda t: _numbers(t.resizer.spatial_size),
    "ScaleIntensityd": lambda t: f"{t.scaler.minv:g} to {t.scaler.maxv:g}",
    "NormalizeIntensityd": lambda t: (
        f"mean 0, deviation 1{', each channel' if t.normalizer.channel_wise else ''}"
    ),
}
