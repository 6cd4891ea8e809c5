"""The files of SaveComponentsd: their bytes, their header, and that each is whole."""

import gzip
import sys

import nibabel as nib
import numpy as np
import pytest

import monai_ifim as mi
from _helpers.volumes import KEYS, loading, scan, with_volumes

# MONAI 1.6.1 says so whenever LoadImage registers its readers without nvImageCodec.
pytestmark = pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader:UserWarning")


@pytest.fixture(params=["isal", "zlib"])
def compression(request, monkeypatch):
    """With isal, and as if it were not installed."""
    if request.param == "zlib":
        monkeypatch.setitem(sys.modules, "isal", None)
        monkeypatch.delitem(sys.modules, "isal.igzip", raising=False)
    else:
        pytest.importorskip("isal.igzip")
    return request.param


@pytest.mark.parametrize("ext", [".nii.gz", ".nii"])
def test_two_runs_write_the_same_bytes(tmp_path, compression, ext):
    transform = loading()
    item = with_volumes(transform, scan(tmp_path, (13, 11, 9)))
    written = []
    for folder in ("a", "b"):
        mi.SaveComponentsd(KEYS, tmp_path / folder, transform, output_ext=ext)(item)
        files = sorted((tmp_path / folder).iterdir())
        assert [file.name for file in files] == [f"scan_{key}{ext}" for key in KEYS]
        written.append([file.read_bytes() for file in files])
    assert written[0] == written[1]
    values = nib.load(tmp_path / "a" / f"scan_ifim_high{ext}").get_fdata()
    np.testing.assert_array_equal(values, item["ifim_high"][0].numpy())


def test_the_compressed_file_is_plain_gzip(tmp_path, compression):
    transform = loading()
    item = with_volumes(transform, scan(tmp_path, (13, 11, 9)))
    for ext in (".nii.gz", ".nii"):
        mi.SaveComponentsd(KEYS, tmp_path / "out", transform, output_ext=ext)(item)
    for key in KEYS:
        data = (tmp_path / "out" / f"scan_{key}.nii.gz").read_bytes()
        assert data[3] == 0  # no file name, no comment
        assert data[4:8] == b"\0\0\0\0"  # no time
        assert gzip.decompress(data) == (tmp_path / "out" / f"scan_{key}.nii").read_bytes()


def test_no_scaling(tmp_path, compression):
    """Readers that ignore the slope get the values all the same."""
    transform = loading()
    mi.SaveComponentsd(KEYS, tmp_path, transform)(
        with_volumes(transform, scan(tmp_path, (13, 11, 9)), sensitivity=1e-60)
    )
    for key in KEYS:
        header = nib.load(tmp_path / f"scan_{key}.nii.gz").header
        assert header.get_slope_inter() == (None, None)
        assert header.get_xyzt_units()[0] == "mm"


def test_nothing_is_left_when_the_disk_is_full(tmp_path, compression, monkeypatch):
    transform = loading()
    item = with_volumes(transform, scan(tmp_path, (13, 11, 9)))
    save = mi.SaveComponentsd(KEYS, tmp_path / "out", transform)

    def half(self, file_map):
        file_map["image"].fileobj.write(b"half of it")
        raise OSError("no space left on device")

    monkeypatch.setattr(nib.Nifti1Image, "to_file_map", half)
    with pytest.raises(OSError, match="no space left"):
        save(item)
    assert list((tmp_path / "out").iterdir()) == []
