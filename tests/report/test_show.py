"""Pictures of a batch in a notebook."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

import monai_ifim as mi
from _helpers.run_folders import OBLIQUE
from monai_ifim.outputs import batch_outputs
from monai_ifim.report.notebook import case_of


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


@pytest.mark.parametrize("shape", [(1, 1, 12, 10), (1, 1, 6, 7, 5)])
def test_plain_tensors_have_no_sides_of_a_patient(shape):
    images = torch.rand(shape)
    said = texts(mi.show(images, space_of(images))).splitlines()
    assert "2 px" in said or "1 px" in said
    assert not {*"RLAPSI"} & {*said}
    assert not [text for text in said if "mm" in text or "axial" in text]


@pytest.mark.parametrize(
    "options",
    [{}, {"method": "truncated"}, {"perturbation": mi.Mask(torch.rand(3, 1, 5, 6) > 0.3)}],
    ids=["exact", "approximate", "masks of their own"],
)
def test_a_case_is_that_of_the_whole_batch(options):
    """Computed for one image alone, the numbers and volumes are those of its batch."""
    images = torch.rand(3, 2, 5, 6)
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(60, 4))
    space = mi.eigenspace(network, images, **options)
    volumes = ("high", "orth", "sensitivity")
    whole = batch_outputs(space, images, volumes)
    for i in range(3):
        case = case_of(images, space, i)
        assert case.numbers.trace == whole.numbers[i]["trace"]
        assert list(case.numbers.eigenvalues) == whole.numbers[i]["eigenvalues"]
        assert case.numbers.energy_share == pytest.approx(whole.numbers[i]["high_energy_share"])
        for name in volumes:
            expected = whole.values[f"ifim_{name}"][i].numpy()
            np.testing.assert_allclose(getattr(case, name)[..., 0], expected, atol=1e-6)


def test_an_array_is_refused():
    images = torch.rand(2, 1, 8, 8)
    with pytest.raises(TypeError, match="expected images as a tensor, got ndarray"):
        mi.show(images.numpy(), space_of(images))


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
