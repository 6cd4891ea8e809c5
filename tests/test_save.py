"""SaveComponentsd beside the chain of Invertd and SaveImaged that it replaces."""

import gzip
import sys

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import DataLoader, MetaTensor
from monai.transforms import (
    BorderPadd,
    CenterSpatialCropd,
    Compose,
    EnsureChannelFirstd,
    Flipd,
    Invertd,
    Lambdad,
    LoadImaged,
    MapTransform,
    Orientationd,
    Resized,
    ResizeWithPadOrCropd,
    Rotate90d,
    SaveImaged,
    Spacingd,
    SpatialPadd,
    ToTensord,
)
from PIL import Image

import monai_ifim as mi
from _helpers.networks import smooth_network
from _helpers.recorders import evaluate
from _helpers.scans import dataset, oblique, preprocessing, write_scan

# MONAI 1.6.1 says so whenever LoadImage registers its readers without nvImageCodec.
pytestmark = pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader:UserWarning")

KEYS = ("ifim_high", "ifim_orth", "ifim_sensitivity")
RAS = {"axcodes": "RAS", "labels": (("L", "R"), ("P", "A"), ("I", "S"))}


def loading(*steps):
    return Compose([LoadImaged("image"), EnsureChannelFirstd("image"), *steps])


def with_volumes(transform, file, keys=KEYS, sensitivity=1.0):
    """The preprocessed image with volumes of the shape and dtypes that the components have."""
    item = transform({"image": str(file)})
    image = item["image"]
    random = torch.Generator().manual_seed(5)
    for key in keys:
        wide = key.endswith("sensitivity")
        values = torch.randn(image.shape, generator=random, dtype=torch.float64)
        values = values.square() * sensitivity if wide else values.float()
        item[key] = MetaTensor(values).copy_meta_from(image)
    return item


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


def scan(folder, shape, number=1):
    return write_scan(folder / "scan.nii.gz", shape, number)


def picture(folder):
    values = np.random.default_rng(0).integers(0, 256, (11, 13, 3), dtype=np.uint8)
    Image.fromarray(values).save(folder / "scan.png")
    return folder / "scan.png"


def channels(folder):
    """Two channels, the fourth axis of a NIfTI file."""
    return write_scan(folder / "scan.nii.gz", (13, 11, 9, 2), 1)


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
        assert new.header == old.header
        assert new.get_data_dtype() == (np.float64 if "sensitivity" in key else np.float32)
        found, wanted = np.asarray(new.dataobj), np.asarray(old.dataobj)
        if "ifim_sensitivity" in keys:  # then all of them are interpolated in float64 where it can
            assert np.abs(found - wanted).max() <= 1e-6 * np.abs(wanted).max()
        else:
            np.testing.assert_array_equal(found, wanted)
        assert np.array_equal(np.asarray(new.dataobj).ravel(), _ordered(result[key], found))
        if str(file).endswith(".gz"):
            assert new.shape == nib.load(file).shape
            np.testing.assert_allclose(new.affine, nib.load(file).affine, atol=1e-5)


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


# --- the file -----------------------------------------------------------------------------------


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


# --- one image among others ---------------------------------------------------------------------


def test_volumes_without_a_result_are_not_written(tmp_path, caplog):
    transform = loading(Resized("image", (9, 10, 8), mode="trilinear"))
    item = with_volumes(transform, scan(tmp_path, (13, 11, 9)))
    item["ifim_sensitivity"][:] = torch.nan
    mi.SaveComponentsd(KEYS, tmp_path / "out", transform)(item)
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["scan_ifim_high.nii.gz", "scan_ifim_orth.nii.gz"]
    assert "scan_ifim_sensitivity.nii.gz not written: the volume holds NaN" in caplog.text
    clean = with_volumes(transform, scan(tmp_path, (13, 11, 9)))
    mi.SaveComponentsd(KEYS, tmp_path / "clean", transform)(clean)
    for name in names:  # its neighbours in the stack are as without it
        found, wanted = (nib.load(tmp_path / f / name).get_fdata() for f in ("out", "clean"))
        assert np.array_equal(found, wanted)


def test_only_what_is_there(tmp_path):
    transform = loading()
    item = with_volumes(transform, scan(tmp_path, (13, 11, 9)), KEYS[:1])
    with pytest.raises(KeyError, match="ifim_orth"):
        mi.SaveComponentsd(KEYS, tmp_path / "out", transform)(item)
    assert not (tmp_path / "out").exists()
    mi.SaveComponentsd(KEYS, tmp_path / "out", transform, allow_missing_keys=True)(item)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["scan_ifim_high.nii.gz"]
    nothing = {"image": item["image"]}
    save = mi.SaveComponentsd(KEYS, tmp_path / "none", transform, allow_missing_keys=True)
    assert save(nothing) == nothing
    assert not (tmp_path / "none").exists()


def test_equal_names_need_their_folders(tmp_path):
    transform, files = loading(), []
    for patient in ("ada", "bob"):
        (tmp_path / patient).mkdir()
        files.append(scan(tmp_path / patient, (13, 11, 9)))
    items = [with_volumes(transform, file) for file in files]
    flat = mi.SaveComponentsd(KEYS, tmp_path / "flat", transform)
    flat(items[0])
    with pytest.raises(ValueError, match=r"expected a file name of its own for .*bob"):
        flat(items[1])
    kept = mi.SaveComponentsd(KEYS, tmp_path / "kept", transform, data_root_dir=tmp_path)
    for item in items:
        kept(item)
    assert len(list((tmp_path / "kept").glob("*/scan_ifim_*.nii.gz"))) == 6
    outside = mi.SaveComponentsd(KEYS, tmp_path / "x", transform, data_root_dir=tmp_path / "ada")
    with pytest.raises(ValueError, match="got a file name outside"):
        outside(items[1])


def test_results_are_no_images_of_the_next_run(tmp_path):
    transform, file = loading(), scan(tmp_path, (13, 11, 9))
    for ext in (".nii.gz", ".nii"):
        save = mi.SaveComponentsd(KEYS, tmp_path / "out", transform, output_ext=ext)
        save(with_volumes(transform, file))
    assert mi.find_images(tmp_path) == [{"image": file}]


# --- where it is used ---------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["handler", "postprocessing", "python"])
def test_three_places_write_the_same_files(tmp_path, place):
    (tmp_path / "scans").mkdir()
    files = [write_scan(tmp_path / "scans" / f"s{i}.nii.gz", (13, 11, 9), i) for i in range(3)]
    steps = [*preprocessing().transforms, Resized("image", (9, 10, 8), mode="trilinear")]
    transform, network = Compose(steps), smooth_network(3)
    batches = DataLoader(dataset(files, transform), batch_size=2)
    save = mi.SaveComponentsd(KEYS[:2], tmp_path / "out", transform)
    if place == "handler":
        evaluate(network, batches, mi.IFIMHandler(postprocessing=save))
    elif place == "postprocessing":
        evaluate(network, batches, mi.IFIMHandler(), postprocessing=Compose([save]))
    else:
        both = Compose([mi.IFIMComponentsd("image", network), save])
        for item in dataset(files, transform):
            both(item)
    invert = Invertd("image", transform, nearest_interp=False)
    for i, item in enumerate(dataset(files, transform)):
        high, orth = (nib.load(tmp_path / "out" / f"s{i}_{key}.nii.gz") for key in KEYS[:2])
        np.testing.assert_allclose(high.affine, oblique(i), atol=1e-5)
        wanted = invert(item)["image"][0].numpy()
        total = high.get_fdata() + orth.get_fdata()
        assert np.abs(total - wanted).max() <= 1e-5 * np.abs(wanted).max()
        assert np.abs(high.get_fdata()).max() > 1e-3 * np.abs(wanted).max()


def test_without_inversion_the_volumes_stay_on_their_grid(tmp_path):
    transform = loading(Spacingd("image", pixdim=(1.1, 1.2, 1.7), mode="bilinear"))
    item = with_volumes(transform, scan(tmp_path, (13, 11, 9)))
    mi.SaveComponentsd(KEYS, tmp_path / "out", None)(item)
    written = nib.load(tmp_path / "out" / "scan_ifim_high.nii.gz")
    assert written.shape == item["image"].shape[1:]
    np.testing.assert_allclose(written.affine, item["image"].affine, atol=1e-5)


def test_images_without_a_file_are_numbered(tmp_path):
    save = mi.SaveComponentsd("high", tmp_path, None)
    for value in (1.0, 2.0):
        save({"image": torch.zeros(1, 5, 4, 3), "high": torch.full((1, 5, 4, 3), value)})
    for number in range(2):
        assert (nib.load(tmp_path / f"{number}_high.nii.gz").get_fdata() == number + 1).all()


# --- errors -------------------------------------------------------------------------------------


class Keep(MapTransform):
    """Cannot be undone, and need not be."""

    def __call__(self, data):
        return dict(data)


@pytest.mark.parametrize("forgets", ["ToTensord", "as_tensor", "numpy"])
def test_an_image_that_forgot_its_transforms(tmp_path, forgets):
    transform = loading(Resized("image", (9, 10, 8), mode="trilinear"))
    item = with_volumes(transform, scan(tmp_path, (13, 11, 9)))
    if forgets == "ToTensord":
        item["image"] = ToTensord("image")({"image": item["image"]})["image"]
        item["image"].applied_operations = []
    else:
        item["image"] = getattr(item["image"], forgets)()
    with pytest.raises(ValueError, match=r"record of the transforms .*traceable_preprocessing"):
        mi.SaveComponentsd(KEYS, tmp_path / "out", transform)(item)
    assert not (tmp_path / "out").exists()


def test_wrong_arguments(tmp_path):
    transform = loading()
    with pytest.raises(ValueError, match=r"expected output_ext .*got '.png'"):
        mi.SaveComponentsd(KEYS, tmp_path, transform, output_ext=".png")
    with pytest.raises(ValueError, match="expected different keys"):
        mi.SaveComponentsd(["a", "a"], tmp_path, transform)
    with pytest.raises(ValueError, match="invertible transform, got Keep"):
        mi.SaveComponentsd(KEYS, tmp_path, Keep("image"))


def test_wrong_data(tmp_path):
    transform = loading(Flipd("image", 1))
    save = mi.SaveComponentsd(KEYS, tmp_path / "out", transform)
    item = with_volumes(transform, scan(tmp_path, (13, 11, 9)))
    with pytest.raises(KeyError, match="expected the preprocessed image under 'image'"):
        save({key: item[key] for key in KEYS})
    with pytest.raises(ValueError, match=r"'ifim_high' on the grid of 'image', \(13, 11, 9\)"):
        save({**item, "ifim_high": item["ifim_high"][..., 1:]})


def test_a_plain_image_with_nothing_to_undo(tmp_path):
    values = torch.rand(1, 5, 4, 3)
    mi.SaveComponentsd("high", tmp_path, Compose([Keep("image")]))(
        {"image": values, "high": values}
    )
    np.testing.assert_array_equal(nib.load(tmp_path / "0_high.nii.gz").get_fdata(), values[0])
