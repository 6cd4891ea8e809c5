"""Networks of several inputs, against dense Fisher matrices on one concatenated vector."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import monai_ifim as mi
from _helpers import oracle
from _helpers.fusion import SIZES, Fusion, fusion_inputs
from _helpers.untouched import bits, snapshot


def fixed_and_flat(network, inputs, names, scales):
    """For each image: logits as a function of one flat vector of the named inputs, and that vector.

    Written from the definition alone: the inputs divided by their scales, one after the other.
    """
    for b in range(len(inputs["mr"])):
        own = {name: value[b] for name, value in inputs.items()}
        flat = torch.cat([(own[name] / scales[name]).flatten() for name in names])

        def logits(rows, own=own):
            row, start, moved = rows.flatten(), 0, dict(own)
            for name in names:
                piece = row[start : start + own[name].numel()].view_as(own[name])
                moved[name], start = piece * scales[name], start + own[name].numel()
            return network(**{name: value[None] for name, value in moved.items()})

        yield logits, flat


def dense(network, inputs, names, scales, family="categorical"):
    parts = fixed_and_flat(network, inputs, names, scales)
    return torch.stack([oracle.fisher(f, flat[None], family)[0] for f, flat in parts])


def rebuilt(space):
    """V diag(λ) Vᵀ as (B, N, N)."""
    vectors = space.eigenvectors.flatten(2)
    return torch.einsum("bri,br,brj->bij", vectors, space.eigenvalues, vectors)


SCALES = {"mr": 0.7, "ct": 30.0, "clinical": torch.tensor([1.0, 4.0, 0.2, 9.0, 2.0]).double()}


@pytest.mark.parametrize("family", ["categorical", "bernoulli"])
@pytest.mark.parametrize(
    "names", [["mr"], ["clinical"], ["ct", "mr"], ["mr", "clinical"], ["clinical", "ct", "mr"]]
)
def test_joint_fisher_information(names, family):
    network, inputs = Fusion(), fusion_inputs()
    scales = {name: SCALES[name] for name in names}
    several = mi.SeveralInputs(network, inputs, wrt=names, scale=scales)
    space = mi.eigenspace(several.network, several.images, likelihood=family)
    expected = dense(network, inputs, names, scales, family)
    torch.testing.assert_close(rebuilt(space), expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(space.logits, network(**inputs).detach(), rtol=1e-12, atol=1e-12)
    diagonal = expected.diagonal(dim1=1, dim2=2)
    found = torch.cat([v.flatten(1) for v in several.parts(space.sensitivity()).values()], dim=1)
    torch.testing.assert_close(found, diagonal, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("method", "rank"), [("auto", None), ("exact", 2), ("truncated", 2), ("krylov", 2)]
)
def test_every_method(method, rank):
    network, inputs = Fusion(outputs=6), fusion_inputs()
    several = mi.SeveralInputs(network, inputs, wrt=["mr", "clinical"], scale=SCALES_OF_TWO)
    space = mi.eigenspace(several.network, several.images, method=method, rank=rank)
    values, _ = oracle.eigh(dense(network, inputs, ["mr", "clinical"], SCALES_OF_TWO))
    kept = space.eigenvalues.shape[1]
    assert kept == (rank or 5)
    tolerance = 1e-3 if method in ("krylov", "truncated") else 1e-9
    torch.testing.assert_close(space.eigenvalues, values[:, :kept], rtol=tolerance, atol=1e-12)


SCALES_OF_TWO = {"mr": SCALES["mr"], "clinical": SCALES["clinical"]}


def test_the_joint_matrix_has_the_matrices_of_the_inputs_on_its_diagonal():
    network, inputs = Fusion(), fusion_inputs()
    both = mi.SeveralInputs(network, inputs, wrt=["mr", "ct"], scale=1.0)
    joint = rebuilt(mi.eigenspace(both.network, both.images))
    size = inputs["mr"][0].numel()
    for name, block in (("mr", joint[:, :size, :size]), ("ct", joint[:, size:, size:])):
        alone = mi.SeveralInputs(network, inputs, wrt=name)
        own = rebuilt(mi.eigenspace(alone.network, alone.images))
        torch.testing.assert_close(block, own, rtol=1e-10, atol=1e-14)


def test_one_image_keeps_its_shape_and_its_values():
    network, inputs = Fusion(), fusion_inputs()
    several = mi.SeveralInputs(network, inputs, wrt="mr")
    assert torch.equal(several.images, inputs["mr"])
    assert torch.equal(several.network(several.images), network(**inputs))
    mask = torch.zeros(1, *SIZES["mr"][1:], dtype=torch.bool)
    mask[..., :2] = True
    space = mi.eigenspace(several.network, several.images, perturbation=mi.Mask(mask))
    assert space.eigenvectors.shape[2:] == inputs["mr"].shape[1:]
    assert not space.eigenvectors[..., 2:].any()


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.sampled_from(["mr", "ct", "clinical"]), min_size=1, max_size=3, unique=True),
    st.lists(st.floats(0.01, 100), min_size=3, max_size=3),
    st.integers(1, 3),
    st.integers(0, 10_000),
)
def test_any_choice_of_inputs_and_scales(names, numbers, batch, seed):
    network, inputs = Fusion(seed=seed), fusion_inputs(batch=batch, seed=seed)
    scales = dict(zip(names, numbers, strict=False))
    several = mi.SeveralInputs(network, inputs, wrt=names, scale=scales)
    space = mi.eigenspace(several.network, several.images)
    expected = dense(network, inputs, names, scales)
    torch.testing.assert_close(
        space.trace, expected.diagonal(dim1=1, dim2=2).sum(dim=1), rtol=1e-9, atol=0
    )
    torch.testing.assert_close(
        rebuilt(space), expected, rtol=1e-7, atol=1e-9 * float(space.trace.max())
    )
    vectors = space.eigenvectors
    assert torch.equal(several.join(several.parts(vectors)), vectors)
    high, orth = several.split(space)
    for name in names:
        torch.testing.assert_close(high[name] + orth[name], inputs[name], rtol=1e-9, atol=1e-9)
    shares = torch.stack([*several.shares(space).values()])
    assert bool((shares >= 0).all())
    torch.testing.assert_close(shares.sum(dim=0), torch.ones(batch).double())
    change = {name: torch.ones_like(inputs[name]) for name in names}
    vector = several.from_inputs(change)
    again = several.to_inputs(vector)
    for name in names:
        torch.testing.assert_close(again[name], change[name])
    form = torch.einsum("bi,bij,bj->b", vector.flatten(1), expected, vector.flatten(1))
    torch.testing.assert_close(space.quadratic_form(vector), form, rtol=1e-7, atol=1e-12)


def test_its_meaning_is_the_divergence_of_predictions():
    network, inputs = Fusion(), fusion_inputs()
    names = ["mr", "ct", "clinical"]
    several = mi.SeveralInputs(network, inputs, wrt=names, scale=SCALES)
    space = mi.eigenspace(several.network, several.images)
    step = 1e-4 / space.eigenvalues[:, 0].sqrt()
    change = several.to_inputs(step.view(-1, 1, 1) * space.eigenvectors[:, 0])

    def divergence(sign):
        moved = {n: v + sign * change[n] if n in change else v for n, v in inputs.items()}
        before, after = (network(**each).log_softmax(dim=1) for each in (inputs, moved))
        return (before.exp() * (before - after)).sum(dim=1)

    mean = (divergence(1) + divergence(-1)) / 2  # without the third order
    torch.testing.assert_close(mean, torch.full_like(mean, 0.5e-8), rtol=1e-3, atol=0)


def test_a_step_to_another_answer_in_the_units_of_each_input():
    class Linear(nn.Module):
        def __init__(self):
            super().__init__()
            self.image, self.data = nn.Linear(20, 4).double(), nn.Linear(5, 4).double()

        def forward(self, image, data):
            return self.image(image.flatten(1)) + self.data(data)

    torch.manual_seed(0)
    network, inputs = Linear(), fusion_inputs()
    inputs = {"image": inputs["mr"], "data": inputs["clinical"]}
    scales = {"image": 3.0, "data": SCALES["clinical"]}
    several = mi.SeveralInputs(network, inputs, wrt=["image", "data"], scale=scales)
    flips = mi.eigenspace(several.network, several.images).flip_distance()
    for share, flipped in ((0.999, False), (1.001, True)):
        change = several.to_inputs((share * flips.distance).view(-1, 1, 1) * flips.direction)
        now = network(**{name: inputs[name] + change[name] for name in inputs}).argmax(dim=1)
        assert torch.equal(now == flips.index, torch.full_like(now, flipped).bool())


@pytest.mark.parametrize("form", ["names", "positions", "dictionary", "pair", "function"])
def test_every_way_of_calling(form):
    network, inputs = Fusion(), fusion_inputs()

    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = network

        def forward(self, given):
            return self.body(**given) if isinstance(given, dict) else self.body(*given)

    reference = mi.SeveralInputs(network, inputs, wrt=["ct", "mr"], scale=2.0)
    expected = mi.eigenspace(reference.network, reference.images)
    order = tuple(inputs.values())
    chosen = {
        "names": {"network": network, "inputs": inputs, "wrt": ["ct", "mr"]},
        "positions": {"network": network, "inputs": order, "wrt": [1, 0]},
        "dictionary": {"network": Whole(), "inputs": inputs, "wrt": ["ct", "mr"], "call": "whole"},
        "pair": {"network": Whole(), "inputs": order, "wrt": [1, 0], "call": "whole"},
        "function": {
            "network": network,
            "inputs": inputs,
            "wrt": ["ct", "mr"],
            "call": lambda f, given: {"logits": f(given.pop("mr"), **given)},
        },
    }[form]
    transform = (lambda y: y["logits"]) if form == "function" else None
    several = mi.SeveralInputs(**chosen, scale=2.0)
    space = mi.eigenspace(several.network, several.images, output_transform=transform)
    torch.testing.assert_close(space.eigenvectors, expected.eigenvectors)
    assert list(several.parts(space.eigenvectors)) == chosen["wrt"]


@pytest.mark.parametrize("inference", [False, True])
def test_nothing_of_the_callers_is_touched(inference):
    network = Fusion(edits=True).train()
    with torch.inference_mode(inference):
        inputs = fusion_inputs()
        if not inference:
            inputs = {
                n: v.requires_grad_() if v.is_floating_point() else v for n, v in inputs.items()
            }
        before = snapshot(network, inputs["mr"])
        values = {name: bits(value) for name, value in inputs.items()}
        several = mi.SeveralInputs(network, inputs, wrt=["mr"])
        space = mi.eigenspace(several.network, several.images)
        several.split(space)
    with torch.inference_mode(inference):
        assert snapshot(network, inputs["mr"]) == before
    assert {name: bits(value) for name, value in inputs.items()} == values
    assert all(inputs[n].grad is None for n in ("mr", "ct", "clinical"))
    assert all(value.grad_fn is None for value in inputs.values())


def test_float32_and_mixed_dtypes():
    network, inputs = Fusion(), fusion_inputs()
    scales = {"mr": 2.0, "clinical": 0.5}
    exact = mi.SeveralInputs(network, inputs, wrt=["mr", "clinical"], scale=scales)
    expected = mi.eigenspace(exact.network, exact.images)
    single = {n: v.float() if v.is_floating_point() else v for n, v in inputs.items()}
    several = mi.SeveralInputs(network.float(), single, wrt=["mr", "clinical"], scale=scales)
    assert several.images.dtype == torch.float32
    space = mi.eigenspace(several.network, several.images)
    torch.testing.assert_close(space.eigenvalues, expected.eigenvalues, rtol=1e-4, atol=0)

    class Cast(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = network

        def forward(self, **given):
            assert given["mr"].dtype == torch.float32
            assert given["clinical"].dtype == torch.float64
            return self.body(**{**given, "clinical": given["clinical"].float()})

    mixed = {**single, "clinical": inputs["clinical"]}
    several = mi.SeveralInputs(Cast(), mixed, wrt=["mr", "clinical"], scale=scales)
    assert several.images.dtype == torch.float64
    space = mi.eigenspace(several.network, several.images)
    torch.testing.assert_close(space.eigenvalues, expected.eigenvalues, rtol=1e-4, atol=0)
