"""Perturbations x + A u: against AᵀFA with a dense A that is built by the test."""

from itertools import product
from math import exp

import pytest
import torch
from torch import nn

import monai_ifim as mi
from _helpers import oracle
from _helpers.problems import SHAPES, Affine, smooth_images, smooth_network

C, S = SHAPES[2][1], SHAPES[2][2:]
N = C * S[0] * S[1]


def images_and_network(dims=2, outputs=4):
    return smooth_images(dims), smooth_network(dims, outputs)


def half_mask():
    mask = torch.zeros(C, *S, dtype=torch.bool)
    mask[:2, :, 1:4] = True
    return mask


def even_power(*shape, seed=0):
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).double()
    return torch.fft.fftn(noise, dim=(-2, -1)).abs().square() / 24


def smoothing(size, width):
    """The matrix of Smooth along one axis, from its definition."""
    rows = torch.zeros(size, size, dtype=torch.float64)
    for i, j in product(range(size), repeat=2):
        rows[i, j] = exp(-0.5 * ((i - j) / width) ** 2)
    return torch.stack([row / row.norm() for row in rows])


def dense_smooth():
    rows, columns = smoothing(S[0], 1.5 / 0.5), smoothing(S[1], 1.5 / 2.0)
    return torch.kron(torch.eye(C).double(), torch.kron(rows, columns))


def dense_noise(power):
    """From the discrete Fourier matrices themselves."""
    fourier = torch.kron(*(torch.fft.fft(torch.eye(n).double().to(torch.complex128)) for n in S))
    inverse = torch.linalg.inv(fourier)
    blocks = [
        (inverse @ torch.diag(p.flatten().sqrt().to(torch.complex128)) @ fourier).real
        for p in power.expand(C, *S)
    ]
    return torch.block_diag(*blocks)


POWER, POWERS = even_power(*S), even_power(C, *S, seed=1)
CASES = {
    "mask": (mi.Mask(half_mask()), torch.diag(half_mask().double().flatten())),
    "weights": (
        mi.Mask(torch.linspace(0, 1, N).view(C, *S).double()),
        torch.diag(torch.linspace(0, 1, N).double()),
    ),
    "channel": (
        mi.Mask.of_channels([1], C, 2),
        torch.diag(torch.tensor([0.0, 1.0, 0.0]).double().repeat_interleave(24)),
    ),
    "smooth": (mi.Smooth(1.5, (0.5, 2.0)), dense_smooth()),
    "noise": (mi.NoiseSpectrum(POWER), dense_noise(POWER)),
    "noise of channels": (mi.NoiseSpectrum(POWERS), dense_noise(POWERS)),
}
every_change = pytest.mark.parametrize(("change", "dense"), CASES.values(), ids=CASES)


@every_change
def test_of_the_dense_matrix(change, dense):
    images, network = images_and_network()
    space = mi.eigenspace(network, images, perturbation=change)
    expected = dense.T @ oracle.fisher(network, images, "categorical") @ dense
    v = space.eigenvectors.flatten(2)
    found = torch.einsum("brn,br,brm->bnm", v, space.eigenvalues, v)
    assert (found - expected).abs().max() <= 1e-10 * expected.abs().max()
    traces = expected.diagonal(dim1=1, dim2=2).sum(1)
    torch.testing.assert_close(space.trace, traces, rtol=1e-10, atol=0)
    torch.testing.assert_close(space.changes.flatten(2), v @ dense.T, rtol=0, atol=1e-10)


@every_change
def test_divergence_along_a_change_is_half_the_eigenvalue(change, dense):
    images, network = images_and_network()
    space = mi.eigenspace(network, images, perturbation=change)
    size = 1e-4 / space.eigenvalues[:, 0].sqrt()
    d = size.view(-1, 1, 1, 1) * space.changes[:, 0]
    sides = [oracle.divergence(network, images, images + s * d, "categorical") for s in (1, -1)]
    ratio = sum(sides) / (size.square() * space.eigenvalues[:, 0])
    torch.testing.assert_close(ratio, torch.ones_like(ratio), rtol=0, atol=2e-3)


@every_change
@pytest.mark.parametrize("options", [{"method": "krylov", "rank": 2}, {"vjp_chunk": 2}])
def test_by_every_method(change, dense, options):
    """With 100 classes and a wide last layer, so that the iteration does iterate."""
    images, network = images_and_network(outputs=100)
    whole = mi.eigenspace(network, images, perturbation=change)
    space = mi.eigenspace(network, images, perturbation=change, **options)
    rank = options.get("rank", 4)
    torch.testing.assert_close(
        space.eigenvalues[:, :rank], whole.eigenvalues[:, :rank], rtol=1e-3, atol=0
    )


@every_change
def test_transpose_is_the_transpose(change, dense):
    generator = torch.Generator().manual_seed(0)
    u, g = torch.randn(2, 7, 5, C, *S, generator=generator, dtype=torch.float64)
    forwards, backwards = (change.apply(u) * g).sum(), (u * change.transpose(g)).sum()
    torch.testing.assert_close(forwards, backwards, rtol=1e-10, atol=1e-10)


def test_a_segmentation_of_a_region():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Tanh(), nn.Conv2d(3, 2, 1)).double()
    images = torch.randn(2, 1, 6, 7, generator=torch.Generator().manual_seed(0)).double()
    mask = torch.zeros(1, 6, 7, dtype=torch.bool)
    mask[:, 1:4, 2:5] = True
    space = mi.eigenspace(network, images, perturbation=mi.Mask(mask), rank=9)
    whole = mi.eigenspace(network, images, rank=40)
    v = whole.eigenvectors.flatten(2)[:, :, mask.flatten()]
    inside = torch.einsum("brn,br,brm->bnm", v, whole.eigenvalues, v)
    values = torch.linalg.eigvalsh(inside).flip(1)
    torch.testing.assert_close(space.eigenvalues[:, :4], values[:, :4], rtol=2e-3, atol=0)
    assert not space.eigenvectors[:, :, :, ~mask[0]].any()


def test_a_mask_splits_the_image_inside():
    images, network = images_and_network()
    high, orth = mi.eigenspace(network, images, perturbation=mi.Mask(half_mask())).split(images)
    assert not high[:, ~half_mask()].any()
    torch.testing.assert_close(high + orth, images, rtol=0, atol=1e-12)


def test_the_nearest_answer_by_plausible_changes():
    weight = torch.randn(4, N, generator=torch.Generator().manual_seed(0)).double()
    images, network = smooth_images(2), Affine(weight)
    for change, dense in CASES.values():
        flips = mi.eigenspace(network, images, perturbation=change).flip_distance()
        step = flips.distance.view(-1, 1, 1, 1) * flips.direction
        assert torch.equal(network(images + 1.0001 * step).argmax(1), flips.index)
        assert torch.equal(network(images + 0.9999 * step).argmax(1), network(images).argmax(1))
        reach = weight @ dense
        z = network(images).detach()
        own = z.argmax(1)
        lengths = (reach[own][:, None] - reach[None]).norm(dim=2)
        gaps = (z.gather(1, own[:, None]) - z) / lengths.clamp_min(1e-300)
        least = gaps.scatter(1, own[:, None], torch.inf).amin(1)
        torch.testing.assert_close(flips.distance, least, rtol=1e-6, atol=0)


# Shares -----------------------------------------------------------------------------------------


def test_shares_of_masks_that_cover_everything_add_up():
    images, network = images_and_network(3)
    space = mi.eigenspace(network, images, rank=1)
    label_map = torch.randint(0, 4, (5, 1, 4, 6, 7), generator=torch.Generator().manual_seed(0))
    masks, labels = mi.label_masks(label_map)
    assert labels == [0, 1, 2, 3]
    shares = space.shares(masks)
    torch.testing.assert_close(shares.sum(1), torch.ones(5).double(), rtol=0, atol=1e-10)
    diagonal = oracle.fisher(network, images, "categorical").diagonal(dim1=1, dim2=2)
    inside = masks.expand(5, 4, 3, 4, 6, 7).flatten(2)
    expected = (inside * diagonal[:, None]).sum(2) / diagonal.sum(1, keepdim=True)
    torch.testing.assert_close(shares, expected, rtol=1e-10, atol=0)
    # And each is what the mask alone would give.
    alone = mi.eigenspace(network, images, perturbation=mi.Mask(label_map == 2)).trace
    torch.testing.assert_close(shares[:, 2], alone / space.trace, rtol=1e-10, atol=0)
    channels = space.channel_shares()
    expected = diagonal.view(5, 3, -1).sum(2) / diagonal.sum(1, keepdim=True)
    torch.testing.assert_close(channels, expected, rtol=1e-10, atol=0)


def test_shares_of_chosen_labels_and_of_a_map_for_all():
    images, network = images_and_network()
    space = mi.eigenspace(network, images)
    label_map = torch.arange(24).view(1, 1, 4, 6) % 5
    masks, labels = mi.label_masks(label_map, [3, 1])
    assert (masks.shape, labels) == ((1, 2, 1, 4, 6), [3, 1])
    assert space.shares(masks).shape == (5, 2)
    with pytest.raises(ValueError, match=r"expected labels from \[0, 1, 2, 3, 4\].*got \[7\]"):
        mi.label_masks(label_map, [1, 7])
    with pytest.raises(ValueError, match="got fractions or NaN: was it resampled"):
        mi.label_masks(label_map / 2)
    with pytest.raises(ValueError, match=r"expected masks \(B, Q, C, \*S\) for images"):
        space.shares(masks[..., 1:])


def test_shares_of_a_dead_network():
    space = mi.eigenspace(Affine(torch.zeros(2, N).double()), smooth_images(2))
    assert not space.channel_shares().any()
    assert not space.shares(torch.ones(1, 1, 1, *S)).any()


# Measured noise ----------------------------------------------------------------------------------


def test_a_measured_spectrum_is_that_of_the_noise():
    """Noise with neighbours that are alike; regions of a quarter of the image's area."""
    generator = torch.Generator().manual_seed(0)
    white = torch.randn(400, 16, 16, generator=generator, dtype=torch.float64)
    noise = 3 * (white + 0.7 * white.roll(1, dims=2))
    spectrum = mi.NoiseSpectrum.measured(noise[:, :8, :8], (16, 16))
    k = torch.arange(16).double() * 2 * torch.pi / 16
    expected = (9 * (1 + 0.49 + 1.4 * k.cos())).expand(16, 16)
    assert spectrum.power.mean().item() == pytest.approx(9 * 1.49, rel=0.1)
    # Fixed window: what remains is the bias of a small region.
    assert (spectrum.power - expected).abs().mean() < 0.15 * expected.mean()
    spectrum.check(torch.zeros(1, 1, 16, 16))
    other = mi.NoiseSpectrum.measured(noise[:, :7, :5], (16, 15))
    other.check(torch.zeros(1, 1, 16, 15))


def test_noise_has_the_covariance_of_its_spectrum():
    change = mi.NoiseSpectrum(POWER)
    u = torch.randn(4000, 1, 1, *S, generator=torch.Generator().manual_seed(0)).double()
    variance = change.apply(u).square().mean(dim=0)
    assert (variance / POWER.mean() - 1).abs().max() < 0.15


# Bad input ----


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: mi.Mask(torch.zeros(3, 3)), "expected a mask .*got an empty one"),
        (lambda: mi.Mask(torch.tensor([-1.0])), "expected a mask .*got something else"),
        (lambda: mi.Mask([1, 0]), "expected a mask .*got something else"),
        (lambda: mi.Mask.of_channels([3], 3, 2), "expected channels from 0 to 2, got"),
        (lambda: mi.Smooth(-1.0), "expected sigma_mm >= 0"),
        (lambda: mi.Smooth(1.0, 0.0), "expected spacing > 0 in mm"),
        (lambda: mi.NoiseSpectrum(torch.zeros(3)), "expected a power spectrum"),
        (lambda: mi.NoiseSpectrum(torch.tensor([-1.0, 1.0])), "expected a power spectrum"),
        (lambda: mi.NoiseSpectrum.measured(torch.ones(3, 4, 4), (8, 8)), "got constant ones"),
        (lambda: mi.NoiseSpectrum.measured(torch.rand(3, 4, 9), (8, 8)), "inside images of"),
        (lambda: mi.EigenspaceOptions(perturbation=mi.Smooth), "of a class, make an object"),
        (lambda: mi.EigenspaceOptions(perturbation="smooth"), "expected perturbation as an object"),
    ],
)
def test_what_is_no_perturbation(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (mi.Mask(torch.ones(3, 5, 6)), r"expected a mask that fits images \(5, 3, 4, 6\)"),
        (mi.Mask(torch.ones(6)), "expected a mask that fits images"),
        (
            mi.Mask(torch.eye(5)[:, :1].view(5, 1, 1, 1).expand(5, 1, 4, 6)),
            r"got an empty one for image 1 of the batch",
        ),
        (mi.Smooth((1.0, 1.0, 1.0)), "expected sigma_mm as one number or 2"),
        (mi.Smooth(1.0, (1.0, 1.0, 1.0)), "expected spacing as one number or 2"),
        (mi.NoiseSpectrum(torch.ones(4, 7)), r"expected a power spectrum \(4, 6\) or"),
        (mi.NoiseSpectrum(POWER.roll(1, dims=1)), r"expected P\(-k\) = P\(k\)"),
    ],
)
def test_what_does_not_fit_the_images(change, message):
    images, network = images_and_network()
    with pytest.raises(ValueError, match=message):
        mi.eigenspace(network, images, perturbation=change)


def test_curves_are_along_changes_of_the_image():
    images, network = images_and_network()
    space = mi.eigenspace(network, images, perturbation=mi.Smooth(1.0))
    with pytest.raises(
        ValueError, match=r"expected the eigenspace of all changes .*that of Smooth"
    ):
        mi.perturbation_curve(network, images, space.changes, [1e-3], space=space)
