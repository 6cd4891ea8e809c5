"""The nuisances of an acquisition: what they do, and the quadratic law along them."""

import pytest
import torch
from torch import nn

import monai_ifim as mi
from monai_ifim.nuisances import (
    BiasField,
    Blur,
    Gain,
    Gamma,
    Magnification,
    Noise,
    Offset,
    Rotation,
    Shift,
)

KINDS = [
    Rotation(),
    Shift(axis=1),
    Magnification(),
    Gain(),
    Offset(),
    Gamma(),
    BiasField(),
    Blur(),
    Noise(),
]
every_kind = pytest.mark.parametrize("nuisance", KINDS, ids=lambda n: n.name)
SHAPES = {2: (3, 1, 14, 12), 3: (3, 1, 10, 12, 8)}


def smooth_blobs(dims):
    """A blob off the centre, not symmetric, on a background; different in each image."""
    axes = [torch.linspace(-1, 1, size, dtype=torch.float64) for size in SHAPES[dims][2:]]
    grid = torch.meshgrid(*axes, indexing="ij")
    images = []
    for i in range(3):
        centres = [0.3, -0.2 - 0.1 * i, 0.1][:dims]
        distance = sum(
            (1 + j) * (g - c) ** 2 for j, (g, c) in enumerate(zip(grid, centres, strict=True))
        )
        images.append(0.2 + torch.exp(-3 * distance))
    return torch.stack(images)[:, None]


def network_of(dims):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        size = torch.Size(SHAPES[dims][2:]).numel()
        return nn.Sequential(nn.Flatten(), nn.Linear(size, 8), nn.Tanh(), nn.Linear(8, 3)).double()


@every_kind
@pytest.mark.parametrize("dims", [2, 3])
def test_no_amount_no_change_and_each_image_its_own(nuisance, dims):
    images = smooth_blobs(dims)
    amounts = torch.tensor([0.0, nuisance.reach, nuisance.reach / 2], dtype=torch.float64)
    changed = nuisance(images, amounts)
    assert changed.shape == images.shape
    assert changed.dtype == images.dtype
    # MONAI resamples in single precision.
    assert (changed[0] - images[0]).abs().max() <= 1e-6
    assert (changed[1:] - images[1:]).abs().flatten(1).amax(1).min() > 1e-3
    alone = nuisance(images[1:2], amounts[1:2])
    torch.testing.assert_close(changed[1:2], alone, rtol=0, atol=1e-12)


@every_kind
@pytest.mark.parametrize("dims", [2, 3])
def test_the_quadratic_law_at_small_amounts(nuisance, dims):
    if nuisance.name == "noise":
        return  # its law is the mean over draws
    images, network = smooth_blobs(dims), network_of(dims)
    found = mi.nuisance_sensitivity(network, images, [nuisance], measure=False)
    amount = torch.full((3,), nuisance.reach / 200, dtype=torch.float64)
    sides = [amount] if nuisance.one_sided else [amount, -amount]
    before = network(images).detach()
    seen = [
        mi.Categorical().divergence(before, network(nuisance(images, a)).detach()) for a in sides
    ]
    law = 0.5 * amount.square() * found.matrix[:, 0, 0]
    torch.testing.assert_close(sum(seen) / len(seen), law, rtol=0.05, atol=0)


def test_noise_is_the_mean_over_draws():
    images, network = smooth_blobs(2), network_of(2)
    found = mi.nuisance_sensitivity(network, images, [Noise()], measure=False)
    before, amount = network(images).detach(), torch.full((3,), 1e-3, dtype=torch.float64)
    draws = [network(Noise(seed=s)(images, amount)).detach() for s in range(300)]
    mean = torch.stack([mi.Categorical().divergence(before, z) for z in draws]).mean(0)
    law = 0.5e-6 * found.matrix[:, 0, 0]
    torch.testing.assert_close(mean, law, rtol=0.25, atol=0)


def test_what_the_amounts_mean():
    image = torch.zeros(1, 1, 21, 21, dtype=torch.float64)
    image[0, 0, 8:11, 10] = 1
    moved = Shift(axis=0, spacing=0.5)(image, torch.tensor([1.0]))  # two voxels
    rows = torch.arange(21).double()
    centre = (moved[0, 0].sum(1) * rows).sum() / moved.sum()
    assert (centre - 9).item() == pytest.approx(2, abs=1e-6)

    ball = torch.exp(-0.05 * ((rows[:, None] - 10) ** 2 + (rows - 10) ** 2))[None, None]
    larger = Magnification()(ball, torch.tensor([10.0]))
    assert larger.sum() / ball.sum() == pytest.approx(1.21, rel=1e-2)

    bar = torch.exp(-0.5 * ((rows[:, None] - 10) ** 2 / 25 + (rows - 10) ** 2 / 2))[None, None]
    turned = Rotation()(bar, torch.tensor([90.0]))
    torch.testing.assert_close(turned, bar.transpose(2, 3), rtol=0, atol=1e-6)

    constant = torch.ones(1, 1, 9, 9, dtype=torch.float64)
    torch.testing.assert_close(Blur()(constant, torch.tensor([1.0])), constant)
    assert Gain()(constant, torch.tensor([20.0])).mean() == pytest.approx(1.2)
    shaded = BiasField(axis=1)(constant, torch.tensor([0.3]).double())[0, 0, 0]
    assert (shaded[-1] / shaded[0]).log().item() == pytest.approx(0.6)


def centre_of(image):
    axes = [torch.arange(size).double() for size in image.shape[2:]]
    grid = torch.meshgrid(*axes, indexing="ij")
    return [((image[0, 0] * each).sum() / image.sum()).item() for each in grid]


def blob(*centre):
    axes = [torch.arange(21).double() - c for c in centre]
    squares = (each.square() for each in torch.meshgrid(*axes, indexing="ij"))
    return torch.exp(-0.3 * sum(squares))[None, None]


@pytest.mark.parametrize("dims", [2, 3])
def test_a_positive_shift_is_to_larger_indices(dims):
    for axis in range(dims):
        moved = centre_of(Shift(axis=axis)(blob(*[10.0] * dims), torch.tensor([3.0])))
        expected = [10.0 + 3 * (each == axis) for each in range(dims)]
        assert moved == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("dims", "axis", "start", "end"), [(2, 2, 0, 1), (3, 2, 0, 1), (3, 0, 1, 2), (3, 1, 2, 0)]
)
def test_a_positive_rotation_is_by_the_right_hand_rule(dims, axis, start, end):
    """From one axis to the next, 5 voxels from the centre, by 30 degrees."""
    place = [10.0 + 5 * (each == start) for each in range(dims)]
    turned = centre_of(Rotation(axis=axis)(blob(*place), torch.tensor([30.0])))
    expected = [10 + 5 * (0.75**0.5 * (i == start) + 0.5 * (i == end)) for i in range(dims)]
    assert turned == pytest.approx(expected, abs=1e-2)


def test_a_larger_object_is_farther_from_the_centre():
    larger = centre_of(Magnification()(blob(15.0, 10.0), torch.tensor([10.0])))
    assert larger == pytest.approx([15.5, 10.0], abs=1e-2)


class Scaled(nn.Module):
    """A network for images of other units, in double precision inside."""

    def __init__(self, body, zero, unit):
        super().__init__()
        self.body, self.zero, self.unit = body, zero, unit

    def forward(self, x):
        return self.body((x.double() - self.zero) / self.unit)


@every_kind
@pytest.mark.parametrize(("zero", "unit"), [(2e4, 2e4), (1e5, 2e4), (4e4, 100.0)])
def test_the_law_at_large_intensities_in_single_precision(nuisance, zero, unit):
    """The same images in other units; what is in input units or from zero counts in double."""
    body, network = network_of(2), Scaled(network_of(2), zero, unit)
    images = (zero + unit * smooth_blobs(2)).float()
    found = mi.nuisance_sensitivity(network, images, [nuisance], measure=False).local[:, 0]
    exact = (images.double() - zero) / unit
    if nuisance.name in ("offset", "noise"):
        expected = mi.nuisance_sensitivity(body, exact, [nuisance], measure=False).local * unit
    elif nuisance.name == "gain" or nuisance.name.startswith("bias"):
        wide = Scaled(network_of(2), zero, unit)
        expected = mi.nuisance_sensitivity(wide, images.double(), [nuisance], measure=False).local
    else:
        expected = mi.nuisance_sensitivity(body, exact, [nuisance], measure=False).local
    torch.testing.assert_close(found, expected[:, 0], rtol=2e-3, atol=0)


def test_all_together_with_measured_amounts():
    images, network = smooth_blobs(2), network_of(2)
    law = mi.nuisance_sensitivity(network, images, KINDS, measure=False)
    reach = torch.tensor([nuisance.reach for nuisance in KINDS]).double()
    within = 0.5 * (reach / 4).square() * law.matrix.diagonal(dim1=1, dim2=2)
    level = within.median().item()  # which half of them reach in a quarter of what is plausible
    found = mi.nuisance_sensitivity(network, images, KINDS, level=level)
    assert found.measured.shape == (3, len(KINDS))
    assert len(found.sentences(0)) == len(KINDS)
    both = (found.local < reach) & torch.isfinite(found.measured)
    assert both.sum() >= 9
    ratio = (found.measured.abs() / found.local)[both]
    assert 0.5 < ratio.median() < 2
