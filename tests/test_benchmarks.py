"""The benchmarks still run, at a tiny size."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_eigenspace_against_its_floor(tmp_path: Path):
    command = [sys.executable, str(ROOT / "benchmarks" / "eigenspace.py"), "--quick"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len([line for line in lines if "floor" in line]) == 2
