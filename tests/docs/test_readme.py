"""The README's blocks run as they stand, and its table is the list of public names."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import monai_ifim
from _helpers.pages import ROOT, blocks

README = (ROOT / "README.md").read_text()


def run(command: list[str], folder: Path) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command, cwd=folder, env=os.environ | {"PATH": path}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_short_enough():
    assert len(README.splitlines()) <= 120


def test_three_ways_in():
    assert len(blocks("../README.md", "python")) == 2
    assert len(blocks("../README.md", "bash")) == 1


@pytest.mark.parametrize("number", range(2))
def test_python_block(number: int, tmp_path: Path):
    out = run([sys.executable, "-c", blocks("../README.md", "python")[number]], tmp_path)
    assert out.strip()


def test_bash_block(tmp_path: Path):
    (tmp_path / "bundles").symlink_to(ROOT / "bundles")
    run(["bash", "-euc", blocks("../README.md", "bash")[0]], tmp_path)
    results = tmp_path / "results"
    assert len(list(results.glob("*_ifim_high.nii.gz"))) == 4
    assert len((results / "ifim.csv").read_text().splitlines()) == 5
    assert (results / "sheet.png").stat().st_size > 10_000


def test_all_blocks_in_order_in_one_folder_lose_nothing(tmp_path: Path):
    (tmp_path / "bundles").symlink_to(ROOT / "bundles")
    run(["bash", "-euc", blocks("../README.md", "bash")[0]], tmp_path)
    results = tmp_path / "results"
    before = {p: p.read_bytes() for p in results.rglob("*") if p.is_file()}
    for block in blocks("../README.md", "python"):
        run([sys.executable, "-c", block], tmp_path)
    assert {p: p.read_bytes() for p in results.rglob("*") if p.is_file()} == before
    # A hook that writes to the same folder is refused, and still nothing is lost.
    (hook,) = (block for block in blocks("../README.md", "python") if "IFIMHandler" in block)
    same = re.sub(r'output_dir="\w+"', 'output_dir="results"', hook)
    done = subprocess.run(
        [sys.executable, "-c", same], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode != 0
    assert "expected no results of another run in results" in done.stderr
    assert {p: p.read_bytes() for p in results.rglob("*") if p.is_file()} == before


def test_names_in_the_table():
    table = re.search(r"^\| name \|.*?\n\n", README, flags=re.MULTILINE | re.DOTALL)
    assert table
    rows = table.group(0).strip().splitlines()[2:]
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    assert named == set(monai_ifim.__all__)


def test_links_and_pictures_exist():
    targets = re.findall(r"\]\(([^)#]+)\)", README)
    missing = [t for t in targets if "://" not in t and not (ROOT / t).exists()]
    assert not missing
