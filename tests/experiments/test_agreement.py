"""The problem with a known answer: the ideal observer as a network, and one that knows nothing."""

import math

import pytest
import torch
from torch import nn

from monai_ifim import eigenspace
from monai_ifim.experiments import agreement, principal_angles, signal_task


class IdealNetwork(nn.Module):
    """The ideal observer's logits; linear in the image, so its eigenspace is known exactly."""

    def __init__(self, task):
        super().__init__()
        self.register_buffer("templates", task.templates.flatten(1))
        self.register_buffer("bias", task.gram.diagonal() / 2)

    def forward(self, images):
        logits = images.flatten(1) @ self.templates.to(images).T - self.bias.to(images)
        return nn.functional.pad(logits, (1, 0))


@pytest.mark.parametrize("name", ["2d", "3d"])
def test_ideal_network_has_the_templates_as_its_eigenspace(name):
    task = signal_task(name)
    found = agreement(IdealNetwork(task), task, decisions=400, eigenspaces=20)
    assert found.accuracy == found.ideal_accuracy
    torch.testing.assert_close(found.cosines, torch.ones(20).double(), rtol=0, atol=1e-9)


def test_fisher_information_of_the_ideal_network_in_closed_form():
    task = signal_task("2d")
    images = task.sample([0, 1, 0], torch.Generator().manual_seed(3)).double()
    space = eigenspace(IdealNetwork(task), images)
    p = torch.softmax(task.ideal_logits(images), dim=1)[:, 1]
    template = task.templates[0]
    expected = p * (1 - p) * template.square().sum()
    torch.testing.assert_close(space.eigenvalues[:, 0], expected, rtol=1e-10, atol=0)
    # Along +v the other class gains: the direction of the template turns with the decision.
    cosines = (space.eigenvectors[:, 0, 0] * template).flatten(1).sum(dim=1) / template.norm()
    signs = torch.where(p < 0.5, 1.0, -1.0).double()
    torch.testing.assert_close(cosines, signs, rtol=0, atol=1e-10)


def test_untrained_network_does_not_agree():
    torch.manual_seed(0)
    task = signal_task("2d")
    network = nn.Sequential(nn.Flatten(), nn.Linear(64 * 64, 8), nn.Tanh(), nn.Linear(8, 2))
    found = agreement(network, task, decisions=200, eigenspaces=50)
    assert found.cosines.median() < 5 / math.sqrt(64 * 64)  # chance is about 1 / sqrt(N)
    assert abs(found.accuracy - 0.5) < 0.15


def test_angles_of_a_rotated_plane():
    angle = torch.tensor(1e-7, dtype=torch.float64)  # the arc cosine alone would give 0 or 2e-8
    a = torch.eye(4, dtype=torch.float64)[None, :2]
    b = a.clone()
    b[0, 1] = torch.tensor([0, torch.cos(angle), torch.sin(angle), 0])
    torch.testing.assert_close(
        principal_angles(a, 3 * b), torch.stack([0 * angle, angle])[None], rtol=1e-6, atol=1e-15
    )


def test_angles_are_symmetric_and_broadcast():
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(3, 2, 5, 7, generator=generator)
    b = torch.randn(1, 4, 5, 7, generator=generator)
    one = principal_angles(a, b)
    assert one.shape == (3, 2)
    torch.testing.assert_close(one, principal_angles(b, a))


@pytest.mark.parametrize(
    ("a", "b", "says"),
    [
        (torch.ones(1, 1, 4), torch.ones(1, 1, 5), "one image size"),
        (torch.zeros(1, 1, 4), torch.ones(1, 1, 4), "zero vector"),
        (torch.ones(4), torch.ones(4), r"\[None\]"),
    ],
)
def test_what_has_no_angle(a, b, says):
    with pytest.raises(ValueError, match=says):
        principal_angles(a, b)
