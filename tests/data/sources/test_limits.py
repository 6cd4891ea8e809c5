"""Headers are compared with their files before anything is loaded."""

import bz2
import gzip
import os
import struct
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import Dataset
from PIL import Image

import monai_ifim as mi
from _helpers.dicom import write_series, write_slice
from monai_ifim.data.sources.limits import RefusedError, check_source


def header(shape, dtype=np.float32, kind=nib.Nifti1Header) -> bytes:
    head = kind()
    head.set_data_dtype(dtype)
    head.set_data_shape(shape)
    head["vox_offset"] = 352 if kind is nib.Nifti1Header else 544
    head["magic"] = b"n+1" if kind is nib.Nifti1Header else head["magic"]
    return head.binaryblock + bytes(4)


def refused(path, **options) -> str:
    with pytest.raises(RefusedError, match=r"expected .*, got .*; ") as caught:
        check_source(str(path), **options)
    return str(caught.value)


@pytest.mark.parametrize("kind", [nib.Nifti1Header, nib.Nifti2Header])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_nifti_that_claims_more_than_it_holds(tmp_path, name, kind):
    content = header((300, 200, 100), kind=kind) + bytes(1000)
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    assert "it is cut or its header is damaged" in refused(tmp_path / name)


def test_bomb_of_more_values_than_allowed(tmp_path):
    with gzip.open(tmp_path / "a.nii.gz", "wb") as stream:
        stream.write(header((1024, 1024, 600), np.uint8))
    assert "expected at most 536870912 values, got a header that says 629145600" in refused(
        tmp_path / "a.nii.gz"
    )


def test_values_behind_the_last_one_are_not_unpacked(tmp_path):
    with gzip.open(tmp_path / "a.nii.gz", "wb", 1) as stream:
        stream.write(header((3, 4, 5)))
        for _ in range(200):
            stream.write(bytes(2**20))
    check_source(tmp_path / "a.nii.gz")
    assert nib.load(tmp_path / "a.nii.gz").get_fdata().shape == (3, 4, 5)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.mgz", "a.mgh", "a.img", "a.NII"])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_whole_files_pass_up_to_the_limit(tmp_path, name, dtype):
    kind = {"a.mgz": nib.MGHImage, "a.mgh": nib.MGHImage, "a.img": nib.Nifti1Pair}.get(
        name, nib.Nifti1Image
    )
    nib.save(kind(np.zeros((7, 8, 9), dtype), np.eye(4)), tmp_path / name)
    check_source(tmp_path / name, max_voxels=504)
    assert "at most 503 values, got a header that says 504" in refused(
        tmp_path / name, max_voxels=503
    )


def test_big_endian_and_cut(tmp_path):
    head = nib.Nifti1Header(endianness=">")
    image = nib.Nifti1Image(np.zeros((7, 8, 9), ">i2"), np.eye(4), head)
    nib.save(image, tmp_path / "a.nii")
    check_source(tmp_path / "a.nii")
    (tmp_path / "a.nii").write_bytes((tmp_path / "a.nii").read_bytes()[:-1])
    assert "2368 bytes, got 2367 bytes" in refused(tmp_path / "a.nii")


def test_picture_of_too_many_values(tmp_path):
    Image.new("RGB", (30, 20)).save(tmp_path / "a.png")
    check_source(tmp_path / "a.png", max_voxels=1800)
    assert "says 1800" in refused(tmp_path / "a.png", max_voxels=1799)


def test_png_that_claims_more_than_it_holds(tmp_path):
    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    size = chunk(b"IHDR", struct.pack(">IIBBBBB", 9000, 9000, 8, 0, 0, 0, 0))
    parts = [b"\x89PNG\r\n\x1a\n", size, chunk(b"IDAT", zlib.compress(b"")), chunk(b"IEND", b"")]
    (tmp_path / "a.png").write_bytes(b"".join(parts))
    assert "it is cut or its header is damaged" in refused(tmp_path / "a.png")


def test_pages_of_which_one_would_be_read(tmp_path):
    first, *others = [Image.new("L", (5, 4), n) for n in range(3)]
    first.save(tmp_path / "a.tif", save_all=True, append_images=others)
    assert "got 3 pages" in refused(tmp_path / "a.tif")


def test_metaimage_and_nrrd_headers(tmp_path, monkeypatch):
    monkeypatch.setattr("monai_ifim.data.sources.formats._installed", lambda module: True)
    text = "ObjectType = Image\nNDims = 3\nDimSize = 10 20 30\nElementNumberOfChannels = 2\n"
    (tmp_path / "a.mha").write_text(text)
    assert "says 12000" in refused(tmp_path / "a.mha", max_voxels=11999)
    head = "NRRD0004\ntype: uchar\ndimension: 2\nsizes: 10 20\nencoding: gzip\n\n"
    (tmp_path / "a.nrrd").write_bytes(head.encode() + gzip.compress(bytes(200)))
    check_source(tmp_path / "a.nrrd")
    assert "says 200" in refused(tmp_path / "a.nrrd", max_voxels=199)
    (tmp_path / "a.nrrd").write_bytes(head.encode() + gzip.compress(bytes(10**7)))
    assert "got a stream with more" in refused(tmp_path / "a.nrrd")


def test_dicom_counts_all_slices(tmp_path):
    write_series(tmp_path, numbers=range(4))
    check_source(tmp_path, max_voxels=120)
    assert "says 120" in refused(tmp_path, max_voxels=119)


def test_dicom_of_a_damaged_header_is_not_handed_on(tmp_path):
    path = tmp_path / "a.dcm"
    write_slice(path, 0)
    whole = path.read_bytes()
    for start in (140, 150, 160):
        path.write_bytes(whole[:start] + b"\xff" * 30 + whole[start + 30 :])
        with pytest.raises(RefusedError, match=r"expected DICOM.*(header|damaged)"):
            check_source(path)
    path.write_bytes(whole[132:])  # as before DICOM had a preamble: GDCM may know it
    check_source(path)


def test_report_is_no_image(tmp_path):
    report = "1.2.840.10008.5.1.4.1.1.88.11"
    write_slice(tmp_path / "a.dcm", Rows=None, SOPClassUID=report)
    assert "got none (a report or a plan?)" in refused(tmp_path / "a.dcm")


@pytest.mark.parametrize("name", ["a.png", "a.nii.gz", "a.dcm", "a"])
def test_a_pipe_does_not_hang(tmp_path, name):
    os.mkfifo(tmp_path / name)
    assert "got a pipe or a device" in refused(tmp_path / name)


def test_a_device_and_a_link_to_nothing(tmp_path):
    (tmp_path / "a.nii").symlink_to("/dev/zero")
    assert "got a pipe or a device" in refused(tmp_path / "a.nii")
    (tmp_path / "b.nii").symlink_to("nowhere")
    assert "got a link to nothing" in refused(tmp_path / "b.nii")


def test_damaged_headers_are_left_to_their_reader(tmp_path):
    for name in ("a.nii", "a.nii.gz", "a.mgz", "a.png", "a.dcm", "a.tif", "a.txt"):
        for content in (b"", b"no image", bytes(600), gzip.compress(b"x" * 600)):
            (tmp_path / name).write_bytes(content)
            check_source(tmp_path / name)
    check_source(tmp_path / "absent.nii")


def test_the_limit_of_the_environment(tmp_path, monkeypatch):
    nib.save(nib.Nifti1Image(np.zeros((7, 8, 9), np.float32), np.eye(4)), tmp_path / "a.nii")
    monkeypatch.setenv("MONAI_IFIM_MAX_VOXELS", "503")
    assert "at most 503" in refused(tmp_path / "a.nii")
    check_source(tmp_path / "a.nii", max_voxels=504)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_refused_file_is_a_failure_beside_the_others(tmp_path, num_workers):
    """Before the data set's item is made, so that a reader without limits is never asked."""
    files = [str(tmp_path / f"{n}.nii") for n in range(4)]
    for file in files:
        nib.save(nib.Nifti1Image(np.zeros((3, 4, 5), np.float32), np.eye(4)), file)
    Path(files[2]).write_bytes(header((1000, 1000, 500)))
    asked = Dataset([{"image": file} for file in files], lambda entry: {"image": torch.zeros(1, 2)})
    loader = mi.FaultTolerantDataLoader(asked, num_workers, batch_size=4)
    (batch,) = loader
    assert len(batch["image"]) == 3
    (failure,) = loader.failures
    assert failure.file == files[2]
    assert "it is cut or its header is damaged" in failure.reason
    few = mi.FaultTolerantDataLoader(asked, num_workers, batch_size=4, max_voxels=59)
    assert list(few) == []
    assert len(few.failures) == 4


def test_every_path_of_an_entry_is_checked(tmp_path):
    """Channels that have keys of their own, or come as a list; other texts are left alone."""
    for name in ("t1.nii", "t2.nii"):
        nib.save(nib.Nifti1Image(np.zeros((3, 4, 5), np.float32), np.eye(4)), tmp_path / name)
    (tmp_path / "bad.nii").write_bytes(header((1000, 1000, 500)))
    good, other, bad = (str(tmp_path / name) for name in ("t1.nii", "t2.nii", "bad.nii"))
    entries = [
        {"t1": good, "t2": other, "name": "a/b", "label": 1},
        {"t1": good, "t2": bad},
        {"t1": [good, bad]},
    ]
    asked = Dataset(entries, lambda entry: {"t1": torch.zeros(1, 2)})
    loader = mi.FaultTolerantDataLoader(asked, batch_size=3, image_key="t1")
    assert [len(batch["t1"]) for batch in loader] == [1]
    assert [failure.file for failure in loader.failures] == [good, good]


def test_values_of_a_metaimage_are_counted(tmp_path):
    text = b"NDims = 3\r\nDimSize = 40 30 20\r\nElementType = MET_USHORT\r\nElementDataFile = "
    (tmp_path / "cut.mha").write_bytes(text + b"LOCAL\r\n" + bytes(999))
    assert "48000 bytes, got" in refused(tmp_path / "cut.mha")
    (tmp_path / "whole.mha").write_bytes(text + b"LOCAL\r\n" + bytes(48000))
    check_source(tmp_path / "whole.mha")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.mhd", "NDims = 2\nDimSize = 4 5\nElementType = MET_FLOAT\nElementDataFile = v.raw\n"),
        ("a.nrrd", "NRRD0004\nsizes: 4 5\ntype: float\nencoding: raw\ndata file: v.raw\n\n"),
    ],
)
def test_a_pipe_in_the_place_of_the_values(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    os.mkfifo(tmp_path / "v.raw")
    assert "got a pipe or device, 'v.raw'" in refused(tmp_path / name)


def test_nrrd_in_bzip2_that_unpacks_to_more_than_it_says(tmp_path):
    head = b"NRRD0004\nsizes: 4 5\ntype: float\nencoding: bzip2\n\n"
    (tmp_path / "a.nrrd").write_bytes(head + bz2.compress(bytes(2**24)))
    assert "a stream with more" in refused(tmp_path / "a.nrrd")
    (tmp_path / "b.nrrd").write_bytes(head + bz2.compress(bytes(80)))
    check_source(tmp_path / "b.nrrd")
