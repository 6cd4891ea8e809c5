"""Some of the classes, and merged classes: against dense matrices from their definition."""

import pytest
import torch

import monai_ifim as mi
from _helpers import oracle
from _helpers.problems import smooth_images, smooth_network
from monai_ifim.core import chosen_options
from monai_ifim.outputs import batch_outputs, with_class_names

PARTS = {
    "pair": ({"classes": [3, 1]}, oracle.chosen([3, 1]), 1),
    "three": ({"classes": [0, 2, 4]}, oracle.chosen([0, 2, 4]), 2),
    "merged": ({"groups": [[0, 3], [1], [2, 4]]}, oracle.merged([[0, 3], [1], [2, 4]]), 2),
    "one against all": ({"groups": [[1], [0, 2, 3, 4]]}, oracle.merged([[1], [0, 2, 3, 4]]), 1),
}
every_part = pytest.mark.parametrize(("choice", "family", "rank"), PARTS.values(), ids=PARTS)


def dense_of(space):
    """F as (B, N, N) from all its eigenpairs."""
    v = space.eigenvectors.flatten(2)
    return torch.einsum("brn,br,brm->bnm", v, space.eigenvalues, v)


@every_part
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_of_the_dense_matrix(choice, family, rank, dims):
    network, images = smooth_network(dims, 5), smooth_images(dims)
    space = mi.eigenspace(network, images, **choice)
    expected = oracle.fisher(network, images, family)
    assert space.gradients.shape[1] == rank  # as many passes
    scale = expected.abs().amax(dim=(1, 2), keepdim=True)
    assert ((dense_of(space) - expected).abs() <= 1e-10 * scale).all()
    torch.testing.assert_close(
        space.trace, expected.diagonal(dim1=1, dim2=2).sum(1), rtol=1e-10, atol=0
    )


@every_part
def test_divergence_is_half_the_form(choice, family, rank):
    network, images = smooth_network(2, 5), smooth_images(2)
    space = mi.eigenspace(network, images, **choice)
    step = 1e-4 / space.eigenvalues[:, 0].sqrt()
    d = step.view(-1, 1, 1, 1) * space.eigenvectors[:, 0]
    sides = [oracle.divergence(network, images, images + s * d, family) for s in (1, -1)]
    ratio = sum(sides) / space.quadratic_form(d)
    torch.testing.assert_close(ratio, torch.ones_like(ratio), rtol=0, atol=2e-3)
    # The family's own divergence is the same function.
    logits = [network(x).detach() for x in (images, images + d)]
    torch.testing.assert_close(space.likelihood.divergence(*logits), sides[0], rtol=1e-6, atol=0)


@pytest.mark.parametrize("groups", [[[0, 3], [1], [2, 4]], [[1], [0, 2, 3, 4]]])
def test_what_is_merged_tells_no_more(groups):
    network, images = smooth_network(2, 5), smooth_images(2)
    whole, merged = mi.eigenspace(network, images), mi.eigenspace(network, images, groups=groups)
    least = torch.linalg.eigvalsh(dense_of(whole) - dense_of(merged))[:, 0]
    assert (least >= -1e-12 * whole.eigenvalues[:, 0]).all()
    assert (merged.trace < whole.trace).all()


def test_one_pass_for_a_pair(monkeypatch):
    network, images = smooth_network(2, 5), smooth_images(2)
    mi.eigenspace(network, images)  # it is known from now on that images are independent
    passes, grad = [], torch.autograd.grad

    def counted(*args, **kwargs):
        passes.append(args)
        return grad(*args, **kwargs)

    monkeypatch.setattr(torch.autograd, "grad", counted)
    mi.eigenspace(network, images, classes=[0, 2])
    assert len(passes) == 1


def test_singletons_and_all_classes_are_the_whole():
    network, images = smooth_network(2, 4), smooth_images(2)
    whole = mi.eigenspace(network, images)
    for choice in ({"classes": [0, 1, 2, 3]}, {"groups": [[0], [1], [2], [3]]}):
        space = mi.eigenspace(network, images, **choice)
        torch.testing.assert_close(space.eigenvalues, whole.eigenvalues, rtol=1e-12, atol=0)


def test_groups_may_leave_classes_out():
    network, images = smooth_network(2, 5), smooth_images(2)
    some = mi.eigenspace(network, images, groups=[[0], [3]])
    pair = mi.eigenspace(network, images, classes=[0, 3])
    torch.testing.assert_close(some.eigenvalues, pair.eigenvalues, rtol=1e-12, atol=0)


def test_labels_of_sigmoids():
    network, images = smooth_network(2, 5), smooth_images(2)
    space = mi.eigenspace(network, images, likelihood="bernoulli", classes=[4, 1])
    expected = oracle.fisher(network, images, lambda z: oracle.bernoulli(z[[4, 1]]))
    error = (dense_of(space) - expected).abs().amax()
    assert error <= 1e-10 * expected.abs().amax()
    one = mi.eigenspace(network, images, likelihood="bernoulli", classes=[4])
    z = network(images).detach()[:, 4]
    assert one.likelihood.predicted(one.logits).tolist() == (z > 0).long().tolist()
    assert one.flip_distance().index.tolist() == (z <= 0).long().tolist()


@pytest.mark.parametrize("choice", [{"classes": [4, 1, 2]}, {"groups": [[4], [0, 1], [2, 3]]}])
def test_the_nearest_other_outcome(choice):
    network, images = smooth_network(2, 5), smooth_images(2)
    flips = mi.eigenspace(network, images, **choice).flip_distance()
    family = chosen_options(None, choice).family
    step = 1e-3 * flips.distance.clamp_max(1).view(-1, 1, 1, 1) * flips.direction
    z = [network(x).detach() for x in (images, images + step)]
    rise = [family.recode(each) for each in z]
    positions = [int((family.numbered(torch.arange(3)) == i).nonzero()) for i in flips.index]
    for i, position in enumerate(positions):
        gap = [each[i].amax() - each[i, position] for each in rise]
        assert gap[1] < gap[0]


def test_numbers_and_names_of_the_table():
    network, images = smooth_network(2, 5), smooth_images(2)
    names = ["normal", "cyst", "glioma", "edema", "other"]
    for choice, texts, words in (
        ({"classes": [4, 1]}, {"4", "1"}, {"other", "cyst"}),
        ({"groups": [[0], [1, 2]]}, {"0", "1 or 2"}, {"normal", "cyst or glioma"}),
    ):
        space = mi.eigenspace(network, images, **choice)
        outputs = batch_outputs(space, images, ())
        for numbers, row in zip(outputs.numbers, outputs.rows("abcde"), strict=True):
            assert {row["predicted_class"], row["flip_class"]} == texts
            assert not {"outcomes", "classes"} & set(row)
            named = with_class_names(numbers, names)
            assert {named["predicted_class"], named["flip_class"]} == set(named["class_names"])
            assert set(named["class_names"]) == words
            assert (
                max(named["probabilities"], key=named["probabilities"].get)
                == (named["predicted_class"])
            )
            # Names of another number of classes are not used.
            assert set(with_class_names(numbers, ["x", "y"])["class_names"]) == texts


def test_a_group_whose_classes_are_ruled_out():
    z = torch.tensor([[1.0, 2.0, -torch.inf, -torch.inf]]).double()
    family = mi.Categorical().merged([[0], [1], [2, 3]])
    assert torch.isfinite(family.contrasts(z)).all()
    assert torch.isfinite(family.factor(z)).all()


def test_names_as_numbers():
    names = ["normal", "cyst", "glioma"]
    assert mi.class_numbers(["glioma", 0], names) == [2, 0]
    assert mi.class_numbers([["normal"], ["cyst", "glioma"]], names) == [[0], [1, 2]]
    with pytest.raises(ValueError, match=r"expected a class from \['normal'.*got 'gliom'"):
        mi.class_numbers(["gliom"], names)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"classes": [1]}, "expected at least two classes"),
        ({"classes": [1, 1]}, "each one once"),
        ({"classes": [-1, 1]}, "from 0 on"),
        ({"classes": "01"}, "expected classes as a list of numbers"),
        ({"classes": ["a", "b"]}, "for names use class_numbers"),
        ({"classes": [0, 1], "groups": [[0], [1]]}, "expected classes or groups"),
        ({"groups": [[0, 1]]}, "expected at least two groups"),
        ({"groups": [[0], []]}, "at least one class each"),
        ({"groups": [[0], [0, 1]]}, "each one once"),
        ({"groups": [0, 1]}, "expected each group as a list of numbers"),
        ({"groups": 3}, "expected groups as a list of lists"),
        ({"groups": [[0], [1]], "likelihood": "bernoulli"}, r"expected a family with merged\(\)"),
        ({"classes": [0], "likelihood": mi.VoxelwiseCategorical()}, r"a family with only\(\)"),
    ],
)
def test_impossible_parts_are_refused_when_they_are_chosen(choice, message):
    with pytest.raises(ValueError, match=message):
        mi.EigenspaceOptions(**choice)


def test_a_class_that_the_network_does_not_have():
    network, images = smooth_network(2, 3), smooth_images(2)
    with pytest.raises(ValueError, match=r"expected numbers of classes from 0 to 2, got 5"):
        mi.eigenspace(network, images, classes=[0, 5])


def test_a_segmentation_is_refused():
    with pytest.raises(ValueError, match=r"expected logits of shape \(batch, classes\)"):
        mi.eigenspace(torch.nn.Conv2d(1, 3, 3), torch.randn(1, 1, 6, 7), classes=[0, 1], rank=1)


def test_perturbation_curves_take_them():
    network, images = smooth_network(2, 4), smooth_images(2)
    space = mi.eigenspace(network, images, groups=[[0], [1, 2, 3]])
    curve = mi.perturbation_curve(network, images, space.eigenvectors, [1e-3], space=space)
    ratio = curve.divergence[:, 0] / (0.5e-6 * space.eigenvalues[:, :1])
    torch.testing.assert_close(ratio, torch.ones_like(ratio), rtol=0, atol=2e-2)
