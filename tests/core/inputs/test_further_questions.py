"""What else is asked of a network of one input, of a network of several."""

import gc
import weakref
from functools import reduce

import torch
from monai.data import MetaTensor

import monai_ifim as mi
from _helpers.fusion import SIZES, Fusion, fusion_inputs
from monai_ifim.nuisances import Gain

SCALES = {"mr": 0.5, "ct": 4.0}


def several(inputs=None, network=None):
    inputs = fusion_inputs() if inputs is None else inputs
    return mi.SeveralInputs(network or Fusion(), inputs, wrt=["mr", "ct"], scale=SCALES)


def mean_of_unit_traces(*batches):
    total = 0
    for batch in batches:
        space = mi.eigenspace(batch.network, batch.images)
        vectors, values = space.eigenvectors.flatten(2), space.eigenvalues / space.trace[:, None]
        total = total + torch.einsum("bri,br,brj->ij", vectors, values, vectors)
    return total / sum(len(batch.images) for batch in batches)


def test_pooled_over_batches_whose_other_inputs_differ():
    network = Fusion()
    batches = [several(fusion_inputs(batch=4, seed=seed), network) for seed in range(3)]
    each = [mi.pooled_eigenspace(b.network, [b.images], rank=3) for b in batches]
    pooled = reduce(mi.PooledEigenspace.merged, each)
    expected = torch.linalg.eigvalsh(mean_of_unit_traces(*batches)).flip(0)
    torch.testing.assert_close(pooled.eigenvalues, expected[:3], rtol=1e-9, atol=0)
    assert pooled.count == 12
    parts = batches[0].parts(pooled.eigenvectors)
    assert {name: tuple(part.shape[1:]) for name, part in parts.items()} == {
        name: SIZES[name] for name in ("mr", "ct")
    }


def test_random_weights_beside_it():
    batch = several(fusion_inputs(batch=4))
    pooled = mi.pooled_eigenspace(batch.network, [batch.images], rank=2, control="random_weights")
    assert pooled.control is not None
    assert float(pooled.angles(pooled.control).max()) > 0.01


def test_smoothed_without_noise_is_the_eigenspace():
    batch = several()
    space = mi.eigenspace(batch.network, batch.images)
    smoothed = mi.smoothed_eigenspace(batch.network, batch.images)
    torch.testing.assert_close(smoothed.eigenvalues[:, :2], space.eigenvalues)
    noisy = mi.smoothed_eigenspace(batch.network, batch.images, noise=0.1, samples=2)
    assert batch.parts(noisy.eigenvectors)["ct"].shape[2:] == SIZES["ct"]


def test_the_quadratic_law_along_the_joint_eigenvectors():
    batch = several()
    space = mi.eigenspace(batch.network, batch.images)
    curve = mi.perturbation_curve(
        batch.network, batch.images, space.eigenvectors[:, :1], [1e-4], space=space
    )
    torch.testing.assert_close(curve.divergence, curve.quadratic, rtol=1e-2, atol=0)


def test_a_mask_of_one_input_leaves_the_others_as_they_are():
    batch = several()
    mask = batch.join({"mr": torch.ones(1, 4, 5)})
    space = mi.eigenspace(batch.network, batch.images, perturbation=mi.Mask(mask))
    parts = batch.parts(space.eigenvectors)
    assert not parts["ct"].any()
    alone = mi.SeveralInputs(Fusion(), fusion_inputs(), wrt="mr", scale=SCALES["mr"])
    expected = mi.eigenspace(alone.network, alone.images)
    torch.testing.assert_close(space.eigenvalues, expected.eigenvalues, rtol=1e-9, atol=1e-15)


def test_how_far_the_gain_of_one_image_may_go_with_the_others_held_fixed():
    """To first order θ = √(2 level / tᵀFt), t the image itself per per cent of gain."""
    inputs = fusion_inputs()
    alone = mi.SeveralInputs(Fusion(), inputs, wrt="mr")
    found = mi.nuisance_sensitivity(alone.network, alone.images, [Gain()], level=1e-8)
    form = mi.eigenspace(alone.network, alone.images).quadratic_form(inputs["mr"] / 100)
    torch.testing.assert_close(found.local[:, 0], (2e-8 / form).sqrt(), rtol=1e-3, atol=0)
    amount = found.measured[:, 0]
    reached = amount.isfinite()
    assert reached.any()
    moved = {
        **inputs,
        "mr": inputs["mr"] * (1 + amount.nan_to_num(posinf=0) / 100).view(-1, 1, 1, 1),
    }
    before, after = (Fusion()(**each).log_softmax(dim=1) for each in (inputs, moved))
    divergence = (before.exp() * (before - after)).sum(dim=1)[reached]
    torch.testing.assert_close(divergence, torch.full_like(divergence, 1e-8), rtol=3e-2, atol=0)


def test_components_have_the_metadata_of_their_inputs():
    inputs = fusion_inputs()
    affine = torch.diag(torch.tensor([2.0, 3.0, 4.0, 1.0])).double()
    inputs["mr"] = MetaTensor(inputs["mr"], affine=affine)
    batch = several(inputs)
    assert type(batch.images) is torch.Tensor
    high, orth = batch.split(mi.eigenspace(batch.network, batch.images))
    assert isinstance(high["mr"], MetaTensor)
    assert torch.equal(high["mr"].affine, affine)
    assert type(orth["ct"]) is torch.Tensor
    torch.testing.assert_close((high["mr"] + orth["mr"]).as_tensor(), inputs["mr"].as_tensor())


def test_it_says_what_is_held_fixed():
    assert repr(several()) == (
        "SeveralInputs(3 of mr (1, 4, 5), ct (2, 3); held fixed: clinical, stage)"
    )


def test_flags_and_nothing_are_handed_on():
    inputs = {**fusion_inputs(), "use": False}
    without = mi.SeveralInputs(Fusion(), {**inputs, "use": False}, wrt="mr")
    nothing = mi.SeveralInputs(Fusion(), {**inputs, "stage": None, "use": True}, wrt="mr")
    first, second = (mi.eigenspace(s.network, s.images) for s in (without, nothing))
    assert torch.equal(first.eigenvalues, second.eigenvalues)


def test_one_number_for_each_patient():
    class Aged(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.body = Fusion()

        def forward(self, age, **given):
            return self.body(**{**given, "clinical": given["clinical"] * age[:, None]})

    network, inputs = Aged(), {**fusion_inputs(), "age": torch.tensor([0.5, 1.0, 2.0]).double()}
    alone = mi.SeveralInputs(network, inputs, wrt="age", scale=10.0)
    space = mi.eigenspace(alone.network, alone.images)
    moved = {**inputs, "age": inputs["age"] + 1e-5}
    p = network(**inputs).softmax(dim=1)
    slope = (network(**moved) - network(**inputs)) / 1e-6
    expected = (p * slope.square()).sum(dim=1) - (p * slope).sum(dim=1).square()
    torch.testing.assert_close(space.trace, expected, rtol=1e-3, atol=0)
    assert space.rank.tolist() == [1, 1, 1]
    torch.testing.assert_close(
        alone.parts(space.eigenvectors)["age"][:, 0].abs(), torch.ones(3).double()
    )


def test_no_network_is_kept_alive_by_what_is_known_of_it():
    network = Fusion()

    def ask(model):
        batch = mi.SeveralInputs(
            model, fusion_inputs(), wrt="mr", call=lambda _, given: model(**given)
        )
        mi.eigenspace(batch.network, batch.images)

    ask(network)
    known = weakref.ref(network)
    del network
    gc.collect()
    assert known() is None
