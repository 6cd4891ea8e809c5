"""The pooled eigenspace of scans by the plain call, and how it is compared."""

import pytest
import torch

import monai_ifim as mi
from _helpers.networks import smooth_network
from _helpers.scans import dataset


def images_of(files):
    return torch.stack([item["image"].as_tensor() for item in dataset(files)])


def plain(files, seed=0, **options):
    """The plain call on the same images."""
    return mi.pooled_eigenspace(smooth_network(3, seed=seed), images_of(files), **options)


def assert_same(one, other, digits=1e-5):
    torch.testing.assert_close(one.eigenvalues, other.eigenvalues, rtol=digits, atol=digits)
    assert one.count == other.count
    assert float(one.angles(other, rank=1).max()) < 1e-3
    assert one.trace == pytest.approx(other.trace)
    assert one.effective_count == pytest.approx(other.effective_count)
