"""Kinds of source files, and preprocessings of them as a bundle's configuration has them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from monai.bundle import ConfigParser
from monai.transforms import Compose, Invertd, LoadImaged
from PIL import Image

from _helpers.scans import oblique

SHAPE = (11, 9, 8)
RAS = {"axcodes": "RAS", "labels": [["L", "R"], ["P", "A"], ["I", "S"]]}
OTHER = np.diag([0.8, 1.3, 2.1, 1.0])


def slopes(shape: tuple[int, ...], number: int) -> np.ndarray:
    """Values in 0..100 that rise along each axis at a pace of its own: no turn goes unnoticed."""
    paces = (1.0, 2.3, 0.6, 1.6)
    grid = np.indices(shape)
    rising = sum(p * g / max(n - 1, 1) for p, g, n in zip(paces, grid, shape, strict=False))
    values = rising + 0.05 * np.random.default_rng(number).standard_normal(shape)
    return 100 * (values - values.min()) / np.ptp(values)


# --- writers: (stem, number) to the entry of a data list ------------------------------------------


def nifti(change=lambda image: None, shape=SHAPE, affine=None, endianness="<", dtype="f4"):
    """A writer of NIfTI files whose header ``change`` sets."""

    def write(stem: Path, number: int) -> str:
        values = slopes(shape, number).astype(dtype)
        header = nib.Nifti1Header(endianness=endianness)
        header.set_data_dtype(np.dtype(dtype).newbyteorder(endianness))
        image = nib.Nifti1Image(values, oblique(number) if affine is None else affine, header)
        change(image)
        nib.save(image, f"{stem}.nii.gz")
        return f"{stem}.nii.gz"

    return write


def codes(qform: int, sform: int, other: np.ndarray | None = None):
    """Set both codes; the quaternions hold ``other`` where it is given."""

    def change(image):
        affine = image.affine
        image.set_qform(affine if other is None else other, code=qform)
        image.set_sform(affine, code=sform)
        image.header["pixdim"][1:4] = np.linalg.norm(affine[:3, :3], axis=0)

    return change


def qform_alone(image) -> None:
    image.set_qform(image.affine, code=1)
    image.set_sform(None, code=0)


def picture(channels: int):
    def write(stem: Path, number: int) -> str:
        shape = (9, 11) if channels == 1 else (9, 11, channels)
        values = (2.5 * slopes(shape, number)).astype(np.uint8)
        Image.fromarray(values).save(f"{stem}.png")
        return f"{stem}.png"

    return write


def nrrd(stem: Path, number: int) -> str:
    writer = pytest.importorskip("nrrd")
    values = slopes(SHAPE, number).astype(np.float32)
    header = {"space": "left-posterior-superior", "space origin": [1.0, 2, 3]}
    header["space directions"] = np.diag([0.8, 1.3, 2.1]).tolist()
    writer.write(f"{stem}.nrrd", values, header)
    return f"{stem}.nrrd"


def dicom_series(stem: Path, number: int) -> list[str]:
    """A folder of oblique slices, their names against their order."""
    pytest.importorskip("highdicom")
    import monai_ifim as mi
    from _helpers.dicom import OBLIQUE, write_slice

    normal = np.cross(OBLIQUE[:3], OBLIQUE[3:])
    volume = (10 * slopes((9, 11, 8), number)).astype(np.uint16)  # rows, columns, slices
    for k in range(8):
        position = [round(float(p), 6) for p in np.array([-10, 20, 7 + number]) + 2.5 * k * normal]
        write_slice(
            stem / f"IM{99 - k}",
            k,
            f"1.2.3.{number}",
            PixelSpacing=[1.2, 1.6],
            pixels=np.ascontiguousarray(volume[:, :, k]),
            ImageOrientationPatient=OBLIQUE,
            ImagePositionPatient=position,
        )
    (entry,) = mi.find_images(stem)
    return entry["image"]


@dataclass(frozen=True)
class Source:
    """A kind of file.

    Attributes:
        write: makes one; returns the entry of a data list.
        channels: of the image.
        single: which axis is the only one of its kind (-1: there is no third axis), or None.
    """

    write: Callable[[Path, int], Any]
    channels: int = 1
    single: int | None = None

    @property
    def dims(self) -> int:
        return 3 if self.single is None else 2


SOURCES = {
    "NIfTI, sform only": Source(nifti(codes(0, 1))),
    "NIfTI, qform only": Source(nifti(qform_alone)),
    "NIfTI, both and unequal": Source(nifti(codes(1, 2, OTHER))),
    "NIfTI, oblique": Source(nifti()),
    "NIfTI, left-handed": Source(nifti(affine=np.diag([-2.0, 1.5, 3, 1]))),
    "NIfTI, micrometres": Source(nifti(lambda i: i.header.set_xyzt_units("micron", "sec"))),
    "NIfTI, int16 with slope": Source(
        nifti(lambda i: i.header.set_slope_inter(0.5, -3), dtype="i2")
    ),
    "NIfTI, big-endian": Source(nifti(endianness=">")),
    "NIfTI, slice of the first axis": Source(nifti(shape=(1, 11, 9)), single=0),
    "NIfTI, slice of the second axis": Source(nifti(shape=(11, 1, 9)), single=1),
    "NIfTI, slice of the third axis": Source(nifti(shape=(11, 9, 1)), single=2),
    "DICOM series": Source(dicom_series),
    "NRRD": Source(nrrd),
    "PNG, grey": Source(picture(1), single=-1),
    "PNG, RGB": Source(picture(3), channels=3, single=-1),
}


# --- preprocessings -------------------------------------------------------------------------------


def step(target: str, keys: Any = "image", **options: Any) -> dict[str, Any]:
    return {"_target_": target, "keys": keys, **options}


def spacing(dims: int) -> dict[str, Any]:
    return step("Spacingd", pixdim=[1.7, 1.1, 1.9][:dims], mode="bilinear")


def resize(dims: int, keys: Any = "image") -> dict[str, Any]:
    mode = ("bilinear", "trilinear")[dims - 2]
    return step("Resized", keys, spatial_size=[10, 7, 6][:dims], mode=mode)


PREPROCESSINGS = {
    "none": lambda dims: [],
    "Spacingd": lambda dims: [spacing(dims)],
    "Orientationd, Spacingd": lambda dims: [step("Orientationd", **RAS), spacing(dims)],
    "crop, pad": lambda dims: [
        step("CenterSpatialCropd", roi_size=[7, 8, 5][:dims]),
        step("SpatialPadd", spatial_size=[12, 11, 9][:dims]),
    ],
    "resize": lambda dims: [resize(dims)],
    "concatenation": None,  # of two images
}


def steps(name: str, source: Source) -> list[dict[str, Any]]:
    """Transforms of a preprocessing, as a configuration has them."""
    dims = source.dims
    drop = [] if source.single in (None, -1) else [step("SqueezeDimd", dim=source.single + 1)]
    if name == "concatenation":
        keys = ["a", "b"]
        own = [step("LoadImaged", keys), step("EnsureChannelFirstd", keys)]
        grid = [resize(3, keys)] if dims == 3 else []
        own += [*grid, step("ConcatItemsd", keys, name="image"), *drop]
    else:
        own = [step("LoadImaged"), step("EnsureChannelFirstd"), *drop]
        own += PREPROCESSINGS[name](dims)
    return [*own, step("ScaleIntensityd")]


def made(transforms: list[dict[str, Any]]) -> Compose:
    """The transforms themselves."""
    parser = ConfigParser({"steps": {"_target_": "Compose", "transforms": transforms}})
    return parser.get_parsed_content("steps")


# --- what is right --------------------------------------------------------------------------------


def truth(entry: Any) -> tuple[np.ndarray, np.ndarray]:
    """Values and affine of the file as a reader of its format has them."""
    if isinstance(entry, str) and entry.endswith(".nii.gz"):
        image = nib.load(entry)
        return image.get_fdata(), image.affine
    image = LoadImaged("image")({"image": entry})["image"]
    return image.numpy(), np.asarray(image.meta.get("original_affine", np.eye(4)))


def inverted(transform: Compose, item: dict[str, Any]) -> np.ndarray:
    """The network's input on the grid of the file, by MONAI's own inverse."""
    return Invertd("image", transform, nearest_interp=False)(transform(item))["image"].numpy()


def check(entry: Any, high: Any, orth: Any, channels: int, wanted: np.ndarray | None) -> None:
    """Shape, affine and sum of the components; ``wanted`` is None where two images make one."""
    values, affine = truth(entry)
    total = np.asarray(high.dataobj) + np.asarray(orth.dataobj)
    if channels > 1:  # (H, W, 1, C) of a NIfTI, (H, W, C) of a picture
        values = values[..., None, :]
    if wanted is None:
        values = np.concatenate([values.reshape(*total.shape[:3], -1)] * 2, axis=-1)
    assert total.shape == values.shape
    for volume in (high, orth):
        np.testing.assert_allclose(volume.affine, affine, atol=1e-5)
    inside = total != 0  # not where a crop took something away
    assert np.corrcoef(total[inside], values[inside])[0, 1] > 0.95
    if wanted is not None:
        wanted = np.moveaxis(wanted, 0, -1).reshape(total.shape)
        assert np.abs(total - wanted).max() <= 1e-5 * np.abs(wanted).max()
