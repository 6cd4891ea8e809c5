"""DICOM files that are damaged where GDCM takes gigabytes, or ends the process, to say so."""

from __future__ import annotations

import shutil
import struct
from pathlib import Path

import pydicom
import pytest
import torch
from monai.data import MetaTensor
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate

from monai_ifim.data.sources.limits import RefusedError, check_source
from monai_ifim.data.sources.values import check_values

PLAIN, COMPRESSED = "CT_small.dcm", "JPEG2000.dcm"


@pytest.fixture
def file(tmp_path: Path):
    def copy(name: str) -> Path:
        found = get_testdata_file(name)
        assert isinstance(found, str)
        return Path(shutil.copy(found, tmp_path / "a.dcm"))

    return copy


def refused(path: Path) -> str:
    with pytest.raises(RefusedError) as caught:
        check_source(path)
    return str(caught.value)


def test_intact_ones_pass(file):
    for name in (PLAIN, COMPRESSED, "JPEG-lossy.dcm", "JPEGLSNearLossless_16.dcm"):
        check_source(file(name))


@pytest.mark.parametrize("name", [PLAIN, "JPEG-lossy.dcm"])
@pytest.mark.parametrize("start", [340, 700, -300])
def test_a_piece_stands_behind_the_end_again(file, name, start):
    path = file(name)
    content = path.read_bytes()
    path.write_bytes(content + content[start:])
    assert "expected elements" in refused(path)


def test_other_bytes_behind_the_end(file):
    path = file(PLAIN)
    content = path.read_bytes()
    path.write_bytes(content + bytes(3))  # some writers fill up to an even number
    check_source(path)
    path.write_bytes(content + struct.pack("<2HI", 0xFFFE, 0xE00D, 0) + b"more that is no DICOM")
    assert "expected the last element at the end of the file" in refused(path)


def test_nothing_behind_the_meta_information(file):
    path = file(PLAIN)
    with path.open("rb") as stream:
        stream.seek(140)
        (length,) = struct.unpack("<I", stream.read(4))
    path.write_bytes(path.read_bytes()[: 144 + length])
    assert "got a header with nothing behind it" in refused(path)


@pytest.mark.parametrize(
    ("syntax", "told"),
    [("1.2.840.10008.1.2.4.\xb11", "transfer syntax of DICOM"),
     ("1.2.840.10008.1.2.4.79", "that pydicom knows, got '1.2.840.10008.1.2.4.79'")],
)  # fmt: skip
def test_a_transfer_syntax_that_is_none(file, syntax, told):
    path = file(COMPRESSED)
    old = pydicom.dcmread(path).file_meta.TransferSyntaxUID.encode()
    padded = old + bytes(len(old) % 2)
    new = syntax.encode("latin-1").ljust(len(padded), b"\0")
    path.write_bytes(path.read_bytes().replace(padded, new, 1))
    assert told in refused(path)


@pytest.mark.parametrize(
    ("keyword", "value"), [("SamplesPerPixel", 0), ("SamplesPerPixel", 9), ("BitsAllocated", 7)]
)
def test_sizes_of_a_pixel(file, keyword, value):
    path = file(PLAIN)
    dataset = pydicom.dcmread(path)
    dataset[keyword].value = value
    dataset.save_as(path)
    assert f"expected DICOM with a {keyword} of 1, " in refused(path)


def test_a_uid_of_other_bytes(file):
    path = file(PLAIN)
    uid = str(pydicom.dcmread(path).SOPInstanceUID).encode()
    path.write_bytes(path.read_bytes().replace(uid, uid[:5] + b"\x1e" + uid[6:]))
    assert "expected a UID of digits and dots" in refused(path)


def test_jpeg_2000_of_another_size_or_of_none(file):
    path = file("examples_jpeg2k.dcm")
    dataset = pydicom.dcmread(path)
    rows, columns = dataset.Rows, dataset.Columns
    content = path.read_bytes()
    size = content.index(b"\xff\x4f\xff\x51") + 8
    assert struct.unpack_from(">2I", content, size) == (columns, rows)

    def with_fields(place: int, *values: int) -> None:
        changed = bytearray(content)
        struct.pack_into(f">{len(values)}I", changed, size + place, *values)
        path.write_bytes(changed)

    with_fields(0, columns + 1, rows)
    assert f"{rows} and {columns + 1} in its JPEG 2000 stream" in refused(path)
    for tile in (0, 1):
        with_fields(16, tile, 1)
        assert "expected at most 65535 tiles" in refused(path)
    dataset.PixelData = encapsulate([b"\xff\xd8no code stream"])
    dataset.save_as(path)
    assert "expected JPEG 2000 pixels, got others" in refused(path)


@pytest.mark.parametrize("shape", [(), (5,)])
def test_an_image_without_axes(shape):
    with pytest.raises(ValueError, match="expected an image with a channel and one to three"):
        check_values({"image": MetaTensor(torch.zeros(shape))}, "image")
