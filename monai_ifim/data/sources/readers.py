"""Readers for MONAI's ``LoadImage``: DICOM with highdicom's geometry, and further formats."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
from monai.data import ITKReader, NibabelReader, NumpyReader, PILReader, PydicomReader
from monai.data.image_reader import ImageReader
from monai.transforms import Compose, LoadImage, LoadImaged

from monai_ifim.data.sources.dicom import (
    files_of,
    image_slices,
    is_segmentation,
    prepared,
    problem_of,
)
from monai_ifim.data.sources.dicom_stream import read_dicom

_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


class SeriesReader(ImageReader):
    """Reads one DICOM series, or one slice, with the geometry that highdicom finds.

    The axes are columns, rows and slices along the normal, as ITK has them. A single slice has two
    axes, and an affine with its plane's normal and its thickness. Intensities are after rescale
    slope and intercept, and nothing else, as those of MONAI's readers are.

    Args:
        affine_lps_to_ras: whether the affine is in RAS, as MONAI's readers give it.
        swap_ij: whether columns come before rows.
    """

    def __init__(self, affine_lps_to_ras: bool = True, swap_ij: bool = True) -> None:
        self.affine_lps_to_ras = affine_lps_to_ras
        self.swap_ij = swap_ij

    def verify_suffix(self, filename: Any) -> bool:
        """Whether this reader is the one for an entry of a data list.

        Args:
            filename: one path, or several in a tuple.

        Returns:
            Yes for DICOM with a place in the patient, for colour pictures, and for what is no
            regular volume, which ``read`` refuses; no for X-rays and segmentations, which MONAI
            reads.
        """
        if find_spec("pydicom") is None:
            return False
        slices = image_slices(files_of(_entry(filename)))
        if len(slices) != 1:
            return bool(slices)
        one = slices[0]
        if is_segmentation(one.header):
            return False
        return one.in_space or one.several_frames or one.in_colour

    def read(self, data: Any, **kwargs: Any) -> list[Any]:
        """Read the files of one series.

        Args:
            data: one path of a folder or file, or several files of one series.
            kwargs: passed to ``pydicom.dcmread``.

        Returns:
            Their pydicom data sets.

        Raises:
            ValueError: it is no DICOM that this reader takes, or no regular volume.
        """
        if not self.verify_suffix(data):
            raise ValueError("expected a DICOM series, got another file; leave it to its reader")
        slices = image_slices(files_of(_entry(data)))
        problem = problem_of(slices)
        if problem:
            raise ValueError(problem)
        return [read_dicom(each.path, **kwargs) for each in slices]

    def get_data(self, img: list[Any]) -> tuple[np.ndarray, dict[str, Any]]:
        """Make one volume of a series.

        Args:
            img: as ``read`` returns it.

        Returns:
            (columns, rows, slices) in float32, or (columns, rows) of one slice, with the channels
            last where there are several; and the metadata.
        """
        if len(img) == 1 and not img[0].get("ImageOrientationPatient"):
            return _picture(img[0], self.swap_ij, self.affine_lps_to_ras)
        from highdicom.image import get_volume_from_series

        volume = get_volume_from_series(
            prepared(img),
            dtype=np.float32,
            apply_real_world_transform=False,
            apply_presentation_lut=False,
            apply_icc_profile=False,
        )
        # highdicom: slices, rows, columns, in either direction of the normal.
        volume = volume.permute_spatial_axes([2, 1, 0])
        volume = volume.ensure_handedness("RIGHT_HANDED", flip_axis=2)
        if not self.swap_ij:
            volume = volume.permute_spatial_axes([1, 0, 2])
        array, affine = np.ascontiguousarray(volume.array), np.array(volume.affine, dtype=float)
        if len(img) == 1:
            array = array[:, :, 0]
        return array, _metadata(array, affine, 2 if len(img) == 1 else 3, self.affine_lps_to_ras)


class _MoreOfNibabel(NibabelReader):
    """MONAI's, for further formats that nibabel reads."""

    def verify_suffix(self, filename: Any) -> bool:
        return _all_end(filename, (".mgz", ".mgh", ".img", ".hdr"))


class _Tiff(PILReader):
    """MONAI's, for TIFF, which it leaves to ITK."""

    def verify_suffix(self, filename: Any) -> bool:
        return _all_end(filename, (".tif", ".tiff"))


def use_own_readers(transform: Any) -> None:
    """Let every image loader in a preprocessing read what MONAI's readers get wrong or pass over.

    Those are DICOM series and slices (see ``SeriesReader``), and TIFF, MGH and Analyze files where
    no reader is named. Loaders that name a reader with other conventions keep it. None of them
    loads pickles, which can run code, even where it was made to.

    Args:
        transform: a transform, or transforms in containers; its loaders learn further readers,
            once.
    """
    for loader in _loaders(transform):
        for reader in loader.readers:
            if isinstance(reader, NumpyReader):
                reader.allow_pickle = False
        if any(isinstance(reader, SeriesReader) for reader in loader.readers):
            continue
        named = loader.readers[-1] if loader.readers and not loader.auto_select else None
        if named is None:
            loader.register(_MoreOfNibabel())
            if find_spec("itk") is None and find_spec("PIL") is not None:
                loader.register(_Tiff())
        options = _conventions(named)
        if options is not None:
            loader.register(SeriesReader(**options))


def _picture(dataset: Any, swap_ij: bool, to_ras: bool) -> tuple[np.ndarray, dict[str, Any]]:
    """A colour picture with its channels last; it has no place, so its affine is the identity."""
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        raise ValueError(
            "expected grey or RGB, got numbers of a colour palette; convert the file to RGB"
        )
    array = dataset.pixel_array.astype(np.float32)  # pydicom makes RGB of YBR
    array = np.ascontiguousarray(array.swapaxes(0, 1) if swap_ij else array)
    return array, _metadata(array, np.eye(4), 2, to_ras)


def _metadata(array: np.ndarray, affine: np.ndarray, axes: int, to_ras: bool) -> dict[str, Any]:
    """What MONAI's readers say about an image; the affine is given in LPS."""
    affine = _TO_RAS @ affine if to_ras else affine
    return {
        "affine": affine,
        "original_affine": affine.copy(),
        "space": "RAS" if to_ras else "LPS",
        "spatial_shape": np.asarray(array.shape[:axes]),
        "spacing": np.linalg.norm(affine[:3, :axes], axis=0),
        "original_channel_dim": float("nan") if array.ndim == axes else -1,
    }


def _conventions(named: ImageReader | None) -> dict[str, bool] | None:
    """Options of a ``SeriesReader`` that stands in for a named reader; None where it cannot."""
    if isinstance(named, PydicomReader) and named.label_dict is None:
        return {"affine_lps_to_ras": bool(named.affine_lps_to_ras), "swap_ij": bool(named.swap_ij)}
    if isinstance(named, ITKReader) and not (named.reverse_indexing or named.series_name):
        return {"affine_lps_to_ras": named.affine_lps_to_ras is not False}
    return {} if named is None else None


def _loaders(transform: Any) -> Iterator[LoadImage]:
    if isinstance(transform, LoadImage):
        yield transform
    elif isinstance(transform, LoadImaged):
        yield transform._loader  # MONAI offers no other way to the loader of a dictionary
    elif isinstance(getattr(transform, "load", None), LoadImage):  # LoadImageOrArrayd
        yield transform.load
    elif isinstance(transform, Compose):
        for each in transform.transforms:
            yield from _loaders(each)
    elif isinstance(transform, list | tuple):
        for each in transform:
            yield from _loaders(each)


def _all_end(filename: Any, suffixes: tuple[str, ...]) -> bool:
    names = (
        filename if isinstance(filename, Sequence) and not isinstance(filename, str) else [filename]
    )
    return all(str(name).lower().endswith(suffixes) for name in names)


def _entry(filename: Any) -> Any:
    """What a data list names: ``LoadImage`` hands one path over in a tuple."""
    if isinstance(filename, list | tuple):
        return filename[0] if len(filename) == 1 else list(filename)
    return filename
