"""Single slices of any plane on their file's grid, through networks that take slices or volumes."""

import csv

import monai.transforms as mt
import nibabel as nib
import numpy as np
import pytest
import torch
from monai.networks.nets import ResNet

import monai_ifim as mi
from _helpers.dicom import AXIAL, CORONAL, OBLIQUE, SAGITTAL, SHIPPED, write_slice
from monai_ifim.data.source_grid import SourceGrid
from monai_ifim.runs.preprocessing import image_preprocessing
from monai_ifim.transforms.invert import InvertComponentsd

# MONAI 1.6.1 says so whenever LoadImage registers its readers without nvImageCodec.
pytestmark = pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader:UserWarning")
LOCALIZERS = SHIPPED / "dicomdirtests"
PLANES = {"axial": AXIAL, "sagittal": SAGITTAL, "coronal": CORONAL, "oblique": OBLIQUE}
plane = pytest.mark.parametrize("orientation", PLANES.values(), ids=PLANES)


def affine_of(orientation, spacing=(0.7, 1.3, 6.0)):
    """RAS of (columns, rows) with the slice's normal, away from the origin."""
    turn = np.array(orientation, float)
    columns = [turn[:3], turn[3:], np.cross(turn[:3], turn[3:])]
    affine = np.eye(4)
    affine[:3, :3] = np.array(columns).T * spacing
    affine[:3, 3] = -31, 17, 88
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


def resnet():
    torch.manual_seed(0)
    options = {"spatial_dims": 3, "n_input_channels": 1, "num_classes": 3}
    return ResNet("basic", [1, 1, 1, 1], [4, 8, 8, 8], **options)


@plane
def test_a_slice_is_placed_in_spite_of_rounding(orientation):
    affine = affine_of(orientation)
    grid = SourceGrid("slice.dcm", (16, 19), affine, affine)
    volume = torch.rand(1, 16, 19)
    rounded = affine * (1 + 1e-7) + 1e-6
    assert grid.place(volume, rounded) is volume


@plane
@pytest.mark.parametrize("axis", [0, 1])
def test_a_slice_of_another_size_or_place_is_refused(orientation, axis):
    """In every direction: of a sagittal slice the third row says where its rows are."""
    affine = affine_of(orientation)
    grid = SourceGrid("slice.dcm", (16, 19), affine, affine)
    other = affine.copy()
    other[:, axis] *= 1.05
    moved = affine.copy()
    moved[:, 3] += 0.3 * affine[:, axis]
    for wrong in (other, moved):
        with pytest.raises(ValueError, match="voxels beside it, after undoing"):
            grid.place(torch.rand(1, 16, 19), wrong)


@plane
@pytest.mark.parametrize(
    "step",
    [
        lambda: mt.Resized("image", (33, 21)),
        lambda: mt.Resized("image", (33, 21, 7)),
        lambda: mt.Rotate90d("image"),
        lambda: mt.Zoomd("image", 1.3, keep_size=False),
    ],
    ids=["resized", "to a volume", "turned", "zoomed"],
)
def test_a_nifti_of_one_slice_comes_back(tmp_path, orientation, step):
    values = np.random.default_rng(0).random((16, 19), np.float32)
    nib.save(nib.Nifti1Image(values, affine_of(orientation)), tmp_path / "slice.nii.gz")
    load = [mt.LoadImaged("image"), mt.EnsureChannelFirstd("image")]
    preprocessing = mt.Compose([*load, step()])
    item = preprocessing({"image": str(tmp_path / "slice.nii.gz")})
    restored = InvertComponentsd(["high"], preprocessing).restore({**item, "high": item["image"]})
    assert restored.placed
    assert restored.volumes["high"].shape == (1, 16, 19)


@pytest.mark.parametrize("orientation", [None, "RAS", "LPS"])
@pytest.mark.parametrize(
    "name", ["98892001/CT2N", "98892003/MR2", "98892003/MR700", "../examples_overlay.dcm"]
)
def test_localizers_in_a_network_of_volumes(tmp_path, name, orientation):
    """pydicom's: axial, sagittal, coronal and oblique ones; sizes that are no powers of 2."""
    steps = image_preprocessing(
        dims=3, size=(24, 20, 9), orientation=orientation, intensity="range"
    )
    mi.run(resnet(), LOCALIZERS / name, tmp_path, preprocessing=steps, progress=False)
    with (tmp_path / "ifim.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows
    assert {row["status"] for row in rows} == {"ok"}
    highs = sorted(tmp_path.rglob("*_ifim_high.nii.gz"))
    assert len(highs) == len(rows)
    for high in highs:
        orth = nib.load(str(high).replace("_high", "_orth"))
        total = nib.load(high).get_fdata() + orth.get_fdata()
        assert total.squeeze().ndim == 2
        np.testing.assert_allclose(nib.load(high).affine, orth.affine)


@plane
def test_a_slice_looks_the_same_from_every_orientation(tmp_path, orientation):
    """A network that adds up what it sees gives the same components, whatever the axes are."""

    class Sum(torch.nn.Module):
        def forward(self, image):
            total = image.flatten(1).sum(1)
            return torch.stack([total, -total], 1) / image[0].numel()

    write_slice(tmp_path / "in" / "a.dcm", ImageOrientationPatient=orientation)
    found = []
    for axes in (None, "RAS", "PIR"):
        steps = image_preprocessing(dims=3, orientation=axes, intensity="range")
        out = tmp_path / str(axes)
        mi.run(Sum(), tmp_path / "in", out, preprocessing=steps, progress=False)
        [path] = out.rglob("*_ifim_orth.nii.gz")
        found.append(nib.load(path))
    for each in found[1:]:
        np.testing.assert_allclose(each.affine, found[0].affine, atol=1e-6)
        np.testing.assert_allclose(each.get_fdata(), found[0].get_fdata(), atol=1e-6)


@pytest.mark.filterwarnings("ignore:axcodes .* length is smaller")
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("98892001/CT2N/6293", "got a single sagittal or coronal slice, of whose two axes"),
        ("../CT_small.dcm", "got 3 before Resize: it was made a volume of a single slice"),
    ],
)
def test_a_bundle_of_volumes_says_what_it_cannot_do_with_a_slice(tmp_path, name, words):
    """A preprocessing that others wrote: Orientation has seen two axes, Resize makes three."""
    load = [mt.LoadImaged("image"), mt.EnsureChannelFirstd("image")]
    turn = mt.Orientationd("image", axcodes="RAS", labels=(("L", "R"), ("P", "A"), ("I", "S")))
    steps = mt.Compose([*load, turn, mt.Resized("image", (24, 20, 9))])
    mi.run(resnet(), LOCALIZERS / name, tmp_path, preprocessing=steps, progress=False)
    with (tmp_path / "ifim.csv").open() as file:
        [row] = csv.DictReader(file)
    assert row["status"].startswith("failed:")
    assert words in row["status"]
    assert "leave single slices out" in row["status"]
