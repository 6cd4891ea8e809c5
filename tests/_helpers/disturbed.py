"""A bundle whose preprocessing waits, or ends its process, where a file beside it says so."""

import json
from pathlib import Path

from _helpers.bundles import SIGNAL, copy_of

_SCRIPT = '''
import os
import signal
import time
from pathlib import Path

from monai.transforms import Transform


class Disturb(Transform):
    """An entry of the data list as it is; the folder of the bundle says what happens meanwhile."""

    def __init__(self, folder):
        self.folder = folder

    def __call__(self, data):
        slow, killing = Path(self.folder, "slow"), Path(self.folder, "killing")
        if slow.is_file():
            time.sleep(float(slow.read_text()))
        if killing.is_file() and killing.read_text() in str(data["image"]):
            os.kill(os.getpid(), signal.SIGKILL)
        return data
'''


def disturbed_bundle(folder: Path) -> Path:
    """A copy of the signal bundle in a new folder."""

    def change(config: dict) -> None:
        config["imports"].append("$import scripts.disturb")
        disturb = {"_target_": "scripts.disturb.Disturb", "folder": "@bundle_root"}
        config["preprocessing"]["transforms"].insert(0, disturb)

    folder.mkdir(parents=True, exist_ok=True)
    bundle = copy_of(SIGNAL, folder, change)
    (bundle / "scripts").mkdir()
    (bundle / "scripts" / "__init__.py").touch()
    (bundle / "scripts" / "disturb.py").write_text(_SCRIPT)
    return bundle


def starts(output: Path) -> dict[str, int]:
    """How often the work on each file was begun, in all journals of a folder."""
    count: dict[str, int] = {}
    for line in lines(output):
        for file in line.get("start", ()):
            count[Path(file).name] = count.get(Path(file).name, 0) + 1
    return count


def done(output: Path) -> set[str]:
    """Files with a row in a journal."""
    return {Path(line["row"]["file"]).name for line in lines(output) if "row" in line}


def lines(output: Path) -> list[dict]:
    """The lines of all journals, without those that are being written."""
    found = []
    for path in sorted((output / ".ifim").glob("journal-*.jsonl")):
        for text in path.read_bytes().split(b"\n")[:-1]:
            found.append(json.loads(text))
    return found
