"""What SaveComponentsd refuses, with a message that says how to fix it."""

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.transforms import (
    Compose,
    Flipd,
    MapTransform,
    Resized,
    ToTensord,
)

import monai_ifim as mi
from _helpers.volumes import KEYS, loading, scan, with_volumes

# MONAI 1.6.1 says so whenever LoadImage registers its readers without nvImageCodec.
pytestmark = pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader:UserWarning")


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
