"""Soak and fuzz in short; all of it: ``make soak``, ``make fuzz``."""

import json
import random
from pathlib import Path

import pytest

from benchmarks import fuzz, fuzz_files, reliability_page, soak

ROOT = Path(__file__).parents[1]


def test_soak(tmp_path):
    status = soak.main(["--images", "60", "--times", "20", "--output", str(tmp_path)])
    result = json.loads((tmp_path / "soak.json").read_text())
    # So few images say nothing about a slope.
    assert not set(result["faults"]) - {f"expected at most {soak.SLOPE} MB per 1,000 images"}
    assert status == bool(result["faults"])
    assert (result["rows"], result["volumes"]) == (60, 120)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rows", 9),
        ("rows_without_result", 1),
        ("volumes", 19),
        ("megabytes_per_1000_images", 50.0),
        ("open_files", [8, 9]),
        ("tensors_with_a_graph", [0, 1]),
        ("tensors", [10, 11]),
        ("attached", {"times": 10, "handlers_left": 1, "objects_left": 0}),
        ("attached", {"times": 10, "handlers_left": 0, "objects_left": 10}),
    ],
)
def test_what_counts_as_a_leak(name, value):
    good = {
        "images": 10,
        "rows": 10,
        "rows_without_result": 0,
        "volumes": 20,
        "megabytes_per_1000_images": 0.0,
        "open_files": [8, 8],
        "tensors_with_a_graph": [0, 0],
        "tensors": [10, 10],
        "attached": {"times": 10, "handlers_left": 0, "objects_left": 0},
    }
    assert soak.faults(good) == []
    assert len(soak.faults(good | {name: value})) == 1


def test_fuzz(tmp_path):
    assert fuzz.main(["--files", "60", "--output", str(tmp_path), "--seed", "3"]) == 0
    result = json.loads((tmp_path / "fuzz.json").read_text())
    assert sum(result["rows"].values()) == 60
    assert min(result["rows"].values()) > 0


@pytest.mark.parametrize("how", fuzz_files.MUTATIONS)
def test_files_are_damaged(how):
    name, content = next(iter(fuzz_files.originals(ROOT / "none").items()))
    changed = [fuzz_files.mutated(name, content, how, random.Random(i)) for i in range(20)]
    assert sum(each != content for each in changed) > 10
    assert changed[3] == fuzz_files.mutated(name, content, how, random.Random(3))


@pytest.mark.parametrize("case", ["soak", "fuzz"])
def test_committed_results_have_no_fault(case):
    result = json.loads((reliability_page.FOLDER / f"{case}.json").read_text())
    assert result["faults"] == []


def test_committed_errors_of_random_networks_are_within_their_bound():
    result = json.loads((reliability_page.FOLDER / "networks.json").read_text())
    assert sum(result["problems"].values()) >= 1000
    assert max(result["worst"].values()) <= result["bound"]
