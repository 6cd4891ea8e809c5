"""Files that are either whole or not there."""

import logging

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import SaveImage

import monai_ifim as mi
from _helpers.scans import oblique


def volume(number=0):
    values = np.random.default_rng(number).standard_normal((1, 13, 11, 9)).astype(np.float32)
    meta = {"filename_or_obj": "/data/scan.nii.gz"}
    return MetaTensor(torch.from_numpy(values), affine=torch.from_numpy(oblique()), meta=meta)


def saver(folder, ext=".nii.gz"):
    return SaveImage(
        output_dir=str(folder),
        output_postfix="ifim_high",
        output_ext=ext,
        separate_folder=False,
        resample=False,
        print_log=False,
        writer="monai_ifim.AtomicNibabelWriter",
    )


@pytest.mark.parametrize("ext", [".nii.gz", ".nii"])
def test_the_file_is_whole_and_alone(tmp_path, ext):
    saver(tmp_path, ext)(volume())
    (path,) = tmp_path.iterdir()
    assert path.name == f"scan_ifim_high{ext}"
    read = nib.load(path)
    np.testing.assert_array_equal(read.get_fdata(), volume()[0].numpy())
    np.testing.assert_allclose(read.affine, oblique(), rtol=0, atol=1e-5)
    assert read.header.get_data_dtype() == np.float32


def test_the_final_name_appears_only_when_the_file_is_whole(tmp_path, monkeypatch):
    """While nibabel writes, no file of the final name is there; not even afterwards if it dies."""
    real, seen = nib.Nifti1Image.to_file_map, []

    def watch(image, file_map):
        seen.append([p.name for p in tmp_path.iterdir()])
        real(image, file_map)
        seen.append([p.name for p in tmp_path.iterdir()])

    monkeypatch.setattr(nib.Nifti1Image, "to_file_map", watch)
    saver(tmp_path)(volume())
    assert len(seen) == 2
    assert not any(name == "scan_ifim_high.nii.gz" for names in seen for name in names)
    assert [p.name for p in tmp_path.iterdir()] == ["scan_ifim_high.nii.gz"]


def test_nothing_is_left_after_a_failure(tmp_path, monkeypatch):
    saver(tmp_path)(volume(0))
    before = (tmp_path / "scan_ifim_high.nii.gz").read_bytes()

    def half(image, file_map):
        file_map["image"].fileobj.write(b"half of it")
        raise OSError("no space left on device")

    monkeypatch.setattr(nib.Nifti1Image, "to_file_map", half)
    with pytest.raises(Exception) as raised:
        saver(tmp_path)(volume(1))
    causes, error = [], raised.value
    while error is not None:
        causes.append(str(error))
        error = error.__cause__ or error.__context__
    assert any("no space left on device" in cause for cause in causes)
    (path,) = tmp_path.iterdir()
    assert path.read_bytes() == before


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_is_refused_with_a_line_in_the_log(tmp_path, caplog, value):
    broken = volume()
    broken[0, 1, 2, 3] = value
    with caplog.at_level(logging.ERROR, logger="monai_ifim"):
        saver(tmp_path)(broken)
    assert list(tmp_path.iterdir()) == []
    (record,) = [r for r in caplog.records if r.name.startswith("monai_ifim")]
    assert "scan_ifim_high.nii.gz not written: the volume holds NaN or infinity" in (
        record.getMessage()
    )


def test_integers_are_written(tmp_path):
    """A mask holds no NaN, and asking must not fail on it."""
    writer = mi.AtomicNibabelWriter(output_dtype=np.uint8)
    writer.set_data_array(torch.ones(1, 5, 4, 3, dtype=torch.uint8), channel_dim=0)
    writer.set_metadata({"affine": oblique()}, resample=False)
    writer.write(tmp_path / "mask.nii.gz")
    assert nib.load(tmp_path / "mask.nii.gz").get_fdata().sum() == 60


def test_verbose_names_the_final_file(tmp_path, caplog):
    writer = mi.AtomicNibabelWriter()
    writer.set_data_array(torch.ones(1, 5, 4, 3), channel_dim=0)
    writer.set_metadata({"affine": oblique()}, resample=False)
    with caplog.at_level(logging.INFO):
        writer.write(str(tmp_path / "a.nii.gz"), verbose=True)
    assert any("a.nii.gz" in r.getMessage() for r in caplog.records)
    assert not any(".partial" in r.getMessage() for r in caplog.records)


def test_values_below_the_range_of_float32_keep_their_digits(tmp_path):
    """As the sensitivities of a sure prediction; on an oblique grid, where MONAI would resample."""
    values = torch.arange(1.0, 121.0, dtype=torch.float64).reshape(1, 4, 5, 6) * 1e-60
    affine = torch.tensor([[0, -2.0, 0, 1], [1.5, 0, 0, 2], [0, 0.3, 3, 3], [0, 0, 0, 1]]).double()
    image = MetaTensor(values, affine=affine)
    writer = mi.AtomicNibabelWriter(output_dtype=np.float64)
    writer.set_data_array(image, channel_dim=0)
    writer.set_metadata(image.meta, resample=False)
    writer.write(tmp_path / "tiny.nii.gz")
    written = nib.load(tmp_path / "tiny.nii.gz")
    np.testing.assert_allclose(written.get_fdata(), values[0].numpy(), rtol=1e-12)
    np.testing.assert_allclose(written.affine, affine, atol=1e-6)
