"""Scores against the definition in high precision, detection against scikit-learn."""

import gc
import math
import weakref
from itertools import product

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

from monai_ifim.experiments.measures import spectra
from monai_ifim.experiments.measures.detection import corruption_detection, error_detection
from monai_ifim.experiments.measures.spectra import SCORES, prediction_scores
from monai_ifim.metrics import effective_rank

SHAPE = (7, 2, 3, 5)
PIXELS = 30


class Linear(nn.Module):
    """Logits W x + b in float64."""

    def __init__(self, outputs, scale=0.4, seed=0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        weight = torch.randn(outputs, PIXELS, generator=generator, dtype=torch.float64)
        self.weight = nn.Parameter(scale * weight)
        self.bias = nn.Parameter(torch.linspace(-0.5, 1, outputs).double())

    def forward(self, x):
        return x.flatten(1) @ self.weight.T + self.bias


class Fixed(nn.Module):
    """The given logits for any image."""

    def __init__(self, logits):
        super().__init__()
        self.register_buffer("logits", torch.tensor(logits, dtype=torch.float64))

    def forward(self, x):
        return self.logits[: len(x)] + 0.0 * x.flatten(1).sum(dim=1, keepdim=True)


def images(seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(SHAPE, generator=generator, dtype=torch.float64)


def dense_eigenvalues(weight, covariance):
    """Eigenvalues of F = Wᵀ C W, (N,) descending, from the N x N matrix."""
    return torch.linalg.eigvalsh(weight.T @ covariance @ weight).flip(0)


def test_linear_softmax():
    network, x = Linear(4), images()
    scores = prediction_scores(network, x)
    weight = network.weight.detach()
    p = torch.softmax(network(x), dim=1).detach()
    for i, row in enumerate(p):
        covariance = torch.diag(row) - torch.outer(row, row)
        values = dense_eigenvalues(weight, covariance)
        # trace F = sum over c of p_c |w_c - mean w|²
        trace = (row * (weight - row @ weight).square().sum(dim=1)).sum()
        torch.testing.assert_close(scores["trace"][i], trace)
        torch.testing.assert_close(scores["largest_eigenvalue"][i], values[0])
        torch.testing.assert_close(scores["effective_rank"][i], effective_rank(values[:3]))
    torch.testing.assert_close(scores["entropy"], -(p * p.log()).sum(dim=1))
    torch.testing.assert_close(scores["uncertainty"], 1 - p.amax(dim=1))
    torch.testing.assert_close(scores["probabilities"], p)
    assert torch.equal(scores["predicted"], p.argmax(dim=1))


def test_linear_sigmoids():
    network, x = Linear(3), images()
    scores = prediction_scores(network, x, likelihood="bernoulli")
    weight = network.weight.detach()
    p = torch.sigmoid(network(x)).detach()
    for i, row in enumerate(p):
        values = dense_eigenvalues(weight, torch.diag(row * (1 - row)))
        torch.testing.assert_close(scores["trace"][i], values.sum())
        torch.testing.assert_close(scores["largest_eigenvalue"][i], values[0])
        torch.testing.assert_close(scores["effective_rank"][i], effective_rank(values[:3]))
        # the eight outcomes, written out
        outcomes = torch.stack(
            [
                torch.where(torch.tensor(o).bool(), row, 1 - row).prod()
                for o in product((0, 1), repeat=3)
            ]
        )
        torch.testing.assert_close(scores["entropy"][i], -(outcomes * outcomes.log()).sum())
        torch.testing.assert_close(scores["uncertainty"][i], 1 - outcomes.max())
    torch.testing.assert_close(scores["probabilities"], p)
    assert torch.equal(scores["predicted"], (p > 0.5).long())


def test_one_sigmoid_is_two_classes():
    x = images()
    one = Linear(1, seed=3)
    two = Linear(2)
    with torch.no_grad():
        two.weight[0], two.weight[1] = 0, one.weight[0]
        two.bias[0], two.bias[1] = 0, one.bias[0]
    sigmoid = prediction_scores(one, x, likelihood="bernoulli")
    softmax = prediction_scores(two, x)
    for name in (*SCORES, "effective_rank"):
        torch.testing.assert_close(sigmoid[name], softmax[name])
    assert torch.equal(sigmoid["predicted"], softmax["predicted"])
    assert sigmoid["probabilities"].shape == (7, 1)


@pytest.mark.parametrize("gap", [1.0, 50.0, 300.0, 700.0])
def test_sure_predictions_keep_their_digits(gap):
    rare = math.exp(-gap)
    x = images()[:1]
    three = prediction_scores(Fixed([[2.0, 2 - gap, 2 - gap]]), x)
    uncertainty = 2 * rare / (1 + 2 * rare)
    entropy = math.log1p(2 * rare) + uncertainty * gap
    assert three["uncertainty"].item() == pytest.approx(uncertainty, rel=1e-13, abs=0)
    assert three["entropy"].item() == pytest.approx(entropy, rel=1e-13, abs=0)
    two = prediction_scores(Fixed([[gap, -gap - 1]]), x, likelihood="bernoulli")
    wrong, other = rare / (1 + rare), rare / (math.e + rare)
    assert two["uncertainty"].item() == pytest.approx(
        wrong + other - wrong * other, rel=1e-13, abs=0
    )
    entropy = math.log1p(rare) + gap * wrong + math.log1p(rare / math.e) + (gap + 1) * other
    assert two["entropy"].item() == pytest.approx(entropy, rel=1e-13, abs=0)


def test_ties_of_the_most_probable_class():
    scores = prediction_scores(Fixed([[2.0, 2.0, 2.0]]), images()[:1])
    assert scores["uncertainty"].item() == pytest.approx(2 / 3)
    assert scores["entropy"].item() == pytest.approx(math.log(3))
    assert scores["effective_rank"].item() == scores["trace"].item() == 0


def test_batches_change_nothing_and_are_reported():
    network, x = Linear(4), images()
    seen = []
    scores = prediction_scores(network, x, batch_size=3, progress=lambda *n: seen.append(n))
    assert seen == [(3, 7), (6, 7), (7, 7)]
    whole = prediction_scores(network, x)
    assert set(scores) == {*SCORES, "effective_rank", "probabilities", "predicted"}
    for name, value in scores.items():
        torch.testing.assert_close(value, whole[name])
        assert value.dtype == (torch.int64 if name == "predicted" else torch.float64)


def test_one_eigenspace_at_a_time(monkeypatch):
    spaces = []
    computed = spectra.eigenspace

    def watched(*args, **options):
        gc.collect()
        assert not any(space() for space in spaces)
        space = computed(*args, **options)
        spaces.append(weakref.ref(space))
        return space

    monkeypatch.setattr(spectra, "eigenspace", watched)
    prediction_scores(Linear(3), images(), batch_size=2)
    assert len(spaces) == 4


def test_float32_networks_and_other_outputs():
    network, x = Linear(3), images()
    exact = prediction_scores(network, x)

    def wrapped(output):
        return output["logits"]

    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = Linear(3).float()

        def forward(self, x):
            return {"logits": self.network(x)}

    scores = prediction_scores(Wrapped(), x.float(), output_transform=wrapped)
    for name in (*SCORES, "effective_rank", "probabilities"):
        assert scores[name].dtype == torch.float64
        torch.testing.assert_close(scores[name], exact[name], rtol=1e-4, atol=1e-6)


def some_scores(count, seed=0, shift=0.0):
    random = torch.Generator().manual_seed(seed)
    scores = {
        name: torch.rand(count, generator=random, dtype=torch.float64) + shift for name in SCORES
    }
    scores["trace"] = scores["trace"].round(decimals=1)
    scores["predicted"] = torch.randint(3, (count,), generator=random)
    return scores


def test_wrong_predictions_are_the_positive_ones():
    scores = some_scores(60)
    labels = torch.where(torch.arange(60) % 4 == 0, scores["predicted"] - 1, scores["predicted"])
    found = error_detection(scores, labels, resamples=50)
    assert list(found) == list(SCORES)
    wrong = np.arange(60) % 4 == 0
    for name in SCORES:
        assert found[name].value == pytest.approx(roc_auc_score(wrong, scores[name]))
        assert found[name].count == 60
        assert found[name].low < found[name].value < found[name].high
    scores["entropy"] = torch.from_numpy(wrong).double()
    assert error_detection(scores, labels, resamples=50)["entropy"].low == 1
    scores["entropy"] *= -1
    assert error_detection(scores, labels, resamples=50)["entropy"].high == 0


def test_several_labels_are_wrong_together():
    scores = some_scores(20)
    scores["predicted"] = torch.zeros(20, 2, dtype=torch.int64)
    labels = torch.zeros(20, 2, dtype=torch.int64)
    labels[:4, 0] = 1
    labels[3:8, 1] = 1
    found = error_detection(scores, labels, resamples=50)
    assert found["trace"].value == pytest.approx(roc_auc_score(np.arange(20) < 8, scores["trace"]))


@pytest.mark.parametrize(("errors", "known"), [(4, False), (5, True), (15, True), (16, False)])
def test_too_few_of_either_kind_have_no_area(errors, known):
    scores = some_scores(20)
    labels = scores["predicted"].clone()
    labels[:errors] += 1
    assert (error_detection(scores, labels, resamples=20) is not None) == known


def test_labels_of_another_shape():
    with pytest.raises(ValueError, match="expected labels of shape"):
        error_detection(some_scores(20), torch.zeros(20, 1))


def test_corrupted_images_are_the_positive_ones():
    clean, corrupted = some_scores(30), some_scores(30, seed=1, shift=0.3)
    found = corruption_detection(clean, corrupted, resamples=50)
    assert list(found) == list(SCORES)
    labels = np.repeat([0, 1], 30)
    for name in SCORES:
        both = torch.cat([clean[name], corrupted[name]])
        assert found[name].value == pytest.approx(roc_auc_score(labels, both))
        assert found[name].count == 30
        assert found[name].value > 0.5
    back = corruption_detection(corrupted, clean, resamples=50)
    assert all(back[name].value == pytest.approx(1 - found[name].value) for name in SCORES)
    same = corruption_detection(clean, clean, resamples=50)
    assert all((i.low, i.value, i.high) == (0.5, 0.5, 0.5) for i in same.values())


class Foreign:
    pass


def test_impossible_requests():
    with pytest.raises(ValueError, match="batch_size >= 1"):
        prediction_scores(Linear(3), images(), batch_size=0)
    with pytest.raises(ValueError, match="expected a family with the methods entropy"):
        prediction_scores(Linear(3), images(), likelihood=Foreign())
    with pytest.raises(ValueError, match="expected"):
        prediction_scores(Linear(3), images()[:0])
    short = some_scores(29)
    with pytest.raises(ValueError, match="of the same images"):
        corruption_detection(short, some_scores(30))
