"""Runs on the Ray engine as commands: begun, disturbed from outside, and what they leave."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from _helpers.commands import files_of

ROOT = Path(__file__).parents[2]


def command(bundle: Path, images: Path, output: Path, *further: object) -> list[str]:
    words = ["--bundle", bundle, "--input", images, "--output", output, *further]
    return [sys.executable, "-m", "monai_ifim", "run", *map(str, words)]


def on_ray(bundle: Path, images: Path, output: Path, *further: object) -> subprocess.Popen:
    """The command, begun; its output goes to a file, which a killed one's helpers keep open."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    words = command(bundle, images, output, "--engine", "ray", *further)
    with output.with_suffix(".log").open("w") as log:
        return subprocess.Popen(
            words,
            stdout=log,
            stderr=log,
            env=environment,
            cwd=output.parent,
            start_new_session=True,
        )


def ended(process: subprocess.Popen, output: Path, status: int = 0) -> str:
    """What the command has printed when it ended with a status."""
    found = process.wait(240)
    text = output.with_suffix(".log").read_text()
    assert found == status, text
    assert "Traceback" not in text
    assert "core_worker" not in text
    assert "logging.cc" not in text
    assert "(raylet)" not in text
    return text


def wait_until(condition, process: subprocess.Popen, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it takes too long"
        assert process.poll() is None, "it has ended before"
        time.sleep(0.02)


def same_bytes(output: Path, expected: Path, but: str = "no file") -> None:
    """The same files with the same bytes, but for those of one image, and the same rows."""
    ours, theirs = files_of(output), files_of(expected)
    kept = {name for name in theirs if but not in name}
    assert set(ours) - kept <= {name for name in theirs if but in name}
    for name in kept:
        mine, other = ours[name].read_bytes(), theirs[name].read_bytes()
        if but != "no file" and name.endswith(".csv"):
            rows = [[r for r in t.splitlines() if but.encode() not in r] for t in (mine, other)]
            assert rows[0] == rows[1]
        else:
            assert mine == other, name


def record(output: Path) -> dict:
    return json.loads((output / "run.json").read_text())


def processes_of(session: int) -> dict[int, str]:
    """Processes that descend from one, as their names show, and those of its session."""
    parents, names = {}, {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            text = (path / "stat").read_text()
            names[int(path.name)] = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        parents[int(path.name)] = int(text.rpartition(")")[2].split()[1])
    found = {session}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return {pid: names[pid] for pid in found if pid in names}


def gone(pids, seconds: float = 60) -> list[int]:
    """Those of some processes that are still there after some seconds."""
    end = time.monotonic() + seconds
    while left := [pid for pid in pids if _alive(pid)]:
        if time.monotonic() > end:
            break
        time.sleep(0.2)
    return left


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def listening(pids) -> list[str]:
    """Addresses, as the kernel writes them, on which processes listen."""
    sockets = set()
    for pid in pids:
        try:
            names = [os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir()]
        except OSError:
            continue
        sockets |= {name[8:-1] for name in names if name.startswith("socket:[")}
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and words[9] in sockets:
                found.append(words[1])
    return found
