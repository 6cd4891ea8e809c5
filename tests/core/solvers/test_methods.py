"""What every method holds to, whichever it is."""

import pytest
import torch

import monai_ifim as mi
from _helpers.problems import smooth_images, smooth_network
from _helpers.untouched import assert_untouched, snapshot
from monai_ifim.core.solvers import METHODS, as_solver


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("outputs", [4, 90])
def test_leading_eigenpairs_of_any_method(name, outputs):
    network, images = smooth_network(2, outputs), smooth_images(2)
    before = snapshot(network, images)
    truth = mi.eigenspace(network, images, method="exact")
    space = mi.eigenspace(network, images, method=name, rank=2)
    assert space.eigenvalues.shape == (len(images), 2)
    torch.testing.assert_close(space.eigenvalues, truth.eigenvalues[:, :2], rtol=1e-3, atol=1e-15)
    assert (space.eigenvalues <= truth.eigenvalues[:, :2] * (1 + 1e-9)).all()
    vectors = space.eigenvectors.flatten(2)
    identity = torch.eye(2, dtype=vectors.dtype).expand(len(images), -1, -1)
    torch.testing.assert_close(vectors @ vectors.transpose(1, 2), identity, rtol=0, atol=1e-6)
    assert_untouched(before, network, images)


@pytest.mark.parametrize("name", METHODS)
def test_a_name_and_its_object_are_the_same(name):
    solver = as_solver(name)
    assert type(solver) is METHODS[name]
    assert as_solver(solver) is solver


@pytest.mark.parametrize("method", [mi.Exact, None, 3])
def test_what_is_no_method(method):
    with pytest.raises(ValueError, match=r"an object such as Exact\(\)"):
        mi.eigenspace(smooth_network(2, 3), smooth_images(2), method=method)
