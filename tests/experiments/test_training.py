"""The shared recipe: reproducible, learning what there is to learn, leaving no trace."""

from itertools import islice

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from monai_ifim.core import Categorical
from monai_ifim.experiments.logits import logits_of
from monai_ifim.experiments.networks.architectures import ARCHITECTURES, build_network
from monai_ifim.experiments.networks.augmented import AugmentedImages
from monai_ifim.experiments.networks.training import (
    Recipe,
    Variant,
    estimate_statistics,
    train,
    training_key,
    training_set,
)
from monai_ifim.experiments.statistics import classification_scores
from monai_ifim.experiments.tasks.catalogue import load_task
from monai_ifim.experiments.tasks.fresh import FreshImages
from monai_ifim.experiments.tasks.labelled import Split, balanced

SMALL = {"resnet18": 4, "cnn": 4, "vit": 24}


@pytest.fixture(scope="module")
def task():
    return load_task("signal_2d", train=1500, test=400)


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("shape", [(1, 32, 40), (2, 32, 40, 48)], ids=["2D", "3D"])
def test_architectures(name, shape):
    network = build_network(name, shape, 3, SMALL.get(name)).eval()
    assert network(torch.randn(2, *shape)).shape == (2, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("alexnet", (1, 32, 32), 2), "expected an architecture in"),
        (("densenet121", (1, 28, 28), 2), "at least 32 pixels"),
        (("efficientnet_b0", (1, 32, 32), 2, 8), "expected no width"),
    ],
)
def test_impossible_networks(arguments, message):
    with pytest.raises(ValueError, match=message):
        build_network(*arguments)


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "densenet41"])
def test_networks_without_their_max_pooling(name):
    with_pool, without = (
        build_network(name, (1, 32, 32, 32), 3, 4, max_pool=kept) for kept in (True, False)
    )
    pools = [
        sum(isinstance(module, torch.nn.MaxPool3d) for module in network.modules())
        for network in (with_pool, without)
    ]
    assert pools == [1, 0]
    assert with_pool.state_dict().keys() == without.state_dict().keys()
    assert without(torch.randn(2, 1, 32, 32, 32)).shape == (2, 3)


def test_a_network_that_has_no_max_pooling():
    with pytest.raises(ValueError, match=r"expected max_pool: true for vit, got false"):
        build_network("vit", (1, 32, 32), 2, max_pool=False)


def test_keys_of_trainings_from_before_max_pooling_was_a_choice(task):
    keys = [
        training_key(task, Variant("resnet18", max_pool=kept), Recipe()) for kept in (True, False)
    ]
    assert "max_pool" not in keys[0]["variant"]
    assert keys[1]["variant"]["max_pool"] is False
    # The key of an earlier version, in full.
    assert keys[0] == {
        "weights": 3,
        "task": task.train.digest(),
        "variant": {
            "architecture": "resnet18",
            "width": None,
            "seed": 0,
            "shuffled": False,
            "limit": None,
        },
        "recipe": {},
        "torch": torch.__version__,
    }


def test_strength_is_no_part_of_a_training_on_a_training_set(task):
    limited = Variant("cnn", limit=20)
    plain, strong = (Recipe(fresh=True, strength=s) for s in (1.0, 4.0))
    assert training_key(task, limited, plain) == training_key(task, limited, strong)


def test_training_learns_and_leaves_the_random_state(task):
    before = torch.get_rng_state()
    variant, recipe = Variant("cnn", width=8), Recipe(images=6000)
    first, second = (train(task, variant, recipe) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
    network = variant.build(task)
    network.load_state_dict(first)
    logits = logits_of(network, task.test.images)
    assert float((logits.argmax(dim=1) == task.test.labels).double().mean()) > 0.7
    assert not network.training


def test_variants_are_different_trainings(task):
    recipe = Recipe(images=100)
    keys = [
        str(training_key(task, variant, recipe))
        for variant in (
            Variant("cnn"),
            Variant("cnn", seed=1),
            Variant("cnn", shuffled=True),
            Variant("cnn", limit=100),
            Variant("cnn", width=8),
            Variant("vit"),
        )
    ]
    assert len(set(keys)) == len(keys)


def test_fresh_images_are_each_drawn_once(task):
    draws = FreshImages(task.signal, 16, 5, seed=0)
    first, again = list(draws), list(draws)
    for one, two in zip(first, again, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    images = torch.cat([batch for batch, _ in first])
    assert len(draws) == 5
    assert images.flatten(1).unique(dim=0).shape[0] == len(images) == 80
    other = next(iter(FreshImages(task.signal, 16, 5, seed=1)))[0]
    assert not torch.equal(other, first[0][0])
    mean = [
        torch.cat([x[y == k] for x, y in FreshImages(task.signal, 500, 4, 0)]).mean(0)
        for k in (0, 1)
    ]
    difference = (mean[1] - mean[0])[0].double()
    expected = task.signal.signals[0]
    assert float((difference * expected).sum() / expected.square().sum()) == pytest.approx(
        1, abs=0.2
    )


def test_stronger_signals_at_first(task):
    plain = list(FreshImages(task.signal, 16, 10, seed=0))
    draws = FreshImages(task.signal, 16, 10, seed=0, strength=3)
    added = torch.cat([torch.zeros_like(task.signal.signals[:1]), task.signal.signals]).float()
    for step, ((weak, labels), (strong, same)) in enumerate(zip(plain, draws, strict=True)):
        assert torch.equal(labels, same)
        more = max(0, 2 * (1 - step / 9)) * added[labels][:, None]
        torch.testing.assert_close(strong - weak, more, atol=1e-5, rtol=0)
    for (images, _), (settled, _) in zip(plain, draws.settled(), strict=True):
        assert torch.equal(images, settled)


def test_stronger_signals_at_first_help_a_short_training(task):
    """And batch statistics are those of images as they are tested."""
    variant = Variant("resnet18", width=4)
    recipe = Recipe(images=9600, batch_size=32, learning_rate=3e-3, warm_up=0.1, fresh=True)
    strong = recipe.model_copy(update={"strength": 3.0})
    assert training_key(task, variant, recipe) != training_key(task, variant, strong)
    aucs = []
    for each in (recipe, strong):
        network = variant.build(task)
        network.load_state_dict(train(task, variant, each))
        logits = logits_of(network, task.test.images)
        scores = classification_scores(task.test.labels, Categorical(), logits, resamples=10)
        aucs.append(scores["auc"]["value"])
    assert aucs[1] > aucs[0] + 0.1
    weights = network.state_dict()
    estimate_statistics(network, [x for x, _ in islice(FreshImages(task.signal, 32, 300, 0), 32)])
    assert all(torch.equal(value, weights[name]) for name, value in network.state_dict().items())


def test_the_width_of_a_densenet():
    wide, thin = (build_network("densenet121", (1, 32, 32), 2, width) for width in (None, 8))
    layers = [module for module in thin.modules() if isinstance(module, torch.nn.Conv2d)]
    assert layers[0].out_channels == 16
    assert layers[2].out_channels == 8
    assert len(list(wide.modules())) == len(list(thin.modules()))


def test_shuffled_fresh_labels_say_nothing(task):
    plain = list(FreshImages(task.signal, 400, 5, 0))
    shuffled = list(FreshImages(task.signal, 400, 5, 0, shuffled=True))
    assert torch.equal(plain[0][0], shuffled[0][0])
    score = torch.cat([task.signal.ideal_logits(x)[:, 1] for x, _ in shuffled])
    labels = torch.cat([y for _, y in shuffled]).double()
    assert abs(float(torch.corrcoef(torch.stack([score, labels]))[0, 1])) < 0.1


def test_a_fresh_training_depends_on_what_its_images_are_drawn_from(task):
    fresh, variant = Recipe(images=300, batch_size=16, fresh=True), Variant("cnn", width=4)
    more = load_task("signal_2d", train=20, test=30)
    assert training_key(task, variant, fresh) == training_key(more, variant, fresh)
    lumpy = load_task("lumpy_2d", train=20, test=30)
    assert training_key(task, variant, fresh) != training_key(lumpy, variant, fresh)
    # A limit asks for a training set.
    limited = Variant("cnn", width=4, limit=10)
    assert training_key(task, limited, fresh) != training_key(more, limited, fresh)
    weights = train(task, variant, fresh)
    same = train(more, variant, fresh)
    assert all(torch.equal(value, same[name]) for name, value in weights.items())
    other = train(task, variant, fresh.model_copy(update={"warm_up": 0.5}))
    assert not torch.equal(other["final.1.weight"], weights["final.1.weight"])


def test_shuffled_labels_are_a_permutation(task):
    plain = training_set(task, Variant("cnn"), torch.Generator())
    shuffled = training_set(task, Variant("cnn", shuffled=True), torch.Generator().manual_seed(0))
    assert torch.equal(plain.tensors[0], shuffled.tensors[0])
    assert plain.tensors[1].bincount().tolist() == shuffled.tensors[1].bincount().tolist()
    agree = (plain.tensors[1] == shuffled.tensors[1]).double().mean()
    assert abs(float(agree) - 0.5) < 0.08
    assert len(training_set(task, Variant("cnn", limit=70), torch.Generator())) == 70


def test_statistics_are_the_mean_over_batches():
    network = nn.Sequential(nn.BatchNorm2d(1, momentum=0.01), nn.Dropout(0.5))
    batches = [torch.randn(8, 1, 5, 6) + shift for shift in (1.0, 2.0)]
    estimate_statistics(network, batches)
    expected = torch.stack([batch.mean() for batch in batches]).mean()
    torch.testing.assert_close(network[0].running_mean[0], expected)
    assert network[0].momentum == 0.01
    assert not network[0].training


def test_a_diverging_training_is_noticed(task):
    with pytest.raises(ValueError, match="expected finite weights"):
        train(task, Variant("cnn", width=4), Recipe(images=640, learning_rate=1e30))


def test_balanced():
    labels = torch.tensor([0, 0, 0, 0, 1, 1, 2, 0])
    chosen = balanced(Split(torch.arange(8.0)[:, None], labels), 5)
    assert chosen.labels.tolist() == [0, 0, 1, 1, 2]
    assert chosen.images[:, 0].tolist() == [0, 1, 4, 5, 6]
    assert len(balanced(Split(torch.arange(8.0)[:, None], labels), 50)) == 8


@pytest.mark.parametrize("shape", [(1, 20, 16), (2, 12, 16, 10)], ids=["2D", "3D"])
def test_augmented_images_are_another_each_time_and_the_same_for_a_seed(shape):
    plain = torch.zeros(4, *shape)
    middle = tuple(slice(size // 2 - 2, size // 2 + 2) for size in shape[1:])
    plain[(..., *middle)] = 1.0
    data = TensorDataset(plain, torch.arange(4))
    one, other = (AugmentedImages(data, shape, 5) for _ in range(2))
    first, label = one[2]
    assert (type(first), first.shape, int(label), len(one)) == (torch.Tensor, shape, 2, 4)
    assert torch.equal(first, other[2][0])
    assert not torch.equal(first, one[2][0])
    # A little: what it shows is where it was, and as much of it.
    grids = torch.meshgrid(*(torch.arange(float(size)) for size in shape[1:]), indexing="ij")
    for axis, grid in enumerate(grids):
        centre = float((first[0] * grid).sum() / first[0].sum())
        assert abs(centre - (shape[1 + axis] / 2 - 0.5)) < 0.1 * shape[1 + axis]
    assert 0.5 < float(first.sum() / plain[2].sum()) < 1.5


def test_augmentation_is_part_of_the_recipe(task):
    variant, recipe = Variant("cnn", width=4), Recipe(images=400)
    augmented = recipe.model_copy(update={"augmented": True})
    assert training_key(task, variant, recipe) != training_key(task, variant, augmented)
    before = torch.get_rng_state()
    weights, again, plain = (train(task, variant, r) for r in (augmented, augmented, recipe))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    assert any(not torch.equal(weights[name], plain[name]) for name in weights)


def test_weights_are_laid_out_as_usual(task):
    weights = train(task, Variant("cnn", width=4), Recipe(images=100))
    assert all(value.is_contiguous() for value in weights.values())
