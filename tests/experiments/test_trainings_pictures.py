"""The small pictures of eigenvectors in results.json, and how they are drawn."""

from types import SimpleNamespace

import torch

from monai_ifim.experiments.trainings.pictures import pictures


def trained(pooled, smoothed=True):
    """What of a training is drawn: leading directions (C, *S), and an image."""
    own = pooled[None, None]
    return SimpleNamespace(
        pooled={"unit_trace": own},
        single=own,
        smoothed=own if smoothed else own[:0],
        images=torch.arange(pooled.numel()).reshape(1, *pooled.shape).float(),
    )


def wave(*shape):
    values = torch.linspace(-1, 2, torch.Size(shape).numel()).reshape(shape)
    return values / values.norm()


def test_signs_are_those_of_the_template():
    template = wave(1, 5, 7)
    found = pictures([trained(-template), trained(2 * template)], template[None, None])
    expected = (template[0] / template.abs().max()).round(decimals=2)
    for picture in (*found["pooled"], *found["single"], *found["smoothed"], found["template"]):
        torch.testing.assert_close(torch.tensor(picture), expected)


def test_without_a_template_they_are_those_of_the_first_training():
    first = wave(1, 5, 7)
    found = pictures([trained(first), trained(-first)], None)
    assert found["template"] is None
    assert found["pooled"][0] == found["pooled"][1]
    assert found["image"][0][:3] == [0, 0.03, 0.06]
    assert found["image"][-1][-1] == 1
    assert pictures([trained(first, smoothed=False)], None)["smoothed"] == []


def test_of_a_volume_the_middle_plane_is_drawn():
    volume = wave(1, 3, 4, 5)
    found = pictures([trained(volume)], None)
    expected = volume[0, :, :, 2] / volume[0, :, :, 2].abs().max()
    torch.testing.assert_close(torch.tensor(found["pooled"][0]), expected.round(decimals=2))


def test_large_pictures_are_left_out():
    assert pictures([trained(wave(1, 65, 65))], None) is None
