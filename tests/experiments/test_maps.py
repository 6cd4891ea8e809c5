"""Comparisons of maps against other libraries and dense matrices, deletion curves by hand."""

import math

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy.stats import pearsonr, rankdata
from torch import nn

from _helpers.untouched import Rich, assert_untouched, snapshot
from monai_ifim.core import eigenspace
from monai_ifim.experiments.maps.deletion import DeletionCurve, deletion_curve
from monai_ifim.experiments.maps.ranks import importance_ranks, top_mask
from monai_ifim.experiments.maps.similarity import map_angle, rank_correlation, share_inside


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).double()


@pytest.mark.parametrize("shape", [(4, 2, 5, 7), (4, 1, 3, 5, 6)])
def test_rank_correlation_is_that_of_the_ranks(shape):
    a = draw(*shape).round(decimals=1)  # ties
    b = a + draw(*shape, seed=1)
    found = rank_correlation(a, -b)
    assert found.dtype == torch.float64
    for value, one, other in zip(found, a.numpy(), b.numpy(), strict=True):
        ranks = (rankdata(np.abs(x).ravel()) for x in (one, other))
        assert float(value) == pytest.approx(pearsonr(*ranks).statistic, abs=1e-12)
    torch.testing.assert_close(rank_correlation(a, -3 * a), torch.ones(4).double())


def test_a_constant_map_has_no_ranking():
    a = draw(3, 1, 4, 5)
    b = a.clone()
    b[0], b[1] = 0, torch.where(b[1] > 0, 2, -2)  # one absolute value
    assert rank_correlation(a, b)[:2].tolist() == [0, 0]
    assert rank_correlation(b, a)[:2].tolist() == [0, 0]
    assert rank_correlation(a, b)[2] == pytest.approx(1)


@pytest.mark.parametrize("scale", [1, 1e-200])
def test_map_angle(scale):
    a, b = draw(3, 2, 5, 7), draw(3, 2, 5, 7, seed=1)
    found = map_angle(scale * a, -b)
    for angle, one, other in zip(found, a.numpy(), b.numpy(), strict=True):
        u, v = np.abs(one).ravel(), np.abs(other).ravel()
        cosine = u @ v / np.sqrt((u @ u) * (v @ v))
        assert float(angle) == pytest.approx(math.acos(cosine), rel=1e-12)


def test_map_angle_at_its_ends():
    a = torch.zeros(3, 1, 2, 3).double()
    b = torch.zeros_like(a)
    a[0, 0, 0, 0], b[0, 0, 1, 2] = 5, -0.1  # no entry in common
    a[1] = draw(1, 2, 3)
    b[1] = -7 * a[1]
    a[2] = draw(1, 2, 3)  # against zeros
    assert map_angle(a, b).tolist() == pytest.approx([math.pi / 2, 0, math.pi / 2], abs=1e-15)
    small = torch.tensor([[[1.0, 0.0]], [[1.0, 0.0]]]).double()
    tilted = torch.tensor([[[1.0, 1e-9]], [[1.0, 0.0]]]).double()
    assert map_angle(small, tilted).tolist() == pytest.approx([1e-9, 0], rel=1e-9)


@pytest.mark.parametrize("compare", [rank_correlation, map_angle])
def test_maps_that_cannot_be_compared(compare):
    with pytest.raises(ValueError, match="expected two maps"):
        compare(torch.rand(2, 1, 4, 5), torch.rand(2, 3, 4, 5))
    with pytest.raises(ValueError, match="expected finite maps"):
        compare(torch.rand(2, 1, 4), torch.full((2, 1, 4), math.nan))
    with pytest.raises(ValueError, match="at least 2 entries"):
        rank_correlation(torch.rand(2, 1, 1), torch.rand(2, 1, 1))


@pytest.mark.parametrize(
    ("shape", "likelihood"), [((2, 3, 5), "categorical"), ((1, 7), "bernoulli")]
)
def test_share_inside_against_a_dense_projector(shape, likelihood):
    """The projector comes from the dense F: its own eigenvectors, made by autograd."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Flatten(), nn.Linear(math.prod(shape), 6), nn.Tanh(), nn.Linear(6, 3)
    ).double()
    images, direction = draw(4, *shape), draw(4, *shape, seed=1)
    space = eigenspace(network, images, likelihood=likelihood)
    found = share_inside(space, 1e-150 * direction)
    for image, along, value in zip(images, direction, found, strict=True):
        jacobian = torch.autograd.functional.jacobian(network, image[None])[0].flatten(1)
        if likelihood == "categorical":
            jacobian = jacobian[1:] - jacobian[:1]
        projector = jacobian.T @ torch.linalg.pinv(jacobian.T)
        expected = (projector @ along.flatten()).square().sum() / along.square().sum()
        assert float(value) == pytest.approx(float(expected), rel=1e-9)
    torch.testing.assert_close(
        share_inside(space, space.eigenvectors[:, 1]), torch.ones(4).double()
    )
    assert share_inside(space, space.split(direction)[1]).max() < 1e-20
    assert share_inside(space, torch.zeros_like(images)).tolist() == [0] * 4


def test_a_random_direction_has_its_part_of_the_dimensions():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(40, 5)).double()
    space = eigenspace(network, draw(1, 1, 5, 8).expand(2000, 1, 5, 8))
    mean = share_inside(space, draw(2000, 1, 5, 8, seed=1)).mean()
    assert float(mean) == pytest.approx(4 / 40, rel=0.05)  # standard error 1.5 %


def test_share_inside_refuses_other_images():
    space = eigenspace(nn.Sequential(nn.Flatten(), nn.Linear(6, 2)), torch.rand(2, 1, 6))
    with pytest.raises(ValueError, match="expected images of shape"):
        share_inside(space, torch.rand(2, 1, 7))
    with pytest.raises(ValueError, match="expected finite maps"):
        share_inside(space, torch.full((2, 1, 6), math.inf))


class Sum(nn.Module):
    """Logits (weighted sum, 0): the probability is a sigmoid of that sum."""

    def __init__(self, weights, labels=False):
        super().__init__()
        self.register_buffer("weights", torch.as_tensor(weights, dtype=torch.float64))
        self.labels = labels

    def forward(self, x):
        total = (x * self.weights).flatten(1).sum(dim=1)
        return torch.stack([total, -0.5 * total if self.labels else 0 * total], dim=1)


def sigmoid(*values):
    return [1 / (1 + math.exp(-value)) for value in values]


def test_deletion_by_hand():
    """Four entries of mean 2.5, deleted in the order 4, 1, 3, 2."""
    network = Sum([1.0, 1.0, 1.0, 10.0])
    images = torch.tensor([[[1.0, 2.0, 3.0, 4.0]]]).double()
    maps = torch.tensor([[[-2.0, 0.1, 1.0, 3.0]]])
    curve = deletion_curve(network, images, maps, [0, 0.25, 0.5, 1])
    expected = sigmoid(1 + 2 + 3 + 40, 1 + 2 + 3 + 25, 2.5 + 2 + 3 + 25, 2.5 * 13)
    assert curve.probability[0].tolist() == pytest.approx(expected, rel=1e-14)
    assert curve.shares.tolist() == [0, 0.25, 0.5, 1]
    assert curve.probability.dtype == torch.float64

    network.weights -= torch.tensor([0.0, 0.0, 0.0, 12.0])  # now class 1 is the predicted one
    curve = deletion_curve(network, images, maps, [0, 0.25, 0.5, 1])
    expected = sigmoid(2.0, -1.0, -2.5, -2.5)
    assert curve.probability[0].tolist() == pytest.approx(expected, rel=1e-14)
    area = 0.25 * (expected[0] + expected[1]) / 2 + 0.25 * (expected[1] + expected[2]) / 2
    area += 0.5 * (expected[2] + expected[3]) / 2
    assert curve.area.tolist() == pytest.approx([area], rel=1e-14)


def test_insertion_by_hand():
    network = Sum([1.0, 1.0, 1.0, -2.0])
    images = torch.tensor([[[1.0, 2.0, 3.0, 4.0]]]).double()
    maps = torch.tensor([[[-2.0, 0.1, 1.0, 3.0]]])
    curve = deletion_curve(network, images, maps, [0.25, 0.5, 0.75], insertion=True)
    assert curve.insertion
    totals = (7.5 - 8, 1 + 5 - 8, 1 + 2.5 + 3 - 8)  # 2.5 where nothing is inserted yet
    expected = sigmoid(*(-total for total in totals))
    assert curve.probability[0].tolist() == pytest.approx(expected, rel=1e-14)
    area = (expected[0] / 2 + expected[1] + expected[2] / 2) / 2
    assert curve.area.tolist() == pytest.approx([area], rel=1e-14)


def test_labels_are_one_outcome():
    network = Sum([1.0, 1.0, 1.0, -1.0], labels=True)
    images = torch.tensor([[[1.0, 2.0, 3.0, 4.0]]]).double()  # logits 2, -1: the set {0}
    curve = deletion_curve(network, images, images, [0, 0.25, 1], likelihood="bernoulli")
    expected = [a * b for a, b in zip(sigmoid(2, 3.5, 5), sigmoid(1, 1.75, 2.5), strict=True)]
    assert curve.probability[0].tolist() == pytest.approx(expected, rel=1e-14)


def test_channels_have_their_own_mean_and_volumes_work():
    weights = draw(2, 3, 4, 5)
    images = draw(3, 2, 3, 4, 5, seed=1) + torch.tensor([5.0, -3.0]).view(2, 1, 1, 1)
    maps = draw(3, 2, 3, 4, 5, seed=2)
    curve = deletion_curve(Sum(weights), images, maps, [0, 0.37, 1])
    assert curve.probability.shape == (3, 3)
    for image, ordering, row in zip(images.numpy(), maps.numpy(), curve.probability, strict=True):
        top = np.argsort(-np.abs(ordering).ravel())[: round(0.37 * 120)]
        blank = np.stack([np.full((3, 4, 5), channel.mean()) for channel in image])
        part = image.copy().ravel()
        part[top] = blank.ravel()[top]
        totals = [float((x.ravel() * weights.numpy().ravel()).sum()) for x in (image, part, blank)]
        sign = math.copysign(1, totals[0])
        assert row.tolist() == pytest.approx(sigmoid(*(sign * t for t in totals)), rel=1e-9)


def test_blur_keeps_constants_and_removes_noise():
    network = Sum(torch.ones(1, 32, 48) / 1536)
    images = torch.full((1, 1, 32, 48), 0.7).double()
    order = draw(1, 1, 32, 48)
    curve = deletion_curve(network, images, order, [0, 0.3, 1], baseline="blur")
    torch.testing.assert_close(
        curve.probability, torch.full((1, 3), sigmoid(0.7)[0], dtype=torch.float64)
    )
    # A ripple of wave vector k along an axis of n voxels falls by exp(-(2 pi k / 16)² / 2).
    wave = torch.cos(2 * math.pi * 4 * (torch.arange(48) + 0.5) / 48).double().expand(1, 1, 32, 48)
    network = Sum(2 * wave[0] / wave.square().sum())
    after = deletion_curve(network, wave, order, [0, 1], baseline="blur").probability
    factor = math.exp(-((2 * math.pi * 4 / 16) ** 2) / 2)
    assert after[0].tolist() == pytest.approx(sigmoid(2, 2 * factor), rel=1e-3)


def test_the_caller_is_left_alone():
    network = Rich()
    images = MetaTensor(draw(2, 3, 4, 6))
    before = snapshot(network, images)
    maps = draw(2, 3, 4, 6, seed=1)
    curve = deletion_curve(network, images, maps, [0, 1])
    assert type(curve.probability) is torch.Tensor
    assert not curve.probability.requires_grad
    assert_untouched(before, network, images)
    with pytest.raises(ValueError, match="expected finite logits"):
        deletion_curve(network, images, maps, [0, 1], output_transform=lambda y: y / 0)
    assert_untouched(before, network, images)


def test_a_network_that_edits_its_input():
    class Edits(nn.Module):
        def forward(self, x):
            return x.mul_(2).flatten(1)

    images = draw(2, 1, 3, 5)
    kept = images.clone()
    curve = deletion_curve(Edits(), images, images, [0, 0.5, 1])
    assert torch.equal(images, kept)
    expected = torch.softmax(2 * images.flatten(1), dim=1).amax(dim=1)
    torch.testing.assert_close(curve.probability[:, 0], expected)
    torch.testing.assert_close(curve.probability[:, 2], torch.full((2,), 1 / 15).double())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"maps": torch.rand(2, 1, 4)}, r"expected maps \(2, 1, 5\)"),
        ({"maps": torch.zeros(2, 1, 5)}, "expected maps whose entries can be ordered"),
        ({"shares": []}, "expected shares that increase"),
        ({"shares": [0.5, 0.5]}, "expected shares that increase"),
        ({"shares": [0, 1.1]}, "expected shares that increase"),
        ({"shares": [-0.1, 1]}, "expected shares that increase"),
        ({"shares": [math.nan]}, "expected shares that increase"),
        ({"baseline": "black"}, "expected a baseline from"),
        ({"images": torch.full((2, 1, 5), math.nan)}, "expected finite images"),
    ],
)
def test_impossible_requests(changes, message):
    request = {"images": torch.rand(2, 1, 5), "maps": torch.rand(2, 1, 5), "shares": [0, 1]}
    network = nn.Sequential(nn.Flatten(), nn.Linear(5, 3))
    with pytest.raises(ValueError, match=message):
        deletion_curve(network, **{**request, **changes})


def test_a_segmentation_is_refused():
    images = torch.rand(2, 1, 4, 5)
    with pytest.raises(ValueError, match="expected one prediction per image"):
        deletion_curve(nn.Conv2d(1, 3, 1), images, images, [0, 1])


def test_one_share_has_no_area():
    curve = DeletionCurve(torch.ones(1), torch.ones(2, 1), False)
    with pytest.raises(ValueError, match="expected at least 2 shares"):
        _ = curve.area


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.77, 1.0])
def test_top_mask(share):
    attribution = draw(3, 2, 5, 7)
    mask = top_mask(attribution, share)
    count = max(1, round(share * 70))
    assert mask.shape == attribution.shape
    assert mask.dtype == torch.bool
    for values, chosen in zip(attribution.numpy(), mask.numpy(), strict=True):
        sizes = np.abs(values).ravel()
        assert set(np.flatnonzero(chosen)) == set(np.argsort(-sizes)[:count])


def test_ties_go_by_position():
    attribution = torch.tensor([[[1.0, -3.0, 3.0, -1.0, 0.0]]])
    assert importance_ranks(attribution).tolist() == [[[2, 0, 1, 3, 4]]]
    assert top_mask(attribution, 0.6).tolist() == [[[True, True, True, False, False]]]
    for share in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="expected a share from 0 to 1"):
            top_mask(attribution, share)
    with pytest.raises(ValueError, match="expected finite attributions"):
        top_mask(attribution / 0, 0.5)
