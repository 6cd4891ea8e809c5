"""How far the first-order distance to another answer is from the smallest change that is found.

python -m benchmarks.flips                                    # the signal bundles, images made here
python -m benchmarks.flips --images ifim_mednist_2d=DATASET   # folder of images, for that bundle

For each bundle and search: the verified distance over the first-order one (median, and from 10 % to
90 % of the images), Spearman's correlation of both, the share of images for which the search found
another answer, and the distance over the smallest one that any search found for the image.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from scipy.stats import spearmanr
from torch import Tensor

import monai_ifim as mi
from monai_ifim.bundle.classifier import load_bundle_classifier
from monai_ifim.bundle.configuration import BundleConfiguration, scripts_of
from monai_ifim.experiments import signal_task, write_signal_images

BUNDLES = Path(__file__).parents[1] / "bundles"
SEARCHES = {
    "DDN, 20 steps": ("ddn", 20),
    "DDN, 100 steps": ("ddn", 100),
    "PGD, 20 steps": ("pgd", 20),
}
_BATCH = 10


def measure(bundle: Path, images: Tensor) -> list[str]:
    """Rows of the table for a bundle.

    Args:
        bundle: its folder.
        images: (n, C, *S), preprocessed.

    Returns:
        One row for each search.
    """
    with scripts_of(bundle):
        network = load_bundle_classifier(bundle).network
    found, seconds = {}, {}
    for name, (search, steps) in SEARCHES.items():
        start = time.perf_counter()
        parts = [
            mi.verified_flip(network, x, search=search, steps=steps) for x in images.split(_BATCH)
        ]
        seconds[name] = (time.perf_counter() - start) / len(images)
        found[name] = torch.cat([part.distance for part in parts])
        first = torch.cat([part.first_order for part in parts])
    smallest = torch.stack([*found.values()]).amin(dim=0)
    rows = []
    for name, distance in found.items():
        there = torch.isfinite(distance) & torch.isfinite(first)
        ratio = (distance / first)[there]
        low, middle, high = ratio.quantile(torch.tensor([0.1, 0.5, 0.9]).double()).tolist()
        rank = spearmanr(first[there], distance[there]).statistic
        over = (distance / smallest)[there].median()
        rows.append(
            f"| {bundle.name} | {len(images)} | {name} | {middle:.2f} ({low:.2f} to {high:.2f}) | "
            f"{rank:.2f} | {there.double().mean():.2f} | {over:.3f} | {1000 * seconds[name]:.0f} |"
        )
    return rows


def prepared(bundle: Path, folder: Path, count: int) -> Tensor:
    """Images of a folder as the bundle's network takes them.

    Args:
        bundle: its folder.
        folder: of the images.
        count: how many at the most, spread over the folder.

    Returns:
        (n, C, *S).
    """
    files = mi.find_images(folder)
    chosen = files[:: max(1, len(files) // count)][:count]
    known = BundleConfiguration(bundle)
    with scripts_of(bundle):
        steps, key = known.content("preprocessing"), known.image_key
        return torch.stack([steps({key: str(_path(each))})[key].as_tensor() for each in chosen])


def _path(found: object) -> object:
    return found["image"] if isinstance(found, dict) else found


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table.

    Returns:
        0.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", nargs="+", default=(), metavar="BUNDLE=FOLDER")
    parser.add_argument("--count", type=int, default=60, help="images of each bundle")
    options = parser.parse_args(argv)
    print(
        "| bundle | images | search | verified / first order | Spearman | found | over smallest "
        "| ms |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as place:
        folders = {name: Path(folder) for name, folder in (g.split("=") for g in options.images)}
        if not folders:
            for dims in ("2d", "3d"):
                folders[f"ifim_signal_{dims}"] = Path(place) / dims
                write_signal_images(signal_task(dims), Path(place) / dims, options.count, 1)
        for name, folder in folders.items():
            images = prepared(BUNDLES / name, folder, options.count)
            for row in measure(BUNDLES / name, images):
                print(row, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
