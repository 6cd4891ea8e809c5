"""Results on disk: found again by their key, never half written."""

import pytest
import torch

from monai_ifim.experiments.steps import Steps, digest


def test_a_stopped_run_goes_on(tmp_path):
    lines = []
    calls = []

    def compute():
        calls.append(1)
        return {"values": torch.arange(3.0), "names": ["a", "b"], "none": None}

    for _ in range(2):
        steps = Steps(tmp_path / "cache", say=lines.append)
        found = steps.run("one thing", {"a": 1, "b": [1, 2]}, compute)
        assert found["values"].tolist() == [0, 1, 2]
    assert len(calls) == 1
    assert steps.reused == 1
    assert steps.seconds > 0  # of the run that computed it
    assert "done in an earlier run" in lines[1]
    assert steps.run("one thing", {"a": 2, "b": [1, 2]}, lambda: 7) == 7


def test_the_order_of_a_key_does_not_matter(tmp_path):
    steps = Steps(tmp_path)
    steps.run("x", {"a": 1, "b": 2}, lambda: 1)
    assert steps.run("x", {"b": 2, "a": 1}, lambda: 2) == 1


def test_an_error_leaves_nothing(tmp_path):
    steps = Steps(tmp_path)

    def fail():
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        steps.run("x", {}, fail)
    assert not list(tmp_path.iterdir())
    assert steps.run("x", {}, lambda: 5) == 5


def test_digest_sees_values_shapes_and_types():
    a = torch.arange(6.0)
    different = [a, a + 1, a.view(2, 3), a.double(), a.long()]
    assert len({digest(value) for value in different}) == 5
    assert digest(a.view(2, 3).T) == digest(a.view(2, 3).T.contiguous())
    assert digest("a", "b") != digest("b", "a")
