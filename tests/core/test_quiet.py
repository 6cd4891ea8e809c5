"""No warning of torch's own reaches a user whose network gives no cause for one."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize("method", ["exact", "krylov", "truncated"])
def test_the_first_call_of_a_process_is_silent(method: str):
    """Torch prepares forward mode at its first use; newer versions warn about how they do it."""
    code = f"""
import logging, warnings
import torch
from monai_ifim import eigenspace
logging.basicConfig(level=logging.INFO)  # also says when forward mode has been given up
warnings.simplefilter("error")
network = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.Flatten(), torch.nn.Tanh(),
                              torch.nn.Linear(24, 40))
print(eigenspace(network, torch.rand(2, 1, 6, 5), method={method!r}, rank=3).rank.tolist())
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.stderr == ""
    assert done.stdout == "[3, 3]\n"
