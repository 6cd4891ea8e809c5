"""DICOM objects read back with pydicom alone, and series that others made."""

import shutil
import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest

import monai_ifim as mi
from _helpers.dicom import SHIPPED
from _helpers.networks import smooth_network

VOLUMES = ["high", "orth", "sensitivity"]
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
# What a validator says of the source's own fields, which results copy.
OF_THE_SOURCE = ("StudyInstanceUID has same value as FrameOfReferenceUID",)


def frames_of(path: Path) -> tuple[np.ndarray, list[pydicom.Dataset]]:
    """Frames (N, rows, columns) of a Parametric Map in its own order, and their groups."""
    ds = pydicom.dcmread(path)
    double = "DoubleFloatPixelData" in ds
    raw = ds.DoubleFloatPixelData if double else ds.FloatPixelData
    frames = np.frombuffer(raw, "<f8" if double else "<f4")
    groups = list(ds.PerFrameFunctionalGroupsSequence)
    return frames.reshape(int(ds.NumberOfFrames), ds.Rows, ds.Columns), groups


def position_of(group: pydicom.Dataset) -> list[float]:
    return [float(x) for x in group.PlanePositionSequence[0].ImagePositionPatient]


def source_of(group: pydicom.Dataset) -> pydicom.Dataset:
    return group.DerivationImageSequence[0].SourceImageSequence[0]


def by_number(folder: Path) -> list[pydicom.Dataset]:
    """Slices of a series in the order of InstanceNumber."""
    slices = [pydicom.dcmread(path) for path in sorted(folder.iterdir())]
    return sorted(slices, key=lambda ds: int(ds.InstanceNumber))


def affine_of(slices: list[pydicom.Dataset]) -> np.ndarray:
    """(4, 4) RAS of (columns, rows, slices), from the headers by DICOM's own equation."""
    first, last = slices[0], slices[-1]
    turn = np.array(first.ImageOrientationPatient, float)
    start, end = (np.array(ds.ImagePositionPatient, float) for ds in (first, last))
    affine = np.eye(4)
    affine[:3, 0] = turn[:3] * float(first.PixelSpacing[1])
    affine[:3, 1] = turn[3:] * float(first.PixelSpacing[0])
    normal = np.cross(turn[:3], turn[3:])
    affine[:3, 2] = (end - start) / (len(slices) - 1) if len(slices) > 1 else normal
    affine[:3, 3] = start
    return LPS @ affine


def component_of(slices: list[pydicom.Dataset], dtype: str = "f4") -> nib.Nifti1Image:
    """A volume that is another number at every voxel of a series, negative ones as well."""
    values = np.stack([ds.pixel_array for ds in slices], -1).swapaxes(0, 1).astype(dtype)
    return nib.Nifti1Image(values / 1000 - 0.25, affine_of(slices))


def mr_series(folder: Path, count: int = 5, step: float = 2.0) -> Path:
    """Slices along the normal, each the header of pydicom's MR_small.dcm with its own pixels."""
    folder.mkdir(parents=True)
    for number in range(1, count + 1):
        ds = pydicom.dcmread(SHIPPED / "MR_small.dcm")
        turn = np.array(ds.ImageOrientationPatient, float)
        place = np.array(ds.ImagePositionPatient, float)
        place = place + number * step * np.cross(turn[:3], turn[3:])
        ds.ImagePositionPatient = [round(float(x), 4) for x in place]
        ds.InstanceNumber = number
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = (
            f"{ds.SOPInstanceUID}.{number}"
        )
        ds.PixelData = np.roll(ds.pixel_array, 7 * number, axis=1).tobytes()
        ds.save_as(folder / f"{100 - number:03d}.dcm")
    return folder


def enhanced(folder: Path, target: Path, per_frame: bool = False) -> pydicom.Dataset:
    """A multi-frame image of a series; its orientation and spacing shared, or in each frame."""
    from highdicom.legacy import LegacyConvertedEnhancedMRImage

    slices = by_number(folder)
    made = LegacyConvertedEnhancedMRImage(slices, "1.2.77", 7, "1.2.77.1", 1)
    if per_frame:
        shared = made.SharedFunctionalGroupsSequence[0]
        for name in ("PlaneOrientationSequence", "PixelMeasuresSequence"):
            for group in made.PerFrameFunctionalGroupsSequence:
                setattr(group, name, shared[name].value)
            del shared[name]
    target.parent.mkdir(parents=True, exist_ok=True)
    made.save_as(target)
    return pydicom.dcmread(target)


VALIDATOR = shutil.which("dciodvfy")  # of dicom3tools
needs_validator = pytest.mark.skipif(VALIDATOR is None, reason="needs dciodvfy (dicom3tools)")


def complaints(path: Path) -> list[str]:
    """Errors that dciodvfy finds, but for those of the source's own fields; none without it."""
    if VALIDATOR is None:
        return []
    done = subprocess.run([VALIDATOR, "-new", str(path)], capture_output=True, text=True)
    lines = [line for line in done.stderr.splitlines() if line.startswith("Error")]
    return [line for line in lines if not any(known in line for known in OF_THE_SOURCE)]


def run(images: Path, output: Path, dims: int = 3, channels: int = 1, **options):
    """The results of a small network of our own, with all volumes."""
    size = options.pop("size", (12,) * dims)
    steps = mi.image_preprocessing(size=size, dims=dims, intensity="range")
    network = smooth_network(dims, channels=channels)
    options = {"volumes": VOLUMES} | options
    return mi.run(network, images, output, preprocessing=steps, progress=False, **options)
