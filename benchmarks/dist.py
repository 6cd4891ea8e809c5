"""Wheel and sdist of the committed files, built twice and compared byte by byte.

python -m benchmarks.dist dist
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
BUILD = "from setuptools import build_meta as b; b.build_sdist('built'); b.build_wheel('built')"


def build(place: Path, epoch: int) -> dict[str, bytes]:
    """Build the files that git knows, as they are in the working tree.

    Args:
        place: an empty folder.
        epoch: seconds since 1970 that stand for every time.

    Returns:
        Content of wheel and sdist by name.

    Raises:
        RuntimeError: setuptools cannot build them.
    """
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, place / name)
            (place / name).chmod(0o755 if os.access(ROOT / name, os.X_OK) else 0o644)
    environment = os.environ | {"SOURCE_DATE_EPOCH": str(epoch)}
    (place / "built").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", BUILD], cwd=place, env=environment, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    found = {path.name: path.read_bytes() for path in (place / "built").iterdir()}
    return {
        name: repacked(content, epoch) if name.endswith(".tar.gz") else content
        for name, content in found.items()
    }


def repacked(content: bytes, epoch: int) -> bytes:
    """An sdist with one time, one owner and one order; setuptools takes those of the disk.

    Args:
        content: of a ``.tar.gz``.
        epoch: the time.

    Returns:
        The content, with the same files.
    """
    packed = io.BytesIO()
    with (
        tarfile.open(fileobj=io.BytesIO(content)) as old,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as new,
    ):
        for member in sorted(old.getmembers(), key=lambda member: member.name):
            member.mtime, member.pax_headers = epoch, {}
            member.uid = member.gid = 0
            member.uname = member.gname = ""
            member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
            new.addfile(member, old.extractfile(member) if member.isfile() else None)
    return gzip.compress(packed.getvalue(), 9, mtime=epoch)


def main(output: Path) -> int:
    """Build twice, write what is equal; the status is 1 where a byte differs."""
    command = ["git", "log", "-1", "--format=%ct"]
    epoch = int(subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout)
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        first, second = build(Path(one), epoch), build(Path(other), epoch)
    output.mkdir(parents=True, exist_ok=True)
    for name, content in sorted(first.items()):
        if second.get(name) != content:
            print(f"{name} differs between two builds")
            return 1
        (output / name).write_bytes(content)
        print(f"{hashlib.sha256(content).hexdigest()}  {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else "dist")))
