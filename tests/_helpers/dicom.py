"""Made DICOM slices, and those that pydicom ships."""

from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

SHIPPED = Path(pydicom.data.__file__).parent / "test_files"  # get_testdata_file would download
AXIAL, SAGITTAL, CORONAL = [1, 0, 0, 0, 1, 0], [0, 1, 0, 0, 0, -1], [1, 0, 0, 0, 0, -1]
OBLIQUE = [0.8, 0.6, 0, -0.36, 0.48, -0.8]


def values_of(number: int, rows: int = 6, columns: int = 5) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 1000, (rows, columns)).astype(np.uint16)


def write_slice(path: Path, number: int = 1, series: str = "1.2.3", **fields: object) -> np.ndarray:
    """One slice of an MR series; returns its values (rows, columns)."""
    pixels = fields.pop("pixels", values_of(number))
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = "1.2.840.10008.5.1.4.1.1.4"
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = generate_uid()
    ds.StudyInstanceUID = "1.2.8"
    ds.SeriesInstanceUID, ds.Modality, ds.InstanceNumber = series, "MR", number
    ds.FrameOfReferenceUID, ds.SliceThickness = "1.2.9", 3
    ds.ImageOrientationPatient, ds.PixelSpacing = AXIAL, [0.5, 0.75]
    ds.ImagePositionPatient = [-10, 20, 3 * number]
    ds.Rows, ds.Columns = pixels.shape
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 0
    ds.PixelData = pixels.tobytes()
    for name, value in fields.items():
        if value is None:
            delattr(ds, name)
        else:
            setattr(ds, name, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(path, enforce_file_format=True)
    return pixels


def write_series(
    folder: Path,
    numbers=range(1, 8),
    series="1.2.3",
    orientation=AXIAL,
    step=3.0,
    prefix="IM",
    **fields: object,
) -> np.ndarray:
    """Slices along the normal, named against their order; (columns, rows, slices) as ITK has it."""
    normal = np.cross(orientation[:3], orientation[3:])
    slices = []
    for number in numbers:
        position = [round(float(p), 6) for p in np.array([-10, 20, 7]) + number * step * normal]
        slices.append(
            write_slice(
                folder / f"{prefix}{100 - number:03d}",
                number,
                series,
                ImageOrientationPatient=orientation,
                ImagePositionPatient=position,
                **fields,
            )
        )
    return np.stack(slices, -1).swapaxes(0, 1).astype(np.float32)
