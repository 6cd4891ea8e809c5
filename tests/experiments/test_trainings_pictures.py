"""The small pictures of eigenvectors in results.json, and how they are drawn."""

from types import SimpleNamespace

import numpy as np
import torch

from monai_ifim.experiments.trainings.pictures import pictures
from monai_ifim.report.trainings.blocks import Block
from monai_ifim.report.trainings.figure import draw_pictures


def trained(pooled, single=None):
    """What of a training is drawn: leading directions (C, *S)."""
    single = pooled if single is None else single
    return SimpleNamespace(pooled={"unit_trace": pooled[None, None]}, single=single[None, None])


def wave(*shape):
    values = torch.linspace(-1, 2, torch.Size(shape).numel()).reshape(shape)
    return values / values.norm()


def test_signs_are_those_of_the_template():
    template = wave(1, 5, 7)
    found = pictures([trained(-template), trained(2 * template)], template[None, None])
    expected = (template[0] / template.abs().max()).round(decimals=2)
    for picture in (*found["pooled"], *found["single"], found["template"]):
        torch.testing.assert_close(torch.tensor(picture), expected)


def test_without_a_template_they_are_those_of_the_first_training():
    first = wave(1, 5, 7)
    found = pictures([trained(first), trained(-first)], None)
    assert found["template"] is None
    assert found["pooled"][0] == found["pooled"][1]


def test_of_a_volume_the_middle_plane_is_drawn():
    volume = wave(1, 3, 4, 5)
    found = pictures([trained(volume)], None)
    expected = volume[0, :, :, 2] / volume[0, :, :, 2].abs().max()
    torch.testing.assert_close(torch.tensor(found["pooled"][0]), expected.round(decimals=2))


def test_large_pictures_are_left_out():
    assert pictures([trained(wave(1, 65, 65))], None) is None


def test_a_row_for_each_network_and_a_sign_for_all():
    picture = wave(1, 8, 8)[0].tolist()
    turned = (-torch.tensor(picture)).tolist()
    blocks = [
        Block(
            {"title": "T"},
            name,
            {
                "recipe": {"images": 10},
                "pictures": {"template": None, "single": [each, each], "pooled": [each, each]},
            },
        )
        for name, each in (("cnn", picture), ("vit", turned))
    ]
    figure = draw_pictures(blocks)
    shown = [axis.images[0].get_array() for axis in figure.axes if axis.images]
    assert len(figure.axes) == len(shown) == 12
    for first, second in zip(shown[:6], shown[6:], strict=True):
        np.testing.assert_allclose(first, second, atol=1e-12)
    assert figure.axes[6].get_ylabel() == "ViT\n10 images"
    assert draw_pictures([Block({"title": "T"}, "cnn", {"pictures": None})]) is None
