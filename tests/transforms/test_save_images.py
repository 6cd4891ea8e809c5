"""SaveComponentsd on one image among others, and in each place where it is used."""

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import DataLoader
from monai.transforms import (
    Compose,
    Invertd,
    Resized,
    Spacingd,
)

import monai_ifim as mi
from _helpers.networks import smooth_network
from _helpers.recorders import evaluate
from _helpers.scans import dataset, oblique, preprocessing, write_scan
from _helpers.volumes import KEYS, loading, scan, with_volumes

# MONAI 1.6.1 says so whenever LoadImage registers its readers without nvImageCodec.
pytestmark = pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader:UserWarning")


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
