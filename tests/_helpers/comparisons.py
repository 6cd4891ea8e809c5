"""Tensors compared with a tolerance that says relative to what."""

import torch


def assert_close(actual, expected, tolerance=1e-5):
    """Equal relative to the largest value of each."""
    actual, expected = (torch.as_tensor(t).as_subclass(torch.Tensor) for t in (actual, expected))
    assert actual.shape == expected.shape
    distance = (actual.double() - expected.double()).abs().max()
    assert distance <= tolerance * expected.double().abs().max()


def relative_error(ours, theirs):
    """Norm of the difference by the norm of what is right."""
    return float((ours.double() - theirs.double()).norm() / theirs.double().norm())
