"""Nuisances: the small matrix against the dense one, and what is measured against a fine search."""

from dataclasses import dataclass

import pytest
import torch

import monai_ifim as mi
from _helpers import oracle
from _helpers.problems import Affine, smooth_images, smooth_network
from _helpers.untouched import Rich, assert_untouched, snapshot
from monai_ifim.core import sensitivity_of

IMAGES = smooth_images(2)


@dataclass
class Pattern:
    """A pattern is added."""

    seed: int = 0
    reach: float = 10.0
    power: int = 1
    one_sided: bool = False
    name: str = "pattern"
    unit: str = "input units"
    step: float = 1e-3
    calls: int = 0

    @property
    def values(self):
        generator = torch.Generator().manual_seed(self.seed)
        return torch.randn(IMAGES.shape[1:], generator=generator, dtype=torch.float64)

    def __call__(self, images, amounts):
        self.calls += 1
        shape = (-1, *[1] * (images.ndim - 1))
        return images + amounts.view(shape).to(images) ** self.power * self.values.to(images)


def test_the_matrix_of_the_dense_one():
    network = smooth_network(2, 4)
    nuisances = [Pattern(0), Pattern(1, reach=3.0), Pattern(2)]
    found = mi.nuisance_sensitivity(network, IMAGES, nuisances, measure=False)
    tangents = torch.stack([n.values.flatten() for n in nuisances])
    dense = oracle.fisher(network, IMAGES, "categorical")
    expected = torch.einsum("pn,bnm,qm->bpq", tangents, dense, tangents)
    torch.testing.assert_close(found.matrix, expected, rtol=1e-8, atol=1e-12)
    diagonal = expected.diagonal(dim1=1, dim2=2)
    torch.testing.assert_close(found.local, (0.2 / diagonal).sqrt(), rtol=1e-8, atol=0)
    reach = torch.tensor([10.0, 3.0, 10.0]).double()
    values, vectors = torch.linalg.eigh(reach[:, None] * expected * reach)
    torch.testing.assert_close(found.worst_divergence, values[:, -1] / 2, rtol=1e-8, atol=0)
    overlap = (found.worst * vectors[:, :, -1]).sum(1).abs()
    torch.testing.assert_close(overlap, torch.ones(5).double(), rtol=0, atol=1e-8)
    assert found.measured is None


def first_amount(hit, reach, sides=(1, -1), steps=4000):
    """By looking at every amount of a fine grid; inf where nothing happens."""
    for amount in torch.linspace(0, reach, steps + 1).double()[1:]:
        for side in sides:
            if hit(side * amount):
                return float(side * amount)
    return float("inf")


def test_what_is_measured_is_found_by_a_fine_search():
    network, level = smooth_network(2, 4), 0.1
    nuisance = Pattern(0, reach=2.0)
    found = mi.nuisance_sensitivity(network, IMAGES, [nuisance], level=level)
    for i, image in enumerate(IMAGES):
        z = network(image[None]).detach()

        def logits(amount, image=image):
            return network(nuisance(image[None], amount[None])).detach()

        def moved(amount, z=z, logits=logits):
            return mi.Categorical().divergence(z, logits(amount)) >= level

        def flipped(amount, z=z, logits=logits):
            return logits(amount).argmax(1) != z.argmax(1)

        expected = first_amount(moved, 2.0)
        assert found.measured[i, 0].item() == pytest.approx(expected, rel=3e-2)
        first, seen = first_amount(flipped, 2.0), found.flips[i, 0].item()
        if first == float("inf"):
            assert seen == first
        else:
            assert abs(first) - 1e-9 <= abs(seen) <= abs(first) + 0.125 * 2.0
            assert flipped(found.flips[i, 0])


@dataclass
class Raised(Pattern):
    """All values are raised."""

    @property
    def values(self):
        return torch.ones(IMAGES.shape[1:], dtype=torch.float64)


def test_of_two_sides_in_the_same_interval_the_nearer_one():
    """One logit, 1.5 + 3t: KL is .1 at -.35 and at +.45, both between a quarter and a half."""

    class Line(torch.nn.Module):
        def forward(self, x):
            t = x.flatten(1).mean(1)
            return torch.stack([1.5 + 3 * t, 0 * t], dim=1)

    zero = torch.zeros_like(IMAGES[:1])
    found = mi.nuisance_sensitivity(Line(), zero, [Raised(reach=1.0)])
    assert found.measured.item() == pytest.approx(-0.350, abs=2e-3)


@pytest.mark.parametrize("mirrored", [1, -1])
@pytest.mark.parametrize("reach", [0.6, 1.0, 1.7, 3.0])
def test_the_nearer_side_whichever_it_is(reach, mirrored):
    """Many images at once against a fine scan, with ties at every interval, on either side."""
    level = 0.1
    starts = torch.linspace(-2.5, 2.5, 41).double()

    class Bent(torch.nn.Module):
        def forward(self, x):
            first, t = x[:, 0, 0], mirrored * x[:, 0, 1:].mean(1)
            return torch.stack([first + 2 * t + 0.7 * t**2, 0 * t], dim=1)

    @dataclass
    class Moved(Pattern):
        def __call__(self, images, amounts):
            unit = torch.tensor([0.0, 1.0, 1.0]).double()
            return images + amounts[:, None, None].to(images) * unit

    images = torch.zeros(len(starts), 1, 3).double()
    images[:, 0, 0] = starts
    found = mi.nuisance_sensitivity(Bent(), images, [Moved(reach=reach)], level=level)
    sides = torch.linspace(0, reach, 4001).double()
    tied = 0
    for i, image in enumerate(images):
        before = Bent()(image[None])
        first, flip = [], []
        for side in (1, -1):
            after = Bent()(Moved()(image[None].expand(4001, 1, 3), side * sides))
            hit = mi.Categorical().divergence(before.expand(4001, 2), after) >= level
            other = after.argmax(1) != before.argmax(1)
            for seen, each in ((hit, first), (other, flip)):
                each.append(sides[seen.long().argmax()].item() if seen.any() else float("inf"))
        tied += max(first) < 2 * min(first)
        amount, expected = found.measured[i, 0].item(), min(first)
        assert abs(amount) == pytest.approx(expected, rel=2e-2)
        if max(first) > 1.05 * expected:
            assert (amount > 0) == (first[0] < first[1])
        if min(flip) < reach:  # half an interval where both sides have one, a quarter otherwise
            assert min(flip) - 1e-9 <= abs(found.flips[i, 0].item()) <= min(flip) + 0.25 * reach
    assert tied >= 5


def test_a_quadratic_divergence_is_measured_as_the_law_says():
    """Affine regression with known error: the law is exact at any distance."""
    weight = torch.randn(3, 72, generator=torch.Generator().manual_seed(0)).double()
    nuisances = [
        Pattern(0, reach=1.0),
        Pattern(1, reach=0.05),
        Pattern(2, one_sided=True, reach=7.0),
    ]
    found = mi.nuisance_sensitivity(
        Affine(weight), IMAGES, nuisances, level=0.5, likelihood=mi.Gaussian(3.0)
    )
    reach = torch.tensor([n.reach for n in nuisances]).double()
    within = found.local <= reach
    assert within.any()
    assert not within.all()
    torch.testing.assert_close(found.measured[within].abs(), found.local[within], rtol=1e-6, atol=0)
    assert found.measured[~within].isinf().all()
    assert found.flips.isnan().all()


def test_one_sided_nuisances_have_no_other_side():
    seen = []

    class Recorded(Pattern):
        def __call__(self, images, amounts):
            seen.append(amounts)
            return super().__call__(images, amounts)

    found = mi.nuisance_sensitivity(smooth_network(2, 4), IMAGES, [Recorded(one_sided=True)])
    assert (torch.stack(seen) >= 0).all()
    assert (found.measured > 0).all()


@pytest.mark.parametrize("one_sided", [False, True])
def test_passes(monkeypatch, one_sided):
    network = smooth_network(2, 4)
    mi.eigenspace(network, IMAGES)  # it is known from now on that images are independent
    grad, passes = torch.autograd.grad, []

    def counted(*args, **kwargs):
        passes.append(1)
        return grad(*args, **kwargs)

    monkeypatch.setattr(torch.autograd, "grad", counted)
    forwards = []
    network.register_forward_pre_hook(lambda *_: forwards.append(1))
    nuisance = Pattern(0, reach=2.0, one_sided=one_sided)
    mi.nuisance_sensitivity(network, IMAGES, [nuisance], vjp_chunk=None)
    assert len(passes) == 3
    assert len(forwards) - 1 <= 12
    # The tangent has one image on each side.
    assert nuisance.calls - (1 if one_sided else 2) == len(forwards) - 1


def test_each_image_has_amounts_of_its_own():
    network = smooth_network(2, 4)
    whole = mi.nuisance_sensitivity(network, IMAGES, [Pattern()])
    single = mi.nuisance_sensitivity(network, IMAGES[3:4], [Pattern()])
    torch.testing.assert_close(whole.measured[3], single.measured[0], rtol=1e-9, atol=0)
    torch.testing.assert_close(whole.flips[3], single.flips[0], rtol=1e-9, atol=0)


def test_a_form_of_its_own():
    """What is random has no tangent: white noise has the trace."""

    class Noise(Pattern):
        def form(self, space):
            return space.trace

    network = smooth_network(2, 4)
    found = mi.nuisance_sensitivity(network, IMAGES, [Pattern(), Noise(1)], measure=False)
    trace = mi.eigenspace(network, IMAGES).trace
    assert torch.equal(found.matrix[:, 1, 1], trace)
    assert not found.matrix[:, 0, 1].any()


def test_sentences():
    network = smooth_network(2, 4)
    nuisances = [Pattern(0, reach=5.0), Pattern(1, reach=1e-4, name="tiny")]
    found = mi.nuisance_sensitivity(network, IMAGES, nuisances, level=1e-3)
    reached = int(found.measured[:, 0].isfinite().nonzero()[0])
    first, second = found.sentences(reached)
    amount = found.measured[reached, 0].item()
    assert first.startswith(f"pattern: 0.001 nat at {amount:.2g} input units")
    assert second == "tiny: less than 0.001 nat within ±0.0001 input units"
    law = mi.nuisance_sensitivity(network, IMAGES, nuisances[:1], measure=False)
    assert law.sentences(reached)[0].endswith("input units, by the quadratic law")


def test_nothing_is_disturbed():
    network = Rich()
    before = snapshot(network, IMAGES)
    mi.nuisance_sensitivity(network, IMAGES, [Pattern()])
    assert_untouched(before, network, IMAGES)


@pytest.mark.parametrize(
    ("nuisances", "choices", "message"),
    [
        ([], {}, "expected at least one nuisance"),
        ([Pattern()], {"level": 0.0}, "expected at least one nuisance and a level > 0"),
        ([Pattern()], {"perturbation": mi.Smooth(1.0)}, "expected no perturbation beside"),
        ([lambda x, a: x], {}, "expected nuisances with name, unit, reach, one_sided, step, got"),
        ([Pattern], {}, "expected nuisances with name"),
    ],
)
def test_bad_input(nuisances, choices, message):
    with pytest.raises(ValueError, match=message):
        mi.nuisance_sensitivity(smooth_network(2, 4), IMAGES, nuisances, **choices)


def test_a_nuisance_that_changes_nothing_or_the_shape():
    class Nothing(Pattern):
        def __call__(self, images, amounts):
            return images

    class Cropped(Pattern):
        def __call__(self, images, amounts):
            return images[..., 1:]

    with pytest.raises(
        ValueError, match="expected a nuisance that changes the images, got pattern"
    ):
        mi.nuisance_sensitivity(smooth_network(2, 4), IMAGES, [Nothing()])
    with pytest.raises(ValueError, match=r"expected images \(5, 3, 4, 6\) from pattern, got"):
        mi.nuisance_sensitivity(smooth_network(2, 4), IMAGES, [Cropped()])


def test_of_a_known_eigenspace_without_a_pass_of_its_own():
    network = smooth_network(2, 4)
    space = mi.eigenspace(network, IMAGES)
    nuisances = [Pattern(0, reach=2.0), Pattern(1)]
    found = mi.nuisance_sensitivity(network, IMAGES, nuisances)
    again = sensitivity_of(space, IMAGES, nuisances, network)
    law = sensitivity_of(space, IMAGES, nuisances, None)
    for name in ("matrix", "local", "measured", "flips", "worst_divergence"):
        assert torch.equal(getattr(again, name), getattr(found, name))
    assert torch.equal(law.local, found.local)
    assert law.measured is None

    class Nothing(Pattern):
        def __call__(self, images, amounts):
            return images

    none = sensitivity_of(space, IMAGES, [Nothing()], network)
    assert none.local.isinf().all()
    assert none.measured.isinf().all()
    assert not none.worst_divergence.any()


def test_a_prediction_that_becomes_nan_is_told():
    class Broken(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.body = smooth_network(2, 4)

        def forward(self, x):
            known = (x.detach() == IMAGES[0]).flatten(1).all(1, keepdim=True)
            return torch.where(known, self.body(x), torch.nan)

    with pytest.raises(ValueError, match=r"image 0 at 1\.25 input units of pattern"):
        mi.nuisance_sensitivity(Broken(), IMAGES[:1], [Pattern()])
