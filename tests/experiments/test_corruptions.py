"""Each corruption against what it is by definition, in 2D and 3D."""

import math
import random
from itertools import pairwise

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from numpy.polynomial.legendre import legvander
from torch.special import erf

from monai_ifim.experiments.measures.corruptions import CORRUPTIONS, RandRigidMotion, corrupt

# Batch, channels and spatial axes are pairwise distinct in each.
SHAPES = {2: (4, 2, 24, 29), 3: (4, 2, 14, 17, 12)}
RANDOM = ("noise", "bias_field", "motion")

everywhere = pytest.mark.parametrize("dims", [2, 3])
each = pytest.mark.parametrize("name", CORRUPTIONS)


def noise_images(dims, seed=0):
    return torch.randn(SHAPES[dims], generator=torch.Generator().manual_seed(seed))


def unit_images(dims):
    """Blocks of several greys with sharp edges in [0, 1], on a dark ground."""
    blocks = torch.rand(*SHAPES[dims][:2], *[4] * dims, generator=torch.Generator().manual_seed(5))
    frame = (slice(None), slice(None), *[slice(2, -2)] * dims)
    images = torch.zeros(SHAPES[dims])
    size = images[frame].shape[2:]
    images[frame] = 0.2 + 0.8 * torch.nn.functional.interpolate(blocks, size, mode="nearest")
    return images


def change(corrupted, images):
    """Standard deviation of the change, relative to the image's, (B,)."""
    return (corrupted - images).flatten(1).std(dim=1) / images.flatten(1).std(dim=1)


@everywhere
@each
def test_one_strength_suits_noise_and_bright_images(name, dims):
    for images in (noise_images(dims), unit_images(dims)):
        corrupted = corrupt(images, name)
        assert corrupted.shape == images.shape
        assert corrupted.dtype == torch.float32
        assert type(corrupted) is torch.Tensor
        changed = change(corrupted, images)
        assert (changed > 0.05).all()
        assert (changed < 1).all()


@everywhere
@each
def test_the_unit_of_the_images_does_not_matter(name, dims):
    images = noise_images(dims)
    corrupted = 100 * corrupt(images, name)
    torch.testing.assert_close(corrupt(100 * images, name), corrupted, rtol=1e-4, atol=1e-3)


@everywhere
@each
def test_growing_strength_from_nothing_on(name, dims):
    images = unit_images(dims)
    strengths = (0.02, 0.5, 1.0, 2.0)
    changes = [change(corrupt(images, name, strength), images) for strength in strengths]
    assert (changes[0] < 0.05).all()
    assert all((a < b).all() for a, b in pairwise(changes))


@everywhere
@each
def test_image_i_depends_on_the_seed_and_i_alone(name, dims):
    images = noise_images(dims)
    images[2:] = images[1]
    first = corrupt(images, name, seed=7)
    assert torch.equal(first, corrupt(images, name, seed=7))
    assert torch.equal(first[:2], corrupt(images[:2], name, seed=7))
    other = corrupt(images, name, seed=8)
    if name in RANDOM:
        assert not torch.allclose(first[1], first[2])
        assert not torch.allclose(first[2], first[3])
        assert not torch.allclose(first[0], other[0])
    else:
        assert torch.equal(first[1], first[2])
        assert torch.equal(first, other)


@each
def test_the_caller_is_not_disturbed(name):
    images = noise_images(2).requires_grad_()
    before = images.detach().clone()
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    corrupted = corrupt(images, name)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()
    assert random.getstate() == states[2]
    assert torch.equal(images, before)
    assert not corrupted.requires_grad
    assert torch.equal(corrupt(MetaTensor(before), name), corrupted)
    assert corrupt(before.double(), name).dtype == torch.float32


@everywhere
def test_noise_is_white_and_half_of_the_deviation(dims):
    images = unit_images(dims) * torch.tensor([1.0, 3, 10, 50]).view(-1, *[1] * (dims + 1))
    noise = corrupt(images, "noise") - images
    deviation = images.flatten(1).std(dim=1, correction=0)
    count = images[0].numel()
    error = 4 / math.sqrt(2 * count)
    assert (noise.flatten(1).std(dim=1) / deviation / 0.5 - 1).abs().max() < error
    assert (noise.flatten(1).mean(dim=1) / deviation).abs().max() < 4 * 0.5 / math.sqrt(count)
    neighbours = (noise[..., 1:] * noise[..., :-1]).flatten(1).mean(dim=1)
    assert (neighbours / deviation**2).abs().max() < 4 * 0.25 / math.sqrt(count)


@everywhere
def test_blur_is_a_gaussian_of_one_voxel(dims):
    images = noise_images(dims).double()
    x = torch.arange(-4, 5).double()
    kernel = (erf((x + 0.5) / math.sqrt(2)) - erf((x - 0.5) / math.sqrt(2))) / 2
    expected = images
    for axis in range(2, dims + 2):
        moved = torch.nn.functional.pad(expected.movedim(axis, -1), (4, 4)).unfold(-1, 9, 1)
        expected = (moved @ kernel).movedim(-1, axis)
    torch.testing.assert_close(corrupt(images, "blur").double(), expected, rtol=0, atol=1e-3)


@everywhere
def test_bias_is_a_smooth_factor_the_same_for_all_channels(dims):
    images = 1 + unit_images(dims)
    logs = (corrupt(images, "bias_field") / images).log().double()
    torch.testing.assert_close(logs[:, 0], logs[:, 1], rtol=1e-4, atol=1e-5)
    # a polynomial of degree 3 along each axis leaves nothing over when those are taken out
    for axis, size in enumerate(SHAPES[dims][2:], start=2):
        basis = torch.from_numpy(np.linalg.qr(legvander(np.linspace(-1, 1, size), 3))[0])
        along = logs.movedim(axis, -1)
        assert (along - along @ basis @ basis.T).abs().max() < 1e-5
        assert (along - along @ basis[:, :2] @ basis[:, :2].T).abs().max() > 1e-2


@everywhere
def test_motion_leaves_the_first_lines_of_k_space(dims):
    images = noise_images(dims)
    moved = corrupt(images, "motion")
    # the centre line is the sum along the phase-encoding axis
    torch.testing.assert_close(moved.sum(dim=2), images.sum(dim=2), rtol=1e-4, atol=1e-4)
    # the real part halves the difference to the moved image at the outer lines
    still = corrupt(images, "motion", strength=1e-6)
    torch.testing.assert_close(still, images, rtol=1e-3, atol=1e-3)


@everywhere
def test_motion_of_whole_voxels_mixes_both_poses(dims, monkeypatch):
    """The same by definition: full k-space of both poses, lines exchanged, inverse transform."""
    image = noise_images(dims)[0]
    poses = []
    size = image.shape[1]

    def shift(rotate, shear, translate, **options):
        # by whole voxels, but asked for the amounts that the transform was given
        assert [abs(angle) for angle in rotate] == [0.1] * (1 if dims == 2 else 3)
        share = torch.tensor(translate) / torch.tensor(image.shape[1:])
        assert share.norm().item() == pytest.approx(0.2)
        assert shear is None

        def roll(image):
            poses.append(torch.roll(image, (3, 2), (1, 2)))
            return poses[-1]

        return roll

    monkeypatch.setattr("monai_ifim.experiments.measures.corruptions.Affine", shift)
    transform = RandRigidMotion(angle=0.1, shift=0.2)
    transform.set_random_state(seed=1)
    found = transform(image)
    axes = tuple(range(1, dims + 1))
    before, after = (torch.fft.fftn(x.double(), dim=axes) for x in (image, poses[0]))
    frequency = torch.fft.fftfreq(size) * size
    candidates = []
    for first in range(1, size // 2):
        lines = (frequency >= first).view(1, -1, *[1] * (dims - 1))
        candidates.append(torch.fft.ifftn(torch.where(lines, after, before), dim=axes).real)
    errors = [(found - candidate).abs().max().item() for candidate in candidates]
    assert min(errors) < 1e-5
    assert sorted(errors)[1] > 1e-2


def test_no_motion_with_probability_zero():
    image = noise_images(2)[0]
    assert torch.equal(RandRigidMotion(0.1, 0.1, prob=0.0)(image), image)


@everywhere
def test_gibbs_cuts_k_space_beyond_a_radius(dims):
    images = noise_images(dims)
    axes = tuple(range(2, dims + 2))
    before, after = (
        torch.fft.fftshift(torch.fft.fftn(x.double(), dim=axes), dim=axes)
        for x in (images, corrupt(images, "gibbs"))
    )
    size = SHAPES[dims][2:]
    offsets = [torch.arange(n) - n // 2 for n in size]
    radius = sum(o.square() for o in torch.meshgrid(*offsets, indexing="ij")).sqrt()
    cut = 0.4 * max(size) / math.sqrt(2)
    # MONAI's centre lies half a line off for even sizes
    torch.testing.assert_close(
        after[:, :, radius < cut - 1.8], before[:, :, radius < cut - 1.8], rtol=1e-3, atol=1e-3
    )
    assert after[:, :, radius > cut + 1.8].abs().max() < 1e-3


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        (torch.rand(2, 1, 8, 8), {"name": "fog"}, "expected a corruption in .*'motion'"),
        (torch.rand(2, 1, 8, 8), {"strength": 0.0}, "strength > 0"),
        (torch.rand(2, 1, 8, 8), {"strength": math.inf}, "strength > 0"),
        (torch.rand(2, 1, 8, 8), {"seed": -1}, "seed >= 0"),
        (torch.rand(2, 1, 8), {}, "expected images"),
        (torch.rand(0, 1, 8, 8), {}, "expected images"),
        (torch.full((2, 1, 8, 8), math.nan), {}, "expected finite"),
        (torch.full((2, 1, 8, 8), 0.1), {}, "not constant, got 2 of 2"),
    ],
)
def test_impossible_requests(images, options, message):
    with pytest.raises(ValueError, match=message):
        corrupt(images, **{"name": "noise", **options})
