"""The test environment with the SHA-256 of every archive.

    python .ci/lock.py        # requirements-hashed.txt, from constraints.txt; a minute

``make HASHED=yes`` then installs these archives and no others. They are for one Python and Linux on
x86-64; the archives are all that the index has of a version, for other machines and builds.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
LOCK = ROOT / ".ci" / "requirements-hashed.txt"
INDEX = os.environ.get("PIP_INDEX_URL", "https://pypi.org/simple")
EXTRA = "dev"


def main() -> int:
    """Resolve, ask the index for the hashes, write the file."""
    lines = [
        f"# Written by .ci/lock.py for Python {sys.version_info[0]}.{sys.version_info[1]}, Linux on"
        " x86-64; make HASHED=yes installs it."
    ]
    for item in sorted(resolved(), key=lambda each: each["metadata"]["name"].lower()):
        meta = item["metadata"]
        name, version = meta["name"], meta["version"]
        taken = item["download_info"].get("archive_info", {}).get("hashes", {}).get("sha256")
        # A build with a version of its own (torch 2.13.0+cpu) is not on the index, and the index's
        # build of that version needs other packages.
        hashes = sorted({*published(name, version), *([taken] if taken else [])})
        if not hashes:
            raise SystemExit(f"expected archives of {name} {version}, got none")
        lines.append(f"{name}=={version} \\")
        lines += [f"    --hash=sha256:{each} \\" for each in hashes[:-1]]
        lines.append(f"    --hash=sha256:{hashes[-1]}")
    LOCK.write_text("\n".join(lines) + "\n")
    print(f"{LOCK.name}: {sum('==' in line for line in lines)} packages")
    return 0


def resolved() -> list[dict[str, Any]]:
    """What pip would install into an empty environment.

    Returns:
        Its report's entries, without the project itself.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pip", "install", "-q", "--dry-run", "--ignore-installed"]
        command += ["--report", str(report), "-c", str(ROOT / "constraints.txt")]
        subprocess.run([*command, f"{ROOT}[{EXTRA}]"], check=True)
        entries = json.loads(report.read_text())["install"]
    return [each for each in entries if "dir_info" not in each["download_info"]]


def published(name: str, version: str) -> list[str]:
    """SHA-256 of the archives that the index has of a version.

    Args:
        name: of the package.
        version: of it.

    Returns:
        Hexadecimal digests; none where the index has no such version.
    """
    request = urllib.request.Request(
        f"{INDEX.rstrip('/')}/{name.lower().replace('_', '-').replace('.', '-')}/",
        headers={"Accept": "application/vnd.pypi.simple.v1+json"},
    )
    with urllib.request.urlopen(request) as answer:
        files = json.load(answer)["files"]
    archives = (f"-{version}-", f"-{version}.tar.gz", f"-{version}.zip")
    return [
        each["hashes"]["sha256"]
        for each in files
        if any(mark in each["filename"] for mark in archives)
    ]


if __name__ == "__main__":
    sys.exit(main())
