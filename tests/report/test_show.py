"""Pictures of a batch in a notebook."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

import monai_ifim as mi
from _helpers.run_folders import OBLIQUE


def texts(figure) -> str:
    return "\n".join(a.get_text() for a in figure.findobj(lambda a: hasattr(a, "get_text")))


def space_of(images, classes=3):
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(images[0].numel(), classes))
    return mi.eigenspace(network, images)


def test_a_batch_with_names():
    images = torch.rand(2, 2, 6, 7, 5)
    images = MetaTensor(images, affine=torch.as_tensor(OBLIQUE))
    space = space_of(images)
    figure = mi.show(images, space, class_names=["a", "b", "c"], channel_names=["T1", "T2"], most=1)
    said = texts(figure)
    best = "abc"[int(space.logits[0].argmax())]
    assert f"predicted {best}" in said
    assert "1 of 2 images" in said
    assert "ASL" in said  # the affine is used
    assert "T1 (channel 1 of 2)" in said or "T2 (channel 2 of 2)" in said
    assert figure._repr_png_().startswith(b"\x89PNG")


@pytest.mark.parametrize("classes", [2, 5])
def test_pictures_in_colour(classes):
    images = torch.rand(1, 3, 8, 6)
    figure = mi.show(images, space_of(images, classes), picture=True)
    assert "red, green and blue" in texts(figure)
    assert "px" in texts(figure)


def test_affines_of_their_own():
    affines = torch.stack([torch.eye(4), torch.diag(torch.tensor([-1.0, -1, 1, 1]))])
    images = MetaTensor(torch.rand(2, 1, 6, 7, 5))
    images.meta["affine"] = affines
    assert mi.show(images, space_of(images)) is not None


def test_an_image_without_a_result_is_a_line():
    images = torch.rand(2, 1, 8, 8)
    space = space_of(images)
    images[0, 0, 0, 0] = np.nan
    said = texts(mi.show(images, space))
    assert "image 0" in said
    assert "NaN" in said
    assert "predicted" in said  # the other one


@pytest.mark.parametrize("shape", [(3, 1, 8, 8), (2, 1, 8)])
def test_other_images_than_those_of_the_eigenspace(shape):
    space = space_of(torch.rand(2, 1, 8, 8))
    with pytest.raises(ValueError, match="expected the 2 images of the eigenspace"):
        mi.show(torch.rand(shape), space)
    with pytest.raises(ValueError, match="at least one image"):
        mi.show(torch.rand(2, 1, 8, 8), space, most=0)
