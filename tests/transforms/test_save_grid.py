"""SaveComponentsd beside the chain of Invertd and SaveImaged that it replaces."""

import nibabel as nib
import numpy as np
import pytest
from monai.transforms import (
    BorderPadd,
    CenterSpatialCropd,
    Compose,
    Flipd,
    Invertd,
    Lambdad,
    Orientationd,
    Resized,
    ResizeWithPadOrCropd,
    Rotate90d,
    SaveImaged,
    Spacingd,
    SpatialPadd,
)

import monai_ifim as mi
from _helpers.volumes import KEYS, channels, loading, picture, scan, with_volumes

# MONAI 1.6.1 says so whenever LoadImage registers its readers without nvImageCodec.
pytestmark = pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader:UserWarning")

RAS = {"axcodes": "RAS", "labels": (("L", "R"), ("P", "A"), ("I", "S"))}


def chain(transform, folder, keys=KEYS):
    """What stood in the configurations."""
    saving = [
        SaveImaged(
            key,
            folder_layout=mi.DistinctFolderLayout(folder, postfix=key, extension=".nii.gz"),
            output_dtype="float64" if key.endswith("sensitivity") else "float32",
            writer="monai_ifim.AtomicNibabelWriter",
            resample=False,
            print_log=False,
            allow_missing_keys=True,
        )
        for key in keys
    ]
    invert = Invertd(list(keys), transform, "image", nearest_interp=False, allow_missing_keys=True)
    return Compose([invert, *saving])


CASES = {
    "as it is": (lambda f: scan(f, (13, 11, 9)), list),
    "oblique, turned": (lambda f: scan(f, (13, 11, 9)), lambda: [Orientationd("image", **RAS)]),
    "spacing": (
        lambda f: scan(f, (13, 11, 9)),
        lambda: [
            Orientationd("image", **RAS),
            Spacingd("image", pixdim=(1.1, 1.2, 1.7), mode="bilinear"),
        ],
    ),
    "resized": (
        lambda f: scan(f, (13, 11, 9)),
        lambda: [Resized("image", (9, 10, 8), mode="trilinear", anti_aliasing=True)],
    ),
    "cropped": (
        lambda f: scan(f, (13, 11, 9)),
        lambda: [CenterSpatialCropd("image", (10, 7, 6)), Flipd("image", 1)],
    ),
    "padded and cropped": (
        lambda f: scan(f, (13, 11, 9)),
        lambda: [
            BorderPadd("image", 2),
            SpatialPadd("image", (20, 20, 10)),
            ResizeWithPadOrCropd("image", (12, 17, 14)),
            Rotate90d("image"),
        ],
    ),
    "single slice": (
        lambda f: scan(f, (13, 11, 1)),
        lambda: [
            mi.SqueezeSingleSliced("image"),
            Resized("image", (10, 8), mode="bilinear"),
        ],
    ),
    "2D": (lambda f: scan(f, (13, 11)), lambda: [Resized("image", (10, 8), mode="bilinear")]),
    "RGB": (picture, lambda: [Resized("image", (10, 8), mode="bicubic")]),
    "channels": (channels, lambda: [Resized("image", (9, 10, 8), mode="trilinear")]),
    "channels swapped": (
        channels,
        lambda: [
            Lambdad("image", lambda x: x.flip(0), inv_func=lambda x: x.flip(0)),
            Resized("image", (9, 10, 8), mode="trilinear"),
        ],
    ),
}


# Invertd says so where there is nothing to invert; SaveComponentsd just writes.
@pytest.mark.filterwarnings("ignore:inverse has been called but no invertible")
@pytest.mark.parametrize("keys", [KEYS, KEYS[:2], KEYS[2:]], ids=["three", "two", "sensitivity"])
@pytest.mark.parametrize("case", CASES)
def test_the_files_are_those_of_the_chain(tmp_path, case, keys):
    """Shape, affine, units, dtype and values; two volumes to the bit."""
    write, steps = CASES[case]
    file, transform = write(tmp_path), loading(*steps())
    item = with_volumes(transform, file, keys)
    before = dict(item)
    result = mi.SaveComponentsd(keys, tmp_path / "new", transform)(item)
    chain(transform, tmp_path / "old", keys)(item)
    assert item == before
    names = [f"scan_{key}.nii.gz" for key in keys]
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == names
    for key, name in zip(keys, names, strict=True):
        old, new = nib.load(tmp_path / "old" / name), nib.load(tmp_path / "new" / name)
        for field in ("dim", "datatype", "xyzt_units", "scl_slope", "scl_inter"):
            np.testing.assert_array_equal(new.header[field], old.header[field])
        np.testing.assert_allclose(new.header.get_zooms(), old.header.get_zooms(), rtol=1e-5)
        np.testing.assert_allclose(new.affine, old.affine, atol=1e-5)
        assert new.get_data_dtype() == (np.float64 if "sensitivity" in key else np.float32)
        found, wanted = np.asarray(new.dataobj), np.asarray(old.dataobj)
        if "ifim_sensitivity" in keys:  # then all of them are interpolated in float64 where it can
            assert np.abs(found - wanted).max() <= 1e-6 * np.abs(wanted).max()
        else:
            np.testing.assert_array_equal(found, wanted)
        assert np.array_equal(np.asarray(new.dataobj).ravel(), _ordered(result[key], found))
        if str(file).endswith(".gz"):
            assert new.shape == nib.load(file).shape
            own = nib.load(file)
            np.testing.assert_array_equal(new.affine, own.affine)
            for field in ("qform_code", "sform_code", "srow_x", "quatern_b", "qoffset_x"):
                np.testing.assert_array_equal(new.header[field], own.header[field])


def _ordered(volume, like):
    """(C, *S) with the channels last, flat."""
    assert volume.numel() == like.size
    return np.moveaxis(volume.as_tensor().numpy(), 0, -1).ravel()


def test_the_sampling_grid_is_built_once(tmp_path, monkeypatch):
    transform = loading(Resized("image", (9, 10, 8), mode="trilinear"))
    item = with_volumes(transform, scan(tmp_path, (13, 11, 9)))
    seen, inverse = [], Resized.inverse

    def watch(self, data):
        seen.append(tuple(data["image"].shape))
        return inverse(self, data)

    monkeypatch.setattr(Resized, "inverse", watch)
    mi.SaveComponentsd(KEYS, tmp_path / "out", transform)(item)
    assert seen == [(3, 9, 10, 8)]


class Mine(Flipd):
    """A transform derived from one of MONAI's may treat the channels differently."""


@pytest.mark.parametrize(
    "step", [lambda: Lambdad("image", lambda x: x, inv_func=lambda x: x), lambda: Mine("image", 1)]
)
def test_unknown_transforms_see_each_volume_alone(tmp_path, monkeypatch, step):
    step = step()
    transform = loading(step)
    item = with_volumes(transform, scan(tmp_path, (13, 11, 9)))
    seen, inverse = [], type(step).inverse

    def watch(self, data):
        seen.append(tuple(data["image"].shape))
        return inverse(self, data)

    monkeypatch.setattr(type(step), "inverse", watch)
    mi.SaveComponentsd(KEYS, tmp_path / "out", transform)(item)
    assert seen == [(1, 13, 11, 9)] * 3


@pytest.mark.parametrize("size", [1e-60, 1e-300, 1e60])
@pytest.mark.parametrize(
    "step",
    [
        lambda: Resized("image", (9, 10, 8), mode="trilinear"),
        lambda: Spacingd("image", pixdim=(1.1, 1.2, 1.7), mode="bilinear"),
    ],
)
def test_sensitivities_outside_the_range_of_float32(tmp_path, step, size):
    """A confident prediction's; interpolated in float32 they would be zero."""
    transform = loading(step())
    file = scan(tmp_path, (13, 11, 9))
    save = mi.SaveComponentsd(KEYS, tmp_path / "out", transform)
    save(with_volumes(transform, file, sensitivity=1.0))
    wanted = nib.load(tmp_path / "out" / "scan_ifim_sensitivity.nii.gz").get_fdata()
    high = nib.load(tmp_path / "out" / "scan_ifim_high.nii.gz").get_fdata()
    save(with_volumes(transform, file, sensitivity=size))
    found = nib.load(tmp_path / "out" / "scan_ifim_sensitivity.nii.gz").get_fdata()
    np.testing.assert_allclose(found / size, wanted, rtol=1e-5)
    assert (found > 0).all()
    assert np.array_equal(nib.load(tmp_path / "out" / "scan_ifim_high.nii.gz").get_fdata(), high)


def test_a_sensitivity_of_zeros(tmp_path):
    transform = loading(Resized("image", (9, 10, 8), mode="trilinear"))
    item = with_volumes(transform, scan(tmp_path, (13, 11, 9)), sensitivity=0.0)
    mi.SaveComponentsd(KEYS, tmp_path / "out", transform)(item)
    assert not nib.load(tmp_path / "out" / "scan_ifim_sensitivity.nii.gz").get_fdata().any()
