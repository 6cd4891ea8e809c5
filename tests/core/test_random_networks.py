"""Random networks over twelve decades of inputs against the dense Fisher matrix.

The long form: ``pytest -m slow -s tests/core/test_random_networks.py`` prints the worst errors, and
with ``RELIABILITY=docs/reliability`` keeps them there.
"""

import json
import os
from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel

import monai_ifim as mi
from _helpers.random_networks import errors, problems

METHODS = ("exact", "auto", "truncated", "krylov")
BOUND = 1e-9
# Their own tolerances are far above the bound.
TIGHT = {"truncated": mi.Truncated(tolerance=1e-12), "krylov": mi.Krylov(tolerance=1e-10)}
BACKENDS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
FEW, MANY = 12, 1500


def options(count):
    return settings(
        deadline=None,
        max_examples=count,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.too_slow],
    )


def space_of(network, images, family, method):
    rank = {"rank": 1} if method == "krylov" else {}
    # Fused attention has no second derivative, and says so.
    with sdpa_kernel(SDPBackend.MATH if method == "krylov" else BACKENDS):
        return mi.eigenspace(
            network, images, likelihood=family, method=TIGHT.get(method, method), **rank
        )


def compare(count):
    """Worst errors by method, and how many problems they are of."""
    worst: dict[str, float] = {}
    seen: Counter[str] = Counter()

    @options(count)
    @given(problems(), st.sampled_from(METHODS))
    def run(problem, method):
        network, images, family = problem
        space = space_of(network, images, family, method)
        found = errors(space, network, images, family)
        if method == "krylov":  # the leading pair alone
            del found["matrix"]
        seen[method] += 1
        for name, error in found.items():
            key = f"{method}, {name}"
            worst[key] = max(worst.get(key, 0.0), error)
            assert error <= BOUND, key

    run()
    return worst, seen


def test_against_the_dense_matrix():
    worst, seen = compare(FEW)
    assert sum(seen.values()) >= FEW
    assert all(error <= BOUND for error in worst.values())


@pytest.mark.slow
def test_worst_errors_of_many():
    worst, seen = compare(MANY)
    assert set(seen) == set(METHODS)
    result = {
        "case": "networks",
        "command": "pytest -m slow -s tests/core/test_random_networks.py",
        "problems": dict(sorted(seen.items())),
        "worst": dict(sorted(worst.items())),
        "bound": BOUND,
    }
    print(json.dumps(result, indent=1))
    if folder := os.environ.get("RELIABILITY"):
        Path(folder, "networks.json").write_text(json.dumps(result, indent=1) + "\n")


@options(FEW)
@given(problems(), st.sampled_from(METHODS))
def test_two_runs_are_bit_equal_and_images_do_not_depend_on_their_batch(problem, method):
    network, images, family = problem
    first, second = (space_of(network, images, family, method) for _ in range(2))
    assert torch.equal(first.eigenvalues, second.eigenvalues)
    assert torch.equal(first.eigenvectors, second.eigenvectors)
    for index in range(len(images)):
        alone = space_of(network, images[index : index + 1], family, method)
        error = (alone.eigenvalues[0] - first.eigenvalues[index]).abs().max()
        assert error <= BOUND * first.trace[index]


class Changed(torch.nn.Module):
    """The logits of a network, shifted by one number and in another order."""

    def __init__(self, network, order, shift):
        super().__init__()
        self.network, self.order, self.shift = network, order, shift

    def forward(self, x):
        return self.network(x)[:, self.order] + self.shift


@options(FEW)
@given(problems(), st.sampled_from([-40.0, 0.0, 7.0]), st.randoms(use_true_random=False))
def test_a_shift_of_the_logits_and_another_order_of_the_classes(problem, shift, dice):
    network, images, family = problem
    order = list(range(network[-1].out_features))
    dice.shuffle(order)
    # A shift says something else to sigmoids.
    changed = Changed(network, order, shift if family == "categorical" else 0.0)
    before, after = (mi.eigenspace(n, images, likelihood=family) for n in (network, changed))
    error = (before.eigenvalues - after.eigenvalues).abs()
    assert (error <= BOUND * before.trace[:, None]).all()
