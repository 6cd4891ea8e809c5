"""A bundle to load, changed copies of bundles, and pictures."""

import json
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

SIGNAL = Path(__file__).parents[2] / "bundles" / "ifim_signal_2d"


def copy_of(bundle, folder, change=None):
    """A copy in a folder, with its inference configuration changed."""
    root = Path(shutil.copytree(bundle, folder / bundle.name))
    if change:
        file = root / "configs" / "inference.json"
        config = json.loads(file.read_text())
        change(config)
        file.write_text(json.dumps(config))
    return root


def picture(path, shape=(13, 11, 3)):
    """A file of random colours."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    Image.fromarray(values).save(path)
