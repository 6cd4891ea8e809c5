"""Pooled eigenspaces against the dense sum from its definition, in float64."""

import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import monai_ifim as mi
from _helpers import oracle
from _helpers.problems import Affine, smooth_images, smooth_network
from _helpers.untouched import Rich, assert_untouched, snapshot

IMAGES = torch.cat([smooth_images(2, seed=seed) for seed in range(6)])  # 30 of them
NETWORK = smooth_network(2, 5)
FISHER = oracle.fisher(NETWORK, IMAGES, "categorical")
TRACE = FISHER.diagonal(dim1=1, dim2=2).sum(1)
NUMBERS = torch.rand(30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def dense(weights):
    """F̄ as (N, N)."""
    if weights == "unit_trace":
        return (FISHER / TRACE[:, None, None]).mean(0)
    if weights == "equal":
        return FISHER.mean(0)
    return torch.einsum("b,bnm->nm", weights, FISHER) / weights.sum()


def matrix_of(space):
    v = space.eigenvectors.flatten(1)
    return torch.einsum("rn,r,rm->nm", v, space.eigenvalues, v)


every_weight = pytest.mark.parametrize(
    "weights", ["unit_trace", "equal", NUMBERS], ids=["unit trace", "equal", "numbers"]
)


@every_weight
@pytest.mark.parametrize("size", [1, 7, 30])
def test_of_the_dense_sum_where_nothing_is_dropped(weights, size):
    given = weights if isinstance(weights, str) else weights.tolist()
    space = mi.pooled_eigenspace(NETWORK, IMAGES.split(size), weights=given, rank=72, sketch=72)
    expected = dense(weights)
    values = oracle.eigh(expected[None])[0][0]
    assert ((matrix_of(space) - expected).abs() <= 1e-10 * expected.abs().max()).all()
    error = (space.eigenvalues - values[: len(space.eigenvalues)]).abs()
    assert (error <= 1e-10 * values[0]).all()
    assert space.trace == pytest.approx(expected.trace().item(), rel=1e-10)
    assert space.lost_trace <= 1e-12 * space.trace
    assert space.count == 30


@every_weight
def test_effective_count(weights):
    space = mi.pooled_eigenspace(NETWORK, IMAGES.split(7), weights=weights)
    w = (
        {"unit_trace": 1 / TRACE, "equal": torch.ones(30)}.get(weights, weights)
        if isinstance(weights, str)
        else weights
    )
    expected = (w * TRACE).sum().square() / (w * TRACE).square().sum()
    assert space.effective_count == pytest.approx(expected.item(), rel=1e-10)


@settings(max_examples=20, deadline=None)
@given(
    st.integers(1, 8),
    st.integers(0, 6),
    st.integers(1, 12),
    st.sampled_from(["unit_trace", "equal"]),
)
def test_truncated_within_the_bound(rank, more, size, weights):
    space = mi.pooled_eigenspace(
        NETWORK, IMAGES.split(size), weights=weights, rank=rank, sketch=rank + more
    )
    values = oracle.eigh(dense(weights)[None])[0][0][: len(space.eigenvalues)]
    missing, rounding = values - space.eigenvalues, 1e-12 * values[0]
    assert (missing >= -rounding).all()
    assert (missing <= space.eigenvalue_error + rounding).all()
    assert space.eigenvalue_error <= space.lost_trace + rounding
    assert space.trace == pytest.approx(dense(weights).trace().item(), rel=1e-10)
    v = space.eigenvectors.flatten(1)
    torch.testing.assert_close(v @ v.T, torch.eye(len(v)).double(), rtol=0, atol=1e-7)


@pytest.mark.parametrize(("family", "outputs"), [("bernoulli", 1), ("bernoulli", 4)])
def test_sigmoids(family, outputs):
    network = smooth_network(2, outputs)
    space = mi.pooled_eigenspace(network, [IMAGES], likelihood=family, weights="equal", rank=72)
    expected = oracle.fisher(network, IMAGES, family).mean(0)
    assert ((matrix_of(space) - expected).abs() <= 1e-10 * expected.abs().max()).all()


def test_merged_shards_are_the_whole():
    whole = mi.pooled_eigenspace(NETWORK, IMAGES.split(5), rank=20, sketch=80)
    first, second = (
        mi.pooled_eigenspace(NETWORK, part.split(5), rank=20, sketch=80)
        for part in (IMAGES[:10], IMAGES[10:])
    )
    merged = first.merged(second)
    assert merged.count == 30
    torch.testing.assert_close(merged.eigenvalues, whole.eigenvalues, rtol=1e-9, atol=0)
    assert merged.angles(whole, rank=4).max() < 1e-6
    torch.testing.assert_close(merged.mean_jacobian, whole.mean_jacobian, rtol=1e-10, atol=1e-12)
    assert merged.effective_count == pytest.approx(whole.effective_count)
    # The halves of shards with an even number of images are those of the whole.
    torch.testing.assert_close(merged.stability, whole.stability, rtol=0, atol=1e-6)


@pytest.mark.parametrize("weights", ["unit_trace", "equal"])
def test_merged_sketches_keep_the_bound(weights):
    parts = [
        mi.pooled_eigenspace(NETWORK, part, weights=weights, rank=4, sketch=4)
        for part in (IMAGES[:8], IMAGES[8:17], IMAGES[17:])
    ]
    merged = parts[0].merged(parts[1]).merged(parts[2])
    missing = oracle.eigh(dense(weights)[None])[0][0][:4] - merged.eigenvalues
    assert (missing >= -1e-12).all()
    assert (missing <= merged.eigenvalue_error + 1e-12).all()
    assert merged.eigenvalue_error <= merged.lost_trace + 1e-15


def test_mean_jacobian_is_that_of_the_centred_logits():
    space = mi.pooled_eigenspace(NETWORK, IMAGES.split(7))
    jacobians = torch.stack([oracle.jacobian(NETWORK, image) for image in IMAGES])
    expected = (jacobians - jacobians.mean(dim=1, keepdim=True)).mean(dim=0)
    torch.testing.assert_close(space.mean_jacobian.flatten(1), expected, rtol=0, atol=1e-10)
    directions = space.jacobian_directions.flatten(1)
    assert len(directions) == 4
    projected = expected @ directions.T @ directions
    torch.testing.assert_close(projected, expected, rtol=0, atol=1e-9)


def test_mean_jacobian_of_sigmoids_has_no_mean_taken():
    network = smooth_network(2, 3)
    space = mi.pooled_eigenspace(network, [IMAGES], likelihood="bernoulli")
    expected = torch.stack([oracle.jacobian(network, image) for image in IMAGES]).mean(dim=0)
    torch.testing.assert_close(space.mean_jacobian.flatten(1), expected, rtol=0, atol=1e-10)


def test_one_result_for_each_class():
    spaces = mi.pooled_eigenspace(NETWORK, IMAGES.split(7), by="prediction", rank=72)
    predicted = NETWORK(IMAGES).argmax(dim=1)
    assert set(spaces) == set(predicted.tolist())
    for index, space in spaces.items():
        chosen = predicted == index
        assert space.count == int(chosen.sum())
        expected = (FISHER / TRACE[:, None, None])[chosen].mean(0)
        assert ((matrix_of(space) - expected).abs() <= 1e-10 * expected.abs().max()).all()


def test_labels_of_tuples_and_dictionaries():
    labels = torch.arange(30) % 2
    parts = list(zip(IMAGES.split(7), labels.split(7), strict=True))
    tuples = mi.pooled_eigenspace(NETWORK, parts, by="label")
    mappings = mi.pooled_eigenspace(
        NETWORK, [{"image": x, "label": y.tolist()} for x, y in parts], by="label"
    )
    even = mi.pooled_eigenspace(NETWORK, IMAGES[::2])
    for spaces in (tuples, mappings):
        assert set(spaces) == {0, 1}
        torch.testing.assert_close(spaces[0].eigenvalues, even.eigenvalues, rtol=1e-9, atol=0)


def test_stable_directions():
    """Two directions that every image has, the others at random."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(3, 40, generator=generator, dtype=torch.float64)
    images = torch.randn(40, 1, 5, 8, generator=generator, dtype=torch.float64)
    linear = mi.pooled_eigenspace(Affine(weight), images.split(8))
    assert linear.stable_rank == 2
    assert linear.stability[1] == pytest.approx(1, abs=1e-9)  # the whole plane is the same

    class Unrelated(nn.Module):
        """Each image has a gradient of its own: its pattern of signs."""

        def forward(self, x):
            z = (x * x.detach().sign().roll(1, dims=3) * x.detach().sin()).flatten(1).sum(dim=1)
            return torch.stack([0 * z, z], dim=1)

    assert mi.pooled_eigenspace(Unrelated(), images.split(8)).stability[0] < 0.9
    assert mi.pooled_eigenspace(Unrelated(), images[:4]).stable_rank == 0


def test_components_without_a_pass(monkeypatch):
    space = mi.pooled_eigenspace(NETWORK, IMAGES.split(7), rank=5)
    monkeypatch.setattr(torch.autograd, "grad", None)
    high, orth = space.split(IMAGES)
    torch.testing.assert_close(high + orth, IMAGES, rtol=0, atol=1e-12)
    assert (high * orth).flatten(1).sum(dim=1).abs().max() <= 1e-7
    expected = IMAGES.flatten(1) @ space.eigenvectors.flatten(1).T
    torch.testing.assert_close(space.coefficients(IMAGES), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(space.split(IMAGES, rank=2)[0], space.split(
        space.split(IMAGES)[0], rank=2)[0], rtol=0, atol=1e-7)  # fmt: skip


def test_no_pass_beyond_those_of_each_image(monkeypatch):
    mi.eigenspace(NETWORK, IMAGES[:2])  # it is known from now on that images are independent
    grad, passes = torch.autograd.grad, []

    def counted(*args, **kwargs):
        passes.append(1)
        return grad(*args, **kwargs)

    monkeypatch.setattr(torch.autograd, "grad", counted)
    options = mi.EigenspaceOptions(vjp_chunk=None)
    mi.pooled_eigenspace(NETWORK, IMAGES.split(10), options=options)
    assert len(passes) == 3 * 4


# Metrics ---------------------------------------------------------------------------------------


def test_angles_in_pixels_blurred_and_in_a_covariance():
    space = mi.pooled_eigenspace(NETWORK, IMAGES, rank=3)
    other = mi.pooled_eigenspace(smooth_network(2, 5, seed=3), IMAGES, rank=3)
    pixels = space.angles(other, rank=3)
    expected = mi.principal_angles(space.eigenvectors[None], other.eigenvectors[None])[0]
    torch.testing.assert_close(pixels, expected)
    assert torch.equal(space.angles(other.eigenvectors, rank=3), pixels)
    none = space.angles(other, metric=0.0, rank=3)
    torch.testing.assert_close(none, pixels, rtol=0, atol=1e-7)
    deviations = IMAGES - IMAGES.mean(dim=0)
    seen = [s.eigenvectors.flatten(1) @ deviations.flatten(1).T for s in (space, other)]
    covariance = mi.principal_angles(seen[0][None, :, None], seen[1][None, :, None])[0]
    torch.testing.assert_close(space.angles(other, metric=deviations, rank=3), covariance)
    # Of the whole space of pixels nothing but the smooth part is left.
    assert space.angles(other, metric=8.0, rank=1) < pixels[0] + 1e-6
    assert space.angles(space, rank=3).abs().max() < 1e-6


def test_default_rank_of_an_angle_is_the_stable_one():
    space = mi.pooled_eigenspace(NETWORK, IMAGES)
    assert len(space.angles(space)) == space.stable_rank
    assert len(space.angles(space.eigenvectors[:1])) == 1


def test_control_of_random_weights():
    torch.manual_seed(5)
    state = torch.get_rng_state()
    space = mi.pooled_eigenspace(NETWORK, IMAGES.split(7), control="random_weights")
    assert torch.equal(torch.get_rng_state(), state)
    assert space.control is not None
    assert space.control.count == 30
    again = mi.pooled_eigenspace(NETWORK, IMAGES.split(7), control="random_weights")
    assert torch.equal(space.control.eigenvalues, again.control.eigenvalues)
    assert space.angles(space.control, rank=4)[-1] > 0.3  # another network's
    alone = mi.pooled_eigenspace(NETWORK, IMAGES.split(7))
    assert torch.equal(space.eigenvalues, alone.eigenvalues)


def test_nothing_is_disturbed():
    network, images = Rich(), smooth_images(2)
    before = snapshot(network, images)
    mi.pooled_eigenspace(network, [images, images], control="random_weights")
    assert_untouched(before, network, images)


# Small values, bad images, bad input -------------------------------------------------------------


def test_confident_predictions_keep_their_digits():
    weight = torch.randn(3, 24, generator=torch.Generator().manual_seed(0))
    images = 0.01 * torch.randn(6, 2, 3, 4, generator=torch.Generator().manual_seed(1))
    bias = torch.tensor([200.0, 0.0, 1.0])  # probabilities of 1e-87
    space = mi.pooled_eigenspace(Affine(weight, bias), images)
    double = mi.pooled_eigenspace(Affine(weight.double(), bias.double()), images.double())
    torch.testing.assert_close(space.eigenvalues, double.eigenvalues, rtol=1e-4, atol=0)
    equal = mi.pooled_eigenspace(Affine(weight, bias), images, weights="equal")
    torch.testing.assert_close(
        equal.eigenvalues / equal.trace, space.eigenvalues, rtol=1e-2, atol=0
    )
    assert 0 < equal.trace < 1e-80


def test_a_bad_image_is_left_out_and_counted():
    images = IMAGES.clone()
    images[3] = torch.nan
    with pytest.warns(UserWarning, match="1 of 30 images were left out"):
        space = mi.pooled_eigenspace(NETWORK, images.split(7), rank=72)
    assert (space.count, space.left_out) == (29, 1)
    keep = torch.arange(30) != 3
    expected = (FISHER / TRACE[:, None, None])[keep].mean(0)
    assert ((matrix_of(space) - expected).abs() <= 1e-10 * expected.abs().max()).all()


def test_a_segmentation_with_what_it_leaves_out():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Tanh(), nn.Conv2d(3, 2, 1)).double()
    images = torch.randn(4, 1, 6, 7, generator=torch.Generator().manual_seed(0)).double()
    space = mi.pooled_eigenspace(network, images.split(2), rank=5, weights="equal")
    assert space.mean_jacobian is None
    assert space.lost_trace > 0
    whole = mi.eigenspace(network, images, rank=20)
    dense = torch.einsum(
        "brn,br,brm->nm", whole.eigenvectors.flatten(2), whole.eigenvalues,
        whole.eigenvectors.flatten(2),
    ) / 4  # fmt: skip
    values = oracle.eigh(dense[None])[0][0]
    assert (space.eigenvalues[:5] <= values[:5] * (1 + 1e-9)).all()
    assert (values[:5] <= space.eigenvalues[:5] + space.eigenvalue_error).all()
    with pytest.raises(ValueError, match="expected a mean Jacobian, got none"):
        _ = space.jacobian_directions


@pytest.mark.parametrize(
    ("batches", "choices", "message"),
    [
        ([], {}, "expected at least two images.*got 0; is the data set empty"),
        (IMAGES[:1], {}, "expected at least two images.*got 1"),
        ([IMAGES, IMAGES[:, :, 1:]], {}, r"images of one shape, got \(3, 4, 6\) and \(3, 3, 6\)"),
        (IMAGES, {"weights": "even"}, r"expected weights in .*got 'even'"),
        (IMAGES, {"weights": [1.0, 2.0]}, "expected a weight for each image, got 2 weights"),
        (IMAGES, {"weights": [-1.0] * 30}, "expected weights >= 0"),
        (IMAGES, {"rank": 0}, "expected 1 <= rank"),
        (IMAGES, {"sketch": 3}, "expected sketch >= rank=10, got 3"),
        (IMAGES, {"energy": 0.9}, "expected rank, .*got energy=0.9"),
        (IMAGES, {"by": "class"}, "expected by 'prediction' or 'label', got 'class'"),
        (IMAGES, {"by": "label"}, "expected one label for each of 30 images"),
        (IMAGES, {"control": "labels"}, "expected control 'random_weights'"),
        (IMAGES, {"by": "prediction", "likelihood": "bernoulli"}, "expected one class for each"),
    ],
)
def test_bad_input(batches, choices, message):
    with pytest.raises(ValueError, match=message):
        mi.pooled_eigenspace(NETWORK, batches, **choices)


def test_batches_without_images():
    with pytest.raises(TypeError, match=r"expected images as a .*, got NoneType"):
        mi.pooled_eigenspace(NETWORK, [{"img": IMAGES}])


def test_a_network_that_never_reacts():
    with warnings.catch_warnings(), pytest.raises(ValueError, match="every one has a trace of 0"):
        mi.pooled_eigenspace(Affine(torch.zeros(3, 72).double()), IMAGES)


def test_what_does_not_fit_together(tmp_path):
    space = mi.pooled_eigenspace(NETWORK, IMAGES)
    equal = mi.pooled_eigenspace(NETWORK, IMAGES, weights="equal")
    with pytest.raises(ValueError, match="expected one weights for both, got 'unit_trace'"):
        space.merged(equal)
    lines = mi.pooled_eigenspace(smooth_network(1, 5), smooth_images(1))
    with pytest.raises(ValueError, match=r"expected images of one shape, got \(3, 4, 6\)"):
        space.merged(lines)
    with pytest.raises(ValueError, match=r"expected images \(B, 3, 4, 6\), got \(5, 3, 8\)"):
        space.split(smooth_images(1))
    with pytest.raises(ValueError, match="less their class's mean as the metric"):
        space.angles(equal, metric=smooth_images(1))
    with pytest.raises(ValueError, match=r"expected 2 widths >= 0"):
        space.angles(equal, metric=-1.0)
    with pytest.raises(ValueError, match="expected 1 <= rank <= 10"):
        space.angles(equal, rank=11)
