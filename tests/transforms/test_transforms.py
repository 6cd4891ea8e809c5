"""The components without an engine, and the transforms that bundles need around them."""

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import DataLoader, MetaTensor
from monai.transforms import (
    Compose,
    EnsureChannelFirstd,
    Invertd,
    LoadImaged,
    Resized,
    SaveImaged,
    Spacingd,
)

import monai_ifim as mi
from _helpers.comparisons import assert_close
from _helpers.networks import smooth_network
from _helpers.recorders import evaluate
from _helpers.scans import dataset, oblique, preprocessing, unreadable, write_scan, write_scans

# MONAI 1.6.1 says so whenever LoadImage registers its readers without nvImageCodec.
pytestmark = pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader:UserWarning")

NUMBERS = {"ifim_eigenvalues", "ifim_trace", "ifim_rank"}


@pytest.fixture
def files(tmp_path):
    return write_scans(tmp_path / "scans", 3, count=3)


# --- components ---------------------------------------------------------------------------------


def test_array_transform_keeps_type_and_meta(files):
    item = dataset(files)[1]
    result = mi.IFIMComponents(smooth_network(3), volumes=("high", "orth", "sensitivity"))(
        item["image"]
    )
    assert set(result) == NUMBERS | {"ifim_high", "ifim_orth", "ifim_sensitivity"}
    for name in ("high", "orth", "sensitivity"):
        value = result[f"ifim_{name}"]
        assert isinstance(value, MetaTensor)
        assert value.shape == item["image"].shape
        assert value.meta["filename_or_obj"] == files[1]
        np.testing.assert_allclose(value.affine, oblique(1), atol=1e-5)
        assert value.applied_operations == item["image"].applied_operations
    assert_close(result["ifim_high"] + result["ifim_orth"], item["image"])

    plain = mi.IFIMComponents(smooth_network(3))(item["image"].as_tensor())
    assert not any(isinstance(value, MetaTensor) for value in plain.values())
    assert torch.equal(plain["ifim_high"], result["ifim_high"].as_tensor())


def test_array_transform_takes_numpy(files):
    image = dataset(files)[0]["image"].numpy()
    result = mi.IFIMComponents(smooth_network(3))(image)
    assert_close(result["ifim_high"] + result["ifim_orth"], image)


def test_dictionary_transform_adds_keys_and_leaves_the_rest(files):
    item = dataset(files)[0]
    before = dict(item)
    image = item["image"].clone()
    result = mi.IFIMComponentsd("image", smooth_network(3))(item)
    assert item == before
    assert set(item) == {"image", "label"}
    assert torch.equal(item["image"], image)
    assert set(result) - set(item) == NUMBERS | {"ifim_high", "ifim_orth", "ifim_model"}


def test_prefixes(files):
    item = dataset(files)[0]
    item["other"] = dataset(files)[1]["image"]
    network = smooth_network(3)
    transform = mi.IFIMComponentsd(["image", "other"], network, prefix=["left", "ifim_b"])
    result = transform(item)
    expected = mi.IFIMComponents(network)
    for key, prefix in (("image", "left"), ("other", "ifim_b")):
        for name, value in expected(item[key]).items():
            assert torch.equal(result[prefix + name.removeprefix("ifim")], value)
    assert "ifim_high" not in result

    with pytest.raises(ValueError, match="expected one prefix for each of the keys"):
        mi.IFIMComponentsd(["image", "other"], network)
    with pytest.raises(ValueError, match="expected one prefix for each of the keys"):
        mi.IFIMComponentsd(["image", "other"], network, prefix=["a", "a"])
    with pytest.raises(ValueError):
        mi.IFIMComponentsd(["image", "other"], network, prefix=["a", "b", "c"])


def test_missing_keys(files):
    network = smooth_network(3)
    item = dataset(files)[0]
    with pytest.raises(KeyError, match="other"):
        mi.IFIMComponentsd("other", network)(item)
    result = mi.IFIMComponentsd(
        ["other", "image"], network, prefix=["a", "b"], allow_missing_keys=True
    )(item)
    assert "b_high" in result
    assert "a_high" not in result
    with pytest.raises(KeyError, match="other"):
        mi.CheckImaged("other", 1, 3)(item)
    mi.CheckImaged(["image", "other"], 1, 3, allow_missing_keys=True)(item)
    mi.SqueezeSingleSliced(["image", "other"], allow_missing_keys=True)(item)


def test_inside_a_pipeline_and_a_loader(files):
    network = smooth_network(3)
    transform = Compose([preprocessing(), mi.IFIMComponentsd("image", network, energy=0.9)])
    batches = list(DataLoader(dataset(files, transform), batch_size=2, num_workers=0))
    assert [len(b["ifim_high"]) for b in batches] == [2, 1]
    assert batches[0]["ifim_high"].meta["filename_or_obj"] == files[:2]
    images = torch.stack([d["image"].as_tensor() for d in dataset(files)])
    space = mi.eigenspace(network, images, energy=0.9)
    assert_close(torch.cat([b["ifim_trace"] for b in batches]), space.trace)
    assert_close(torch.cat([b["ifim_high"] for b in batches]), space.split(images)[0])
    assert torch.cat([b["ifim_rank"] for b in batches]).tolist() == space.rank.tolist()


def test_in_an_evaluators_postprocessing(files, tmp_path):
    """The way for hosts without handlers: inverted and saved like the handler's volumes."""
    network = smooth_network(3)
    steps = [*preprocessing().transforms[:2], Resized("image", (9, 10, 8), mode="trilinear")]
    transform = Compose(steps)
    saving = Compose(
        [
            mi.IFIMComponentsd("image", network),
            Invertd(
                ["ifim_high", "ifim_orth"],
                transform=transform,
                orig_keys="image",
                nearest_interp=False,
            ),
            SaveImaged(
                "ifim_high",
                output_dir=str(tmp_path / "out"),
                output_postfix="ifim_high",
                separate_folder=False,
                resample=False,
                print_log=False,
            ),
        ]
    )
    loader = DataLoader(dataset(files, transform), batch_size=2)
    _, items = evaluate(network, loader, postprocessing=saving)
    _, handled = evaluate(
        network,
        loader,
        mi.IFIMHandler(),
        postprocessing=Compose(saving.transforms[1:2]),
    )
    for i, (item, other) in enumerate(zip(items, handled, strict=True)):
        assert_close(item["ifim_high"], other["ifim_high"])
        volume = nib.load(tmp_path / "out" / f"scan{i}_ifim_high.nii.gz")
        assert volume.shape == nib.load(files[i]).shape
        np.testing.assert_allclose(volume.affine, nib.load(files[i]).affine, rtol=0, atol=1e-5)


def test_errors_are_those_of_the_core(files):
    image = dataset(files)[0]["image"]
    image[0, 1, 2, 3] = torch.inf
    with pytest.raises(ValueError, match="expected finite images"):
        mi.IFIMComponents(smooth_network(3))(image)
    with pytest.raises(ValueError, match="expected volumes from"):
        mi.IFIMComponents(smooth_network(3), volumes=["top"])


# --- CheckImaged --------------------------------------------------------------------------------


def load(path, *further, ensure=True):
    steps = [LoadImaged("image", image_only=True), *further]
    if ensure:
        steps.insert(1, EnsureChannelFirstd("image"))
    return Compose(steps)({"image": str(path)})


def save(path, values, affine=None):
    nib.save(
        nib.Nifti1Image(values.astype(np.float32), np.eye(4) if affine is None else affine), path
    )
    return path


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((13, 11, 9, 5), (1, 3), r"expected 1 channel and 3 spatial axes, got .*\(5, 13, 11, 9\)"),
        ((13, 11, 9), (1, 2), r"expected 1 channel and 2 spatial axes, got .*\(1, 13, 11, 9\)"),
        ((13, 11), (1, 3), r"expected 1 channel and 3 spatial axes, got .*\(1, 13, 11\)"),
        ((13, 11, 9), (2, 3), r"expected 2 channels and 3 spatial axes, got .*\(1, 13, 11, 9\)"),
    ],
)
def test_check_image_refuses_other_shapes(tmp_path, shape, options, message):
    path = save(tmp_path / "s.nii.gz", np.random.default_rng(0).standard_normal(shape))
    item = load(path)
    with pytest.raises(ValueError, match=message):
        mi.CheckImaged("image", *options)(item)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_check_image_refuses_nan_and_infinity(tmp_path, value):
    values = np.zeros((13, 11, 9))
    values[1, 2, 3] = value
    item = load(save(tmp_path / "s.nii.gz", values))
    with pytest.raises(ValueError, match="expected finite values, got an image with NaN"):
        mi.CheckImaged("image", 1, 3)(item)


def test_check_image_passes_what_is_right(tmp_path):
    item = load(write_scan(tmp_path / "s.nii.gz", (13, 11, 9)))
    result = mi.CheckImaged("image", 1, 3)(item)
    assert result["image"] is item["image"]
    numpy = {"image": np.zeros((2, 7, 5), np.int16)}
    assert mi.CheckImaged("image", 2, 2)(numpy)["image"] is numpy["image"]


def test_check_image_and_the_size(tmp_path):
    item = load(write_scan(tmp_path / "s.nii.gz", (13, 11, 9)))
    mi.CheckImaged("image", 1, 3, spatial_size=[13, 11, 9])(item)
    with pytest.raises(ValueError, match=r"length \(13, 9, 11\), got \(13, 11, 9\)"):
        mi.CheckImaged("image", 1, 3, spatial_size=(13, 9, 11))(item)


def test_check_image_leaves_unreadable_files_to_the_reader(tmp_path):
    path = unreadable(tmp_path / "s.nii.gz")
    with pytest.raises(RuntimeError):
        load(path, mi.CheckImaged("image", 1, 3))


# --- single slices ------------------------------------------------------------------------------


def single_slice_pipeline(folder, keys=("ifim_high", "ifim_orth"), spatial_size=(10, 8)):
    transform = Compose(
        [
            LoadImaged("image", image_only=True),
            EnsureChannelFirstd("image"),
            mi.SqueezeSingleSliced("image"),
            mi.CheckImaged("image", channels=1, spatial_dims=2),
            Resized("image", spatial_size, mode="bilinear"),
        ]
    )
    names = {**{key: key for key in keys}, "image": "input"}
    saving = Compose(
        [
            Invertd(list(names), transform=transform, orig_keys="image", nearest_interp=False),
            *(
                SaveImaged(
                    key,
                    output_dir=str(folder),
                    output_postfix=postfix,
                    separate_folder=False,
                    resample=False,
                    print_log=False,
                    writer="monai_ifim.AtomicNibabelWriter",
                )
                for key, postfix in names.items()
            ),
        ]
    )
    return transform, saving


@pytest.mark.parametrize("last", [(1,), ()], ids=["H,W,1", "H,W"])
def test_two_dimensional_files_keep_shape_and_affine(tmp_path, last):
    """A single-slice volume comes back as one, a 2D image as a 2D image, on the scan's grid."""
    shapes = [(13, 11, *last), (12, 15, *last), (9, 14, *last)]
    files = [write_scan(tmp_path / f"s{i}.nii.gz", shape, i) for i, shape in enumerate(shapes)]
    out = tmp_path / "out"
    transform, saving = single_slice_pipeline(out)
    loader = DataLoader(dataset(files, transform), batch_size=2)
    handler = mi.IFIMHandler(output_dir=out)
    evaluate(smooth_network(2), loader, handler, inferer=mi.IFIMInferer(), postprocessing=saving)
    for i, file in enumerate(files):
        scan = nib.load(file)
        read = {
            name: nib.load(out / f"s{i}_{name}.nii.gz")
            for name in ("ifim_high", "ifim_orth", "input")
        }
        for volume in read.values():
            assert volume.shape == scan.shape
            np.testing.assert_allclose(volume.affine, scan.affine, rtol=0, atol=1e-5)
        values = {name: volume.get_fdata() for name, volume in read.items()}
        total = values["ifim_high"] + values["ifim_orth"]
        assert np.abs(total - values["input"]).max() <= 1e-5 * np.abs(values["input"]).max()


def test_values_return_to_their_own_voxels(tmp_path):
    """Without resampling the round trip is exact, so that no axis can be swapped or flipped."""
    file = write_scan(tmp_path / "s.nii.gz", (13, 11, 1), 2)
    transform, saving = single_slice_pipeline(tmp_path / "out", keys=(), spatial_size=(13, 11))
    item = transform({"image": file})
    assert item["image"].shape == (1, 13, 11)
    saving(item)
    scan, saved = nib.load(file), nib.load(tmp_path / "out" / "s_input.nii.gz")
    np.testing.assert_allclose(saved.get_fdata(), scan.get_fdata(), atol=1e-6)
    np.testing.assert_allclose(saved.affine, scan.affine, rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", [(13, 11, 1), (13, 1, 11), (1, 13, 11)])
def test_single_slices_beside_spacing(tmp_path, shape):
    """Spacing changes the in-plane affine before the inverse has to restore all of it."""
    file = write_scan(tmp_path / "s.nii.gz", shape, 1)
    transform = Compose(
        [
            LoadImaged("image", image_only=True),
            EnsureChannelFirstd("image"),
            mi.SqueezeSingleSliced("image"),
            Spacingd("image", pixdim=(1.1, 0.9), mode="bilinear"),
        ]
    )
    item = transform({"image": file})
    assert item["image"].ndim == 3
    restored = transform.inverse(item)["image"]
    assert restored.shape == (1, *shape)
    np.testing.assert_allclose(restored.affine, nib.load(file).affine, rtol=0, atol=1e-5)


def test_squeeze_leaves_volumes_and_images_alone(tmp_path):
    squeeze = mi.SqueezeSingleSliced("image")
    for shape in ((13, 11), (13, 11, 9)):
        item = load(write_scan(tmp_path / "s.nii.gz", shape))
        result = squeeze(item)
        assert result["image"].shape == (1, *shape)
        assert torch.equal(result["image"], item["image"])
        back = squeeze.inverse(result)["image"]
        assert back.shape == (1, *shape)
        assert torch.equal(back.affine, item["image"].affine)


def test_squeeze_leaves_its_input_as_it_was(tmp_path):
    for shape in ((13, 11, 1), (13, 1, 9), (1, 11, 9), (13, 11, 9), (13, 11)):
        item = load(write_scan(tmp_path / "s.nii.gz", shape))
        operations = list(item["image"].applied_operations)
        mi.SqueezeSingleSliced("image")(item)
        assert item["image"].shape == (1, *shape)
        assert item["image"].applied_operations == operations
