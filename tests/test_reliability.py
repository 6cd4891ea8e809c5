"""Disturbed runs in short; all of it: ``python -m benchmarks.reliability``."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import reliability, reliability_page

ROOT = Path(__file__).parents[1]


def disturb(folder: Path, *cases: str, times: int) -> dict[str, dict]:
    command = [sys.executable, "-m", "benchmarks.reliability", "--times", str(times)]
    command += ["--output", str(folder), "--only", *cases]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    results = {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}
    assert set(results) == set(cases), done.stderr[-3000:]
    for result in results.values():
        assert result["trials_that_lost_something"] == 0, result["details"]
    assert done.returncode == 0, done.stderr[-3000:]
    return results


def test_kills_signals_and_a_network_that_raises(tmp_path: Path):
    results = disturb(tmp_path, "kills", "signals", "raising", "vanished", times=2)
    assert [result["trials"] for result in results.values()].count(2) == 3
    assert results["signals"]["trials"] == 4
    # The moments were such that there was something to lose.
    assert any(trial["kept"] for trial in results["signals"]["details"])


@pytest.mark.slow
def test_workers_and_two_runs(tmp_path: Path):
    disturb(tmp_path, "workers", "two_runs", times=3)


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_full_disk(tmp_path: Path):
    disturb(tmp_path, "full_disk", times=3)


@pytest.mark.slow
def test_a_rank_of_torchrun(tmp_path: Path):
    disturb(tmp_path, "torchrun", times=1)


@pytest.mark.parametrize(
    ("change", "good"),
    [
        ({}, True),
        ({"lost": ["a"]}, False),
        ({"different": ["a"]}, False),
        ({"left_over": ["a"]}, False),
        ({"status": 1}, False),
        ({"kept_promises": {"one": True, "two": False}}, False),
    ],
)
def test_what_counts_as_a_loss(change: dict, good: bool):
    trial = {"lost": [], "different": [], "status": 0, "kept_promises": {"one": True}}
    assert reliability.is_good(trial | change) is good


def test_the_page_is_made_from_the_results():
    page = (ROOT / "docs" / "reliability.md").read_text()
    assert page == reliability_page.page()
    for name, (_, times) in reliability.CASES.items():
        result = json.loads((reliability_page.FOLDER / f"{name}.json").read_text())
        assert result["trials"] == times * (2 if name == "signals" else 1)
        assert result["trials_that_lost_something"] == 0
