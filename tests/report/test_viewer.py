"""Volumes in a notebook: what the widget holds."""

import gzip
import sys

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

import monai_ifim as mi
from _helpers.run_folders import OBLIQUE
from monai_ifim.report import notebook

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of ipywidgets


def space_of(images, classes=3):
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(images[0].numel(), classes))
    return mi.eigenspace(network, images)


def held(widget):
    """The volumes of a widget by name, as nibabel reads them, and their traits."""
    images = {v.name: nib.Nifti1Image.from_bytes(gzip.decompress(v.data)) for v in widget.volumes}
    return images, {v.name: v for v in widget.volumes}


def assert_near(image, expected):
    """To the steps of 16 bits."""
    values = np.asarray(image.dataobj)
    assert np.abs(values - expected).max() <= np.ptp(expected) / 30000


@pytest.fixture
def batch():
    affines = torch.stack([torch.eye(4, dtype=torch.float64), torch.as_tensor(OBLIQUE)])
    images = MetaTensor(torch.rand(2, 2, 6, 7, 5))
    images.meta["affine"] = affines
    return images


def test_the_volumes_and_their_affines(batch):
    space = space_of(batch)
    images, volumes = held(mi.view(batch, space, index=1))
    high, orth = (part[1].as_tensor().numpy() for part in space.split(batch))
    sensitivity = np.sqrt(space.sensitivity()[1].numpy())
    expected = {
        "image": batch[1].as_tensor().numpy(),
        "orth": orth,
        "high": high / np.abs(high).max(),
        "sensitivity": sensitivity / sensitivity.max(),
    }
    assert list(images) == [f"{n}.nii.gz" for n in ("image", "high", "orth", "sensitivity")]
    for name, values in expected.items():
        image = images[f"{name}.nii.gz"]
        np.testing.assert_allclose(image.affine, OBLIQUE, atol=1e-5)
        assert_near(image, np.moveaxis(values, 0, -1))
    best = int(space.sensitivity()[1].flatten(1).sum(1).argmax())
    assert {volume.frame_4d for volume in volumes.values()} == {best}


@pytest.mark.parametrize("overlay", ["sensitivity", "high"])
def test_one_overlay_on_the_image(batch, overlay):
    _, volumes = held(mi.view(batch, space_of(batch), overlay=overlay, opacity=0.3, channel=1))
    shown = {name: volume.opacity for name, volume in volumes.items() if volume.opacity}
    assert shown == {"image.nii.gz": 1.0, f"{overlay}.nii.gz": 0.3}
    assert {volume.frame_4d for volume in volumes.values()} == {1}
    assert volumes["high.nii.gz"].colormap_negative == "winter"
    assert volumes["high.nii.gz"].cal_min_neg == -volumes["high.nii.gz"].cal_max


@pytest.mark.parametrize("channel", [0, 1])
@pytest.mark.parametrize("picture", [False, True])
def test_each_channel_has_limits_of_its_own(channel, picture):
    """Channels of ranges 1000 apart, the other one being the most sensitive."""
    images = torch.rand(1, 3 if picture else 2, *((6, 7) if picture else (6, 7, 5)))
    images[:, 0] *= 1000
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(images[0].numel(), 3))
    with torch.no_grad():
        network[1].weight.view(3, images.shape[1], -1)[:, 0] *= 1e-3
    space = mi.eigenspace(network, images)
    found, volumes = held(mi.view(images, space, channel=channel, picture=picture))

    def shown(name):
        values = np.asarray(found[f"{name}.nii.gz"].dataobj)
        assert {volume.frame_4d for volume in volumes.values()} == {0 if picture else channel}
        return values if picture else values[..., channel]

    for name in ("image", "orth"):
        low, high = np.percentile(shown(name) if name == "image" else shown("image"), (0.5, 99.5))
        assert volumes[f"{name}.nii.gz"].cal_min == pytest.approx(low, rel=0.02, abs=1e-3)
        assert volumes[f"{name}.nii.gz"].cal_max == pytest.approx(high, rel=0.02)
        assert len(np.unique(np.round(shown(name), 6))) > 30  # not flattened beside the other
    for name in ("high", "sensitivity"):
        top = np.percentile(np.abs(shown(name)), 99.5)
        assert volumes[f"{name}.nii.gz"].cal_max == pytest.approx(top, rel=0.01)
    expected = images[0, channel].numpy()
    assert np.allclose(np.squeeze(shown("image")), expected, atol=2e-5 * expected.max() + 1e-3)


def test_only_the_image_that_is_shown_is_computed(batch, monkeypatch):
    space = space_of(batch)
    asked = []
    outputs = notebook.batch_outputs
    monkeypatch.setattr(
        notebook, "batch_outputs", lambda s, i, v: asked.append(len(i)) or outputs(s, i, v)
    )
    mi.view(batch, space, index=1)
    assert asked == [1]


def test_a_plain_tensor_names_no_sides_of_a_patient(batch):
    plain = batch.as_tensor()
    assert not mi.view(plain, space_of(plain)).opts.is_orientation_text_visible
    assert mi.view(batch, space_of(batch)).opts.is_orientation_text_visible


def test_a_picture_in_colour():
    images = torch.rand(1, 3, 8, 6)
    widget = mi.view(images, space_of(images), picture=True)
    found, volumes = held(widget)
    assert found["image.nii.gz"].header["datatype"] == 128  # 24 bits of colour
    assert found["image.nii.gz"].shape == (8, 6, 1)
    assert widget.opts.slice_type.name == "AXIAL"
    assert not widget.opts.is_orientation_text_visible
    assert {volume.frame_4d for volume in volumes.values()} == {0}


def test_what_cannot_be_shown(batch):
    space = space_of(batch)
    with pytest.raises(ValueError, match="index from 0 to 1, got 2"):
        mi.view(batch, space, index=2)
    with pytest.raises(ValueError, match="overlay 'sensitivity' or 'high', got 'orth'"):
        mi.view(batch, space, overlay="orth")
    with pytest.raises(ValueError, match="channel from 0 to 1, got 2"):
        mi.view(batch, space, channel=2)
    for other in (torch.rand(3, 1, 8, 8), batch[:0], batch.as_tensor().reshape(2, 2, 5, 7, 6)):
        with pytest.raises(ValueError, match="expected the 2 images of the eigenspace"):
            mi.view(other, space)
    with pytest.raises(TypeError, match="expected images as a tensor, got ndarray"):
        mi.view(batch.numpy(), space)
    with pytest.raises(TypeError, match=r"index as a whole number, got 0\.5"):
        mi.view(batch, space, index=0.5)
    for opacity in (5, -1, float("nan")):
        with pytest.raises(ValueError, match="opacity from 0 to 1"):
            mi.view(batch, space, opacity=opacity)
    with pytest.raises(ValueError, match="height of at least 1 pixel, got 0"):
        mi.view(batch, space, height=0)
    batch[0, 0, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="image with a result, got image 0"):
        mi.view(batch, space)


def test_without_the_extra(batch, monkeypatch):
    monkeypatch.setitem(sys.modules, "ipyniivue", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'monai_ifim\[notebook\]'"):
        mi.view(batch, space_of(batch))


def test_another_channel_has_its_own_limits():
    images = torch.rand(1, 2, 6, 7, 5)
    images[:, 0] *= 1000
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(images[0].numel(), 3))
    with torch.no_grad():
        network[1].weight[:, : images[0, 0].numel()] *= 1e-3
    space = mi.eigenspace(network, images)
    assert int(space.sensitivity()[0].flatten(1).sum(1).argmax()) == 1
    _, volumes = held(mi.view(images, space, channel=0))
    assert volumes["image.nii.gz"].cal_max > 500
    sensitivity = np.sqrt(space.sensitivity()[0].numpy())
    top = volumes["sensitivity.nii.gz"].cal_max
    assert 0 < top <= sensitivity[0].max() / sensitivity.max() * 1.001
    _, volumes = held(mi.view(images, space))
    assert volumes["image.nii.gz"].cal_max < 2


@pytest.mark.parametrize(
    ("options", "told"),
    [({"opacity": 5}, "opacity from 0 to 1, got 5"), ({"opacity": -1}, "got -1"),
     ({"height": 0}, "height of at least 1 pixel")],
)  # fmt: skip
def test_looks_that_cannot_be(batch, options, told):
    with pytest.raises(ValueError, match=told):
        mi.view(batch, space_of(batch), **options)


def test_what_is_no_batch(batch):
    with pytest.raises(TypeError, match=r"expected images as a tensor, got ndarray"):
        mi.view(batch.numpy(), space_of(batch))
    with pytest.raises(ValueError, match=r"got the shape \(0, 2"):
        mi.view(batch[:0], space_of(batch))
