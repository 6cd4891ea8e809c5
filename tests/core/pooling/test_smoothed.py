"""Smoothed eigenspaces and ensembles against dense means."""

from functools import partial

import pytest
import torch

import monai_ifim as mi
from _helpers import oracle
from _helpers.problems import SHAPES, Affine, smooth_images, smooth_network
from _helpers.untouched import Rich, assert_untouched, snapshot

NETWORK, IMAGES = smooth_network(2, 4), smooth_images(2)


def drawn(deviation, samples, seed):
    generator = torch.Generator().manual_seed(seed)
    # One after the other: all at once they are other numbers.
    draw = partial(torch.randn, SHAPES[2], generator=generator, dtype=torch.float64)
    return deviation * torch.stack([draw() for _ in range(samples)])


def matrices(space):
    v = space.eigenvectors.flatten(2)
    return torch.einsum("brn,br,brm->bnm", v, space.eigenvalues, v)


def test_the_mean_over_the_draws():
    space = mi.smoothed_eigenspace(NETWORK, IMAGES, noise=0.4, samples=6, seed=3)
    each = torch.stack(
        [oracle.fisher(NETWORK, IMAGES + d, "categorical") for d in drawn(0.4, 6, 3)]
    )
    expected = each.mean(0)
    assert (matrices(space) - expected).abs().max() <= 1e-10 * expected.abs().max()
    traces = each.diagonal(dim1=2, dim2=3).sum(2)
    torch.testing.assert_close(space.trace, traces.mean(0), rtol=1e-10, atol=0)
    error = space.approximation.trace_error
    torch.testing.assert_close(error, traces.std(0) / 6**0.5, rtol=1e-9, atol=0)
    assert space.approximation.vector_jacobian_products == 6 * 3
    torch.testing.assert_close(space.logits, NETWORK(IMAGES).detach())
    d = smooth_images(2, seed=9)
    form = torch.einsum("bn,bnm,bm->b", d.flatten(1), expected, d.flatten(1))
    torch.testing.assert_close(space.quadratic_form(d), form, rtol=1e-9, atol=0)
    high, orth = space.split(IMAGES)
    torch.testing.assert_close(high + orth, IMAGES, rtol=0, atol=1e-12)


def test_a_sampler_of_ones_own():
    def constant(images, generator):
        return torch.full_like(images, 0.5)

    space = mi.smoothed_eigenspace(NETWORK, IMAGES, noise=constant, samples=2)
    moved = mi.eigenspace(NETWORK, IMAGES + 0.5)
    torch.testing.assert_close(space.eigenvalues[:, :3], moved.eigenvalues, rtol=1e-9, atol=0)
    assert space.approximation.trace_error.abs().max() < 1e-9
    with pytest.raises(ValueError, match=r"expected noise of the images' shape"):
        mi.smoothed_eigenspace(NETWORK, IMAGES, noise=lambda x, _: x[:1], samples=2)


def test_an_ensemble():
    networks = [smooth_network(2, 4, seed=seed) for seed in range(3)]
    space = mi.smoothed_eigenspace(networks, IMAGES)
    expected = torch.stack([oracle.fisher(n, IMAGES, "categorical") for n in networks]).mean(0)
    assert (matrices(space) - expected).abs().max() <= 1e-10 * expected.abs().max()
    logits = torch.stack([n(IMAGES).detach() for n in networks]).mean(0)
    torch.testing.assert_close(space.logits, logits)
    assert space.approximation.vector_jacobian_products == 9


def test_one_network_without_noise_is_its_eigenspace():
    space, plain = mi.smoothed_eigenspace(NETWORK, IMAGES), mi.eigenspace(NETWORK, IMAGES)
    torch.testing.assert_close(space.eigenvalues, plain.eigenvalues, rtol=1e-10, atol=0)
    assert space.approximation.trace_error.isnan().all()


def test_what_the_sketch_drops_is_bounded():
    draws = 30  # 90 root columns, more than twice the sketch of 40
    space = mi.smoothed_eigenspace(NETWORK, IMAGES, noise=2.0, samples=draws, seed=1, rank=5)
    each = [oracle.fisher(NETWORK, IMAGES + d, "categorical") for d in drawn(2.0, draws, 1)]
    values = oracle.eigh(torch.stack(each).mean(0))[0][:, :5]
    missing = values - space.eigenvalues
    assert space.eigenvalues.shape == (5, 5)
    assert (missing >= -1e-10 * values).all()
    assert (missing <= space.approximation.lost_trace_bound[:, None] + 1e-10 * values).all()
    assert (space.approximation.lost_trace > 0).all()


def test_the_same_seed_gives_the_same_and_the_global_state_is_left():
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first, again, other = (
        mi.smoothed_eigenspace(NETWORK, IMAGES, noise=0.3, samples=2, seed=seed)
        for seed in (0, 0, 1)
    )
    assert torch.equal(first.eigenvalues, again.eigenvalues)
    assert not torch.equal(first.eigenvalues, other.eigenvalues)
    assert torch.equal(torch.get_rng_state(), state)
    network = Rich()
    before = snapshot(network, IMAGES)
    mi.smoothed_eigenspace(network, IMAGES, noise=0.3, samples=2)
    assert_untouched(before, network, IMAGES)


def test_energy_and_single_contrasts():
    space = mi.smoothed_eigenspace(NETWORK, IMAGES, noise=0.4, samples=6, energy=0.5)
    share = space.eigenvalues.sum(1) / space.trace
    assert (share >= 0.5 - 1e-12).all()
    assert (space.rank < 4).all()
    flips = space.flip_distance()  # the mean has no contrast of its own
    assert flips.distance.isnan().all()
    assert (flips.compared == -1).all()


def test_predictions_of_very_different_confidence():
    """Draws whose F differ by 1e80 and more: in float32, and none is lost by its own scale."""
    weight = torch.zeros(2, 24)
    weight[0, 0] = 1.0
    images = torch.zeros(1, 2, 3, 4)

    def far(x, generator):
        far.count += 1
        return torch.full_like(x, 200.0 if far.count % 2 else 0.0)

    far.count = 0
    space = mi.smoothed_eigenspace(Affine(weight), images, noise=far, samples=4)
    assert space.eigenvalues[0, 0].item() == pytest.approx(0.125, rel=1e-5)


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"noise": -1.0}, "expected noise as a standard deviation >= 0"),
        ({"noise": float("inf")}, "expected noise as a standard deviation >= 0"),
        ({"noise": 1.0, "samples": 0}, "expected samples >= 1, got 0"),
        ({"rank": 0}, "expected 1 <= rank"),
    ],
)
def test_bad_input(choices, message):
    with pytest.raises(ValueError, match=message):
        mi.smoothed_eigenspace(NETWORK, IMAGES, **choices)
    with pytest.raises(ValueError, match="expected a network or several, got an empty list"):
        mi.smoothed_eigenspace([], IMAGES)
