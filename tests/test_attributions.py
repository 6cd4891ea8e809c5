"""The sensitivity map as an explanation function of Quantus."""

import numpy as np
import pytest
import torch
from torch import nn

import monai_ifim as mi
from _helpers.comparisons import assert_close
from _helpers.oracle import fisher
from _helpers.problems import smooth_images, smooth_network
from _helpers.untouched import assert_untouched, snapshot
from monai_ifim.attributions import sensitivity_inside


def test_the_root_of_the_diagonal_of_a_dense_matrix():
    network, images = smooth_network(2, 3), smooth_images(2)
    before = snapshot(network, images)
    found = mi.quantus_explain(network, images.numpy(), np.zeros(len(images)))
    assert_untouched(before, network, images)
    diagonal = fisher(network, images, "categorical").diagonal(dim1=1, dim2=2)
    assert_close(torch.from_numpy(found), diagonal.sqrt().view_as(images))


def test_a_map_inside_a_pooled_eigenspace(tmp_path):
    network, images = smooth_network(2, 3), smooth_images(2)
    pooled = mi.pooled_eigenspace(network, images, rank=2)
    pooled.save(tmp_path / "pooled.safetensors")
    found = mi.quantus_explain(network, images, space=tmp_path / "pooled.safetensors", rank=2)
    vectors = pooled.eigenvectors.flatten(1)
    projection = vectors.T @ vectors
    dense = projection @ fisher(network, images, "categorical") @ projection
    expected = dense.diagonal(dim1=1, dim2=2).sqrt().view_as(images)
    assert_close(torch.from_numpy(found), expected)
    whole = mi.pooled_eigenspace(network, images[:2], rank=40, sketch=40)
    space = mi.eigenspace(network, images[:2])  # all its directions are in the pooled one
    assert_close(sensitivity_inside(space, whole), space.sensitivity())


def test_a_smoothed_map_and_other_families():
    network, images = smooth_network(2, 3), smooth_images(2)
    found = mi.quantus_explain(
        network, images, noise=0.1, samples=3, seed=5, likelihood="bernoulli"
    )
    space = mi.smoothed_eigenspace(
        network, images, noise=0.1, samples=3, seed=5, likelihood="bernoulli"
    )
    assert_close(torch.from_numpy(found), space.sensitivity().sqrt())


def test_arrays_of_another_precision_go_to_the_networks_own():
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    found = mi.quantus_explain(network, np.ones((2, 1, 4, 4), dtype=np.float64), [0, 1])
    assert found.shape == (2, 1, 4, 4)
    assert found.dtype == np.float64


def test_a_misspelt_option():
    with pytest.raises(TypeError, match="did you mean 'likelihood'"):
        mi.quantus_explain(smooth_network(2, 3), smooth_images(2), likelihoods="bernoulli")
