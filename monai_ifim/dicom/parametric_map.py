"""One component as a float Parametric Map, on the frames of its source series."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np
from monai.data import MetaTensor

from monai_ifim.data.atomic import complete_file
from monai_ifim.data.nifti import affine_in_millimetres, model_of
from monai_ifim.dicom.codes import MAPS
from monai_ifim.dicom.identity import (
    SHORT_SENTENCE,
    Result,
    built,
    character_set,
    copy_side,
    identity,
    in_words,
    shortened,
    uid_of,
)
from monai_ifim.dicom.planes import frames_on
from monai_ifim.dicom.series import Source, SourceSeries, read_series

Component = Literal["high", "orth", "sensitivity"]
_NAMED = re.compile(r"_ifim_(high|orth|sensitivity)(?:_\d+)*\.nii(?:\.gz)?$")


def write_parametric_map(
    volume: str | os.PathLike[str] | nib.Nifti1Image | MetaTensor,
    source: Source,
    path: str | os.PathLike[str],
    *,
    component: Component | None = None,
    channel: int | None = None,
    model: str = "",
    created: datetime | None = None,
) -> Path:
    """Write a component as a DICOM Parametric Map in its series' frame of reference.

    The values are stored as they are, in float32 or float64, a frame for each slice of the series
    in the order of its slices. Patient and study are the series'. Needs
    ``pip install 'monai_ifim[dicom]'``. Research use only: a component shows where the classifier
    is locally sensitive, not anatomy, not a cause, not a diagnosis.

    Args:
        volume: a component that a run wrote, or one in memory, on the series' own grid; a
            MetaTensor is (C, X, Y, Z) with its affine in RAS.
        source: the series: its folder, its files, or pydicom data sets of it.
        path: of the object; a file that is there is replaced. It appears only when complete.
        component: which one it is; by the file's name where that says it.
        channel: which one to write of a volume with several, from 0.
        model: network that made it; by the file's header where that says it.
        created: when its values were computed; by default the time of the file, or now. The same
            volume of the same time gives the same UIDs.

    Returns:
        The path.

    Raises:
        ValueError: the volume is not on the series' grid, has NaN or several channels, or is of an
            unknown component; or the series has no frame of reference.
        ModuleNotFoundError: highdicom is not installed.

    >>> import monai_ifim as mi
    >>> mi.write_parametric_map("out/ct_ifim_high.nii.gz", "ct", "high.dcm")  # doctest: +SKIP
    """
    check_highdicom()
    name = os.fspath(volume) if isinstance(volume, str | os.PathLike) else ""
    found = _NAMED.search(name)
    component = component or (found[1] if found else None)  # type: ignore[assignment]
    if component not in MAPS:
        raise ValueError(
            f"expected a component from {tuple(MAPS)}, got {component!r}; say component='high'"
        )
    if created is None:
        created = datetime.fromtimestamp(os.stat(name).st_mtime) if name else datetime.now()
    values, affine, told = _read(volume)
    result = Result(model or told, created)
    made = parametric_map(
        _channel(values, channel), affine, read_series(source), component, result, channel
    )
    with complete_file(path) as partial:
        made.save_as(partial, enforce_file_format=True)
    return Path(path)


def parametric_map(
    volume: np.ndarray,
    affine: np.ndarray,
    source: SourceSeries,
    component: str,
    result: Result,
    channel: int | None = None,
) -> Any:
    """Make a Parametric Map.

    Args:
        volume: (X, Y, Z).
        affine: (4, 4), voxels to millimetres, RAS.
        source: on whose grid the volume is.
        component: one of ``MAPS``.
        result: what is known of it.
        channel: its number in the network's input, from 0; None for the only one.

    Returns:
        highdicom's object, with its frames in the order of the source's.

    Raises:
        ValueError: the volume is not on the source's grid, or not finite; or the source has no
            frame of reference.
    """
    from highdicom.pm import ParametricMap

    if source.planes is None:
        raise ValueError(source.why)
    frames = frames_on(volume, affine, source.planes)
    frames = np.ascontiguousarray(frames, "<f8" if frames.dtype.itemsize > 4 else "<f4")
    if not np.isfinite(frames).all():
        raise ValueError(
            "expected finite values, got NaN or infinity; the image has no result: see its row"
        )
    concept = MAPS[component]
    about = identity(source, component, result, frames, part=channel)
    what = concept.meaning if channel is None else f"Channel {channel + 1}: {concept.meaning}"
    made = built(
        ParametricMap,
        result,
        source_images=source.datasets,
        pixel_array=frames,
        contains_recognizable_visual_features=_recognizable(source),
        real_world_value_mappings=[_mapping(component, what, frames)],
        voi_lut_transformations=[_window(frames)],
        content_label=f"IFIM_{component.upper()}"[:16],
        content_description=SHORT_SENTENCE,
        **character_set(source, [result.model]),
        **about,
    )
    copy_side(made, source)
    made.ImageComments = shortened(f"{what}. {in_words(result)}", 1024)
    _set_dimension(made, source)
    return _in_order(made, source.planes.positions)


def check_highdicom() -> None:
    """Refuse to begin what highdicom is needed for.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    try:
        import highdicom  # noqa: F401
    except ImportError as error:
        raise ModuleNotFoundError(
            f"expected highdicom, which writes DICOM objects, got none ({error}); "
            "pip install 'monai_ifim[dicom]'",
            name="highdicom",
        ) from error


def channels_of(volume: np.ndarray) -> np.ndarray:
    """Channels first.

    Args:
        volume: of a NIfTI, up to four axes.

    Returns:
        (C, X, Y, Z).
    """
    volume = volume.reshape(*volume.shape, *[1] * (3 - volume.ndim))
    return np.moveaxis(volume.reshape(*volume.shape[:3], -1), -1, 0)


def _read(volume: Any) -> tuple[np.ndarray, np.ndarray, str]:
    """Values (C, X, Y, Z), affine, and the network as the header names it."""
    if isinstance(volume, MetaTensor):
        values = volume.detach().cpu().as_tensor().numpy()
        values = values.reshape(*values.shape, *[1] * (4 - values.ndim))
        affine = np.asarray(volume.affine, dtype=np.float64)
        if affine.shape != (4, 4):
            raise ValueError(
                f"expected an affine (4, 4), got {affine.shape}; keep that of the image's reader"
            )
        return values, affine, ""
    image = nib.load(volume) if isinstance(volume, str | os.PathLike) else volume
    values = channels_of(np.asarray(image.dataobj))
    return values, affine_in_millimetres(image), model_of(image.header)


def _channel(values: np.ndarray, channel: int | None) -> np.ndarray:
    if channel is None and len(values) == 1:
        return np.asarray(values[0])
    if channel is None or not 0 <= channel < len(values):
        raise ValueError(
            f"expected one channel, got {len(values)} and channel={channel}; say which one, "
            f"from 0 to {len(values) - 1}"
        )
    return np.asarray(values[channel])


def _recognizable(source: SourceSeries) -> bool:
    """Whether a face could be made out: as the source says, and yes where it does not."""
    return bool(source.first.get("RecognizableVisualFeatures") != "NO")


def _mapping(component: str, what: str, frames: np.ndarray) -> Any:
    """The values are their own meaning: slope 1, intercept 0."""
    from highdicom.pm import RealWorldValueMapping

    concept = MAPS[component]
    return RealWorldValueMapping(
        lut_label=f"IFIM {component}"[:16],
        lut_explanation=shortened(what),
        unit=concept.unit_code(),
        value_range=(float(frames.min()), float(frames.max())),
        slope=1.0,
        intercept=0.0,
        quantity_definition=concept.code(),
    )


def _window(frames: np.ndarray) -> Any:
    """All values, with 0 in the middle where there are negative ones."""
    # LINEAR, the default, forbids widths below 1, which these values have.
    from highdicom import VOILUTTransformation

    low, high = float(frames.min()), float(frames.max())
    if low < 0:
        high = max(-low, high)
        low = -high
    return VOILUTTransformation(
        window_center=(low + high) / 2,
        window_width=(high - low) or 1.0,
        voi_lut_function="LINEAR_EXACT",
    )


def _set_dimension(made: Any, source: SourceSeries) -> None:
    """The frames' dimension with a UID that is not random."""
    uid = uid_of("dimension", source.first.SeriesInstanceUID)
    for item in (*made.DimensionOrganizationSequence, *made.DimensionIndexSequence):
        item.DimensionOrganizationUID = uid


def _in_order(made: Any, positions: np.ndarray) -> Any:
    """Frames as the source's slices are: viewers go by their numbers."""
    # highdicom 0.28 sorts them along its own normal, which is the other direction.
    groups = list(made.PerFrameFunctionalGroupsSequence)
    places = np.array([g.PlanePositionSequence[0].ImagePositionPatient for g in groups], float)
    order = [int(np.abs(places - position).sum(1).argmin()) for position in positions]
    name = "FloatPixelData" if "FloatPixelData" in made else "DoubleFloatPixelData"
    frames = np.frombuffer(made[name].value, np.uint8).reshape(len(groups), -1)
    setattr(made, name, frames[order].tobytes())
    made.PerFrameFunctionalGroupsSequence = _numbered([groups[i] for i in order])
    return made


def _numbered(groups: Sequence[Any]) -> Sequence[Any]:
    for number, group in enumerate(groups, start=1):
        group.FrameContentSequence[0].DimensionIndexValues = number
    return groups
