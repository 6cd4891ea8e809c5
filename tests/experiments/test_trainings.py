"""Several trainings compared: against dense float64 oracles, and the public functions."""

import numpy as np
import pytest
import torch
from torch import nn

from monai_ifim.core import eigenspace
from monai_ifim.core.pooling import pooled_eigenspace
from monai_ifim.experiments.networks.trained_classifier import TrainedClassifier
from monai_ifim.experiments.statistics.trainings import across, over_pairs, over_trainings
from monai_ifim.experiments.steps import Steps
from monai_ifim.experiments.tasks.labelled import Split
from monai_ifim.experiments.trainings.agreement import between, within
from monai_ifim.experiments.trainings.columns import columns_of, iterated, leading
from monai_ifim.experiments.trainings.metrics import (
    bases,
    metrics_of,
    shared,
    smallest_cosine,
    within_class_deviations,
)
from monai_ifim.experiments.trainings.moves import class_mean_direction, directions, moves
from monai_ifim.experiments.trainings.template import template_agreement
from monai_ifim.experiments.trainings.training import Amounts, Training

SHAPE, CLASSES = (2, 5, 7), 4


def classifier(seed=0, classes=CLASSES, hidden=9):
    torch.manual_seed(seed)
    network = nn.Sequential(
        nn.Flatten(), nn.Linear(70, hidden), nn.Tanh(), nn.Linear(hidden, classes)
    ).eval()
    return TrainedClassifier(f"net {seed}", network, "categorical", f"digest {seed} {classes}")


def images(count=11, seed=5):
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(seed))


def labelled(count=40):
    generator = torch.Generator().manual_seed(3)
    labels = torch.arange(count) % CLASSES
    shift = torch.randn(CLASSES, *SHAPE, generator=generator)
    return Split(images(count, 4) + shift[labels], labels)


def dense(net, sample):
    """Every image's F and Jacobian by autograd in float64, sharing nothing with the package."""
    network = net.network.double()
    found = []
    for image in sample.double():
        jacobian = torch.autograd.functional.jacobian(lambda x: network(x[None])[0], image)
        jacobian = jacobian.flatten(1)
        p = network(image[None])[0].softmax(dim=0).detach()
        found.append((jacobian.T @ (p.diag() - torch.outer(p, p)) @ jacobian, jacobian))
    network.float()
    return torch.stack([f for f, _ in found]), torch.stack([j for _, j in found])


def dense_space(fishers, weights, rank):
    total = torch.einsum("n,nxy->xy", weights, fishers)
    return torch.linalg.eigh(total)[1].flip(1)[:, :rank]


def cos2(a, b):
    """Mean squared cosine of two spaces given by columns."""
    overlap = torch.linalg.qr(a.double()).Q.T @ torch.linalg.qr(b.double()).Q
    return float(overlap.square().sum() / a.shape[1])


@pytest.mark.parametrize("weights", ["unit_trace", "equal"])
def test_pooled_over_draws_of_the_images(weights):
    net, sample = classifier(), images()
    columns = columns_of(net, sample)
    fishers, jacobians = dense(net, sample)
    traces = fishers.diagonal(dim1=1, dim2=2).sum(dim=1)
    torch.testing.assert_close(columns.traces, traces, rtol=1e-4, atol=0)
    factors = 1 / traces if weights == "unit_trace" else torch.ones_like(traces)
    counts = torch.tensor([[1] * 11, [0, 3, 0, 1, 1, 2, 0, 0, 2, 1, 1]])
    spaces = columns.pooled(weights, 3, counts)
    jacobian = columns.mean_jacobian(3, counts)
    centred = jacobians - jacobians.mean(dim=1, keepdim=True)
    for draw, count in enumerate(counts.double()):
        expected = dense_space(fishers, count * factors, 3)
        for rank in (1, 3):
            found = spaces[draw].flatten(1)[:rank].T
            assert cos2(found, expected[:, :rank]) == pytest.approx(1, abs=1e-5)
        mean = torch.einsum("n,nkx->kx", count, centred)
        span = torch.linalg.svd(mean, full_matrices=False)[2][:3].T
        assert cos2(jacobian[draw].flatten(1).T, span) == pytest.approx(1, abs=1e-5)
    whole = pooled_eigenspace(net.network, sample, weights=weights)
    assert columns.effective_count(weights) == pytest.approx(whole.effective_count, rel=1e-4)
    assert float(whole.angles(spaces[0], rank=3)[-1].rad2deg()) < 0.1


def test_both_ways_to_the_leading_eigenvectors():
    generator = torch.Generator().manual_seed(0)
    for shape in ((30, 8), (8, 30)):
        rows = torch.randn(shape, generator=generator, dtype=torch.float64)
        squares = torch.rand(shape[0], generator=generator, dtype=torch.float64)
        expected = torch.linalg.eigh(rows.T @ squares.diag() @ rows)[1].flip(1)[:, :2]
        assert cos2(leading(rows, squares, 2).T, expected) == pytest.approx(1, abs=1e-12)
        start = torch.linalg.qr(torch.randn(shape[1], 7, generator=generator).double()).Q.T
        assert cos2(iterated(rows, squares, start, 2).T, expected) == pytest.approx(1, abs=1e-3)


def test_an_image_without_a_direction_counts_for_nothing():
    net, sample = classifier(), images()
    columns = columns_of(net, sample)
    vectors, values = columns.vectors.clone(), columns.values.clone()
    vectors[3], values[3] = 0, 0
    changed = type(columns)(vectors, values, columns.jacobians)
    counts = torch.ones(1, 11)
    counts[0, 3] = 0
    for weights in ("unit_trace", "equal"):
        without = columns.pooled(weights, 2, counts)[0].flatten(1).T
        found = changed.pooled(weights, 2)[0].flatten(1).T
        assert cos2(found, without) == pytest.approx(1, abs=1e-4)
        assert changed.weights(weights)[3] == 0


def test_metrics_are_those_of_the_public_function():
    train = labelled()
    metrics = metrics_of(train)
    first, second = (pooled_eigenspace(classifier(s).network, images()) for s in (0, 1))
    given = {
        "pixels": None,
        "low_pass": 2.0,
        "within_class": within_class_deviations(train),
    }
    assert set(metrics) == set(given)
    for name, seen in metrics.items():
        a, b = (bases(space.eigenvectors[None, :3], seen) for space in (first, second))
        for rank in (1, 3):
            cosines = first.angles(second, given[name], rank=rank).cos()
            assert float(shared(a, b, rank)) == pytest.approx(
                float(cosines.square().mean()), rel=1e-3, abs=1e-6
            )
        smallest = float(first.angles(second, given[name], rank=3).cos().min())
        assert float(smallest_cosine(a, b)) == pytest.approx(smallest, rel=1e-2, abs=1e-5)


def test_zero_directions_share_nothing():
    seen = metrics_of(labelled())["pixels"]
    space = torch.randn(1, 3, *SHAPE)
    broken = space.clone()
    broken[0, 1] = 0
    assert float(shared(bases(space, seen), bases(space, seen), 3)) == pytest.approx(1, abs=1e-5)
    assert float(shared(bases(broken, seen), bases(space, seen), 3)) == pytest.approx(
        2 / 3, abs=1e-5
    )
    assert float(smallest_cosine(bases(broken, seen), bases(space, seen))) < 1e-5


def training(folder, seed, count=11, smoothed=4, classes=CLASSES):
    amounts = Amounts(images=count, smoothed=smoothed, draws=6, seed=1)
    return Training(classifier(seed, classes), images(count), classes, amounts, Steps(folder))


def test_trainings_of_one_network(tmp_path):
    """A training agrees wholly with itself; single and pooled as the dense oracle says."""
    metrics = metrics_of(labelled())
    same = within([training(tmp_path, 0), training(tmp_path, 0)], [], metrics)
    for table in same.values():
        assert set(table) == {"leading", "all"}
        for kinds in table.values():
            assert kinds["random_weights"] is None
            for kind in ("single", "smoothed", "unit_trace", "equal", "mean_jacobian"):
                assert kinds[kind]["low"] == pytest.approx(1, abs=1e-4)
    three = [training(tmp_path, seed) for seed in (0, 1, 2)]
    found = within(three, [training(tmp_path, 7, smoothed=0)], metrics)["pixels"]
    fishers = [dense(each.classifier, each.images)[0] for each in three]
    units = [f / f.diagonal(dim1=1, dim2=2).sum(dim=1)[:, None, None] for f in fishers]
    pooled = [dense_space(f, torch.ones(11).double(), 3) for f in units]
    expected = np.mean([cos2(pooled[i], pooled[j]) for i, j in ((0, 1), (0, 2), (1, 2))])
    assert found["all"]["unit_trace"]["value"] == pytest.approx(expected, abs=1e-4)
    single = [
        [dense_space(f[i : i + 1], torch.ones(1).double(), 3) for i in range(11)] for f in fishers
    ]
    expected = np.mean(
        [cos2(single[s][i], single[t][i]) for s, t in ((0, 1), (0, 2), (1, 2)) for i in range(11)]
    )
    assert found["all"]["single"]["value"] == pytest.approx(expected, abs=1e-3)
    assert found["all"]["single"]["trainings"] == 3
    assert found["all"]["to_random_weights"]["trainings"] == 4
    one = within(three[:1], [], metrics)["pixels"]["all"]
    assert one["single"] is None


def test_trainings_of_different_networks(tmp_path):
    metrics = metrics_of(labelled())
    groups = [[training(tmp_path, s) for s in seeds] for seeds in ((0, 1), (2,), (3, 0))]
    assert between(groups[:1], metrics) is None
    found = between(groups, metrics)["pixels"]["all"]["unit_trace"]
    assert [row["trainings"] for row in found] == [3, 4, 3]
    pairs = [
        within([training(tmp_path, a), training(tmp_path, b)], [], metrics)["pixels"]["all"]
        for a, b in ((0, 2), (1, 2))
    ]
    mean = np.mean([pair["unit_trace"]["value"] for pair in pairs])
    assert found[0]["value"] == pytest.approx(mean, abs=1e-5)


def test_the_template_is_found_by_a_linear_classifier_alone(tmp_path):
    """Logits w x: every image's F has the direction w; so have all that is pooled."""
    linear = [training(tmp_path, 0, classes=2), training(tmp_path, 1, classes=2)]
    generator = torch.Generator().manual_seed(2)
    template = torch.randn(1, 1, *SHAPE, generator=generator)
    for i, each in enumerate(linear):
        weights = torch.stack([torch.zeros(70), (1 + i) * template.flatten()])
        network = nn.Sequential(nn.Flatten(), nn.Linear(70, 2)).eval()
        network[1].weight.data = weights
        net = TrainedClassifier(f"linear {i}", network, "categorical", f"linear {i}")
        linear[i] = Training(net, each.images / 20, 2, each.amounts, each.steps)
    found = template_agreement(linear, template, metrics_of(labelled()))
    for table in found["cosine"].values():
        for summary in table.values():
            assert summary["low"] == pytest.approx(1, abs=1e-4)
    assert [row["images"] for row in found["by_count"]] == [1, 2, 5, 10, 11]
    random = [training(tmp_path, s, classes=2) for s in (0, 1)]
    other = template_agreement(random, template, metrics_of(labelled()))
    assert other["cosine"]["pixels"]["unit_trace"]["high"] < 0.7
    assert len(other["trainings"]["single"]) == 2


def test_moves_along_named_directions(tmp_path):
    """Every direction in its place, and KL near the quadratic form at a small norm."""
    both, train = [training(tmp_path, s) for s in (0, 1)], labelled()
    units = directions(both[0], both[1], train, both[0].images[:6])
    fishers, _ = dense(both[0].classifier, both[0].images[:6])
    own = torch.linalg.eigh(fishers)[1][:, :, -1]
    assert (units["own"].flatten(1).double() * own).sum(dim=1).abs().min() > 0.999
    other = eigenspace(both[1].classifier.network, both[0].images[:6]).eigenvectors[:, 0]
    assert torch.allclose(units["other_own"], other, atol=1e-4)
    outside = units["complement"].flatten(1).double()
    form = torch.einsum("nx,nxy,ny->n", outside, fishers, outside) / outside.square().sum(dim=1)
    assert (form / fishers.diagonal(dim1=1, dim2=2).sum(dim=1)).max() < 1e-6
    found = moves(both, train, 6)
    assert found["images"] == 6
    assert found["ratios"]["own"]["value"] > found["ratios"]["pooled"]["value"] > 1
    assert found["ratios"]["complement"]["high"] < 1
    assert found["norm"][0] == pytest.approx(0.3 * found["flip_norm"][0])
    # Over the image's own direction, image by image: the ratios' ratio, with a narrower interval.
    for name, ratio in found["own_ratios"].items():
        expected = found["ratios"][name]["value"] / found["ratios"]["own"]["value"]
        assert ratio["value"] == pytest.approx(expected, rel=1e-6)
    assert set(found["own_ratios"]) == set(found["ratios"]) - {"own"}
    alone = moves(both[:1], train, 6)
    assert not any(name.startswith("other") for name in alone["ratios"])


def test_two_class_means_give_their_difference():
    train = labelled()
    two = Split(train.images[train.labels < 2], train.labels[train.labels < 2])
    difference = two.images[two.labels == 1].mean(0) - two.images[two.labels == 0].mean(0)
    found = class_mean_direction(two)
    cosine = (found * difference).sum() / difference.norm() / found.norm()
    assert abs(float(cosine)) == pytest.approx(1, abs=1e-5)


# --- hierarchical bootstrap -----------------------------------------------------------------------


def test_intervals_over_trainings_cover_the_mean():
    """95 % intervals of the mean of 8 trainings hold the true mean in most of 200 studies."""
    random = np.random.default_rng(0)
    held = 0
    for study in range(200):
        training_means = random.normal(0, 1, size=(8, 1))
        draws = training_means + random.normal(0, 0.3, size=(1, 41))
        found = over_trainings(draws, seed=study)
        held += found["low"] <= 0 <= found["high"]
    assert 165 <= held <= 198


def test_images_alone_give_an_interval_to_one_training():
    found = over_trainings([[0.5, 0.4, 0.6]])
    assert (found["value"], found["low"], found["high"]) == (0.5, 0.4, 0.6)
    assert found["trainings"] == 1
    without = over_trainings([[0.5]])
    assert without["low"] == without["high"] == 0.5


def test_the_draws_give_the_spread_alone():
    """Draws that are worse than the images themselves do not move the interval away."""
    draws = np.linspace(-0.02, 0.02, 41)
    found = over_trainings([[0.98, *(0.9 + draws)]], (0.0, 1.0))
    assert found["low"] == pytest.approx(0.98 - 0.019, abs=2e-3)
    assert found["high"] == pytest.approx(0.98 + 0.019, abs=2e-3)
    assert over_trainings([[0.99, *(0.9 + draws)]], (0.0, 1.0))["high"] == 1.0


def test_pairs_leave_a_training_with_itself_out():
    table = np.full((3, 3, 1), 0.2)
    table[0, 1] = table[1, 0] = 0.8
    table[range(3), range(3)] = 1.0
    found = over_pairs(table)
    assert found["value"] == pytest.approx(0.4)
    assert found["low"] >= 0.2
    assert found["high"] <= 0.8
    assert across(np.ones((2, 3, 4)))["low"] == 1.0
    with pytest.raises(ValueError, match="at least two trainings"):
        over_pairs(np.ones((1, 1, 2)))


@pytest.mark.parametrize("values", [[1.0, 2.0], [[float("nan")]], np.zeros((0, 2))])
def test_figures_that_mean_nothing(values):
    with pytest.raises(ValueError, match=r"expected (finite )?figures"):
        over_trainings(values)
