"""One series of the PACS as a NIfTI file: complete, regular, and there only as a whole."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from monai.transforms import LoadImage

from monai_ifim.data.nifti import write_nifti
from monai_ifim.data.sources.dicom import image_slices, read_slices
from monai_ifim.data.sources.limits import RefusedError, check_source
from monai_ifim.data.sources.readers import use_own_readers
from monai_ifim.label.options import refusal
from monai_ifim.label.pacs.dicomweb import DicomWeb, PacsError, Row, text
from monai_ifim.label.pacs.listing import Series, is_image
from monai_ifim.messages import reason

_INCOMING = ".incoming-"
_FIELDS = "SOPClassUID,Rows,Columns,NumberOfFrames"
_BYTES_PER_VALUE = 8
_HEADER = 2**20  # bytes of an object besides its pixels


def download_series(pacs: DicomWeb, series: Series, folder: Path, max_voxels: int) -> list[Path]:
    """The objects of a series.

    Args:
        pacs: to ask.
        series: fields of the listing.
        folder: where to write them.
        max_voxels: values of the image at the most.

    Returns:
        The files.

    Raises:
        PacsError: no answer, or not all objects that the PACS itself counts.
        HTTPException: 404, the series is gone; 413, too many voxels; 422, no images.
    """
    path = f"studies/{series['StudyInstanceUID']}/series/{series['SeriesInstanceUID']}"
    rows = pacs.search(f"{path}/instances", "SOPInstanceUID", {"includefield": _FIELDS})
    if not rows:
        raise refusal(f"expected the series {path} in the PACS, got none: it was removed", 404)
    voxels = sum(_voxels(row) for row in rows)
    if voxels > max_voxels:
        raise refusal(
            f"expected at most {max_voxels} voxels, got {voxels} in {len(rows)} objects; start the "
            "server with --conf max_voxels, or leave the series out",
            413,
        )
    kinds = {text(row, "SOPClassUID") for row in rows}
    other = sorted(kind for kind in kinds if not is_image(kind))
    if other:
        raise refusal(f"expected images, got objects of the class {other[0]} in {path}", 422)
    files = pacs.download(path, folder, _BYTES_PER_VALUE * max_voxels + _HEADER * len(rows))
    if len(files) != len(rows):
        raise PacsError(
            f"expected {len(rows)} objects of {path}, got {len(files)} from {pacs.url}; ask again "
            "once the series has arrived completely"
        )
    return files


def convert_series(files: Sequence[Path], target: Path, max_voxels: int) -> None:
    """Write a series as NIfTI, with the checks that files of a folder get.

    Args:
        files: DICOM, all of one series.
        target: NIfTI file, on the slices' own grid.
        max_voxels: values at the most.

    Raises:
        HTTPException: 415, a file cannot be read; 422, no regular volume and no single picture.
    """
    paths = [str(path) for path in files]
    unread = [each for each in read_slices(paths) if each.header is None]
    if unread:
        raise refusal(
            f"expected DICOM images, got {len(unread)} of {len(files)} objects whose header cannot "
            "be read; send the series to the PACS again",
            415,
        )
    slices = image_slices(paths)
    try:
        check_source(paths, max_voxels)
    except RefusedError as error:
        raise refusal(
            f"expected a series that is one image, got another: {error}; or leave it out", 422
        ) from error
    if not slices or slices[0].in_colour:
        raise refusal("expected grey values, got colours or no pixels; leave the series out", 422)
    load = LoadImage(image_only=True)
    use_own_readers(load)
    kept = [each.path for each in slices]
    try:
        image = load(kept if len(kept) > 1 else kept[0])
    except Exception as error:  # pydicom's, its decoders', highdicom's
        raise refusal(
            f"expected a readable series, got {reason(error)}; send it to the PACS again", 415
        ) from error
    if len(slices) == 1 and image.ndim == 3 and image.shape[-1] == 1:
        image = image[..., 0]
    values = np.asarray(image, dtype=np.float32)
    if not np.isfinite(values).all():
        raise refusal("expected finite values, got NaN or infinity in the series", 422)
    write_nifti(nib.Nifti1Image(values, np.asarray(image.affine)), target)


def fetch_series(pacs: DicomWeb, series: Series, target: Path, max_voxels: int) -> None:
    """Download and convert; what was downloaded is removed, whatever happens.

    Args:
        pacs: to ask.
        series: fields of the listing.
        target: NIfTI file.
        max_voxels: values of the image at the most; errors are those of ``download_series``
            and ``convert_series``.
    """
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=_INCOMING) as folder:
        files = download_series(pacs, series, Path(folder), max_voxels)
        convert_series(files, target, max_voxels)


def remove_leftovers(folder: Path) -> None:
    """Remove downloads that a server left when it was killed; those of another one may go on.

    Args:
        folder: of the images.
    """
    for path in folder.glob(f"{_INCOMING}*"):
        if time.time() - path.stat().st_mtime > 24 * 3600:
            shutil.rmtree(path, ignore_errors=True)


def _voxels(row: Row) -> int:
    """0 where the PACS does not say."""
    try:
        sizes = [int(text(row, name)) for name in ("Rows", "Columns")]
        return sizes[0] * sizes[1] * int(text(row, "NumberOfFrames") or 1)
    except ValueError:
        return 0
