"""Every kind of source through every kind of preprocessing and back to the file's own grid.

Each cell is a run of a real evaluator or pipeline: what is written has the shape and affine of the
file, and the components add up to the input on that grid, or the row (or error) says why nothing is
written. ``docs/sources.md`` has the counts, and the last test holds it to them.
"""

import csv
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import nibabel as nib
import pytest
from monai.bundle import ConfigParser
from monai.data import Dataset

import monai_ifim as mi
from _helpers.networks import smooth_network
from _helpers.recorders import evaluate
from _helpers.source_matrix import PREPROCESSINGS, SOURCES, check, inverted, made, steps
from _helpers.source_page import PAGE, table_of

pytestmark = [
    # MONAI 1.6.1 says so whenever LoadImage registers its readers without nvImageCodec.
    pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader:UserWarning"),
    # Of the test's own Invertd, where there is nothing to undo.
    pytest.mark.filterwarnings("ignore:inverse has been called but no invertible"),
    # Orientationd on slices.
    pytest.mark.filterwarnings("ignore:axcodes .*length is smaller:UserWarning"),
]

KEYS = ["ifim_high", "ifim_orth"]
OVERLAY = Path(mi.__file__).parents[1] / "configs" / "ifim.yaml"
COUNTS: Counter[tuple[str, str, str]] = Counter()


def by_handler(items: list[Any], config: list[Any], network: Any, size: int, out: Path) -> Any:
    """The handler's own postprocessing."""
    transform = made(config)
    save = mi.SaveComponentsd(KEYS, out, transform)
    loader = mi.FaultTolerantDataLoader(Dataset(items, transform), batch_size=size)
    evaluate(network, loader, mi.IFIMHandler(postprocessing=save, output_dir=out))
    return rows(out)


def by_bundle(items: list[Any], config: list[Any], network: Any, size: int, out: Path) -> Any:
    """A bundle's configuration with ifim.yaml over it."""
    parser = ConfigParser(
        {
            "output_dir": str(out),
            "network": network,
            "preprocessing": {"_target_": "Compose", "transforms": config},
            "dataset": {"_target_": "Dataset", "data": tuple(items), "transform": "@preprocessing"},
            "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": size},
            "evaluator": {
                "_target_": "SupervisedEvaluator",
                "device": "cpu",
                "network": "@network",
                "val_data_loader": "@dataloader",
            },
        }
    )
    for key, value in ConfigParser.load_config_file(OVERLAY).items():
        parser[key] = value
    evaluator = parser.get_parsed_content("evaluator")
    with suppress(RuntimeError):  # raised at the end where images have no result
        evaluator.run()
    return rows(out)


def by_transforms(items: list[Any], config: list[Any], network: Any, size: int, out: Path) -> Any:
    """``IFIMComponentsd`` and ``SaveComponentsd`` one after the other, without an engine."""
    transform, statuses = made(config), {}
    compute = mi.IFIMComponentsd("image", network)
    save = mi.SaveComponentsd(KEYS, out, transform)
    for item in items:
        try:
            save(compute(transform(item)))
            status = "ok"
        except ValueError as error:
            status = f"failed: {error}"
        statuses[name_of(item)] = status
    return statuses


def rows(out: Path) -> dict[str, str]:
    with open(out / "ifim.csv", newline="") as table:
        return {row["file"]: row["status"] for row in csv.DictReader(table)}


def name_of(item: dict[str, Any]) -> str:
    entry = item.get("image", item.get("a"))
    return entry if isinstance(entry, str) else entry[0]


DOORS = {
    "handler, batches of 1": (by_handler, 1),
    "handler, batches of 4": (by_handler, 4),
    "bundle, batches of 1": (by_bundle, 1),
    "bundle, batches of 4": (by_bundle, 4),
    "transforms": (by_transforms, 1),
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("name", PREPROCESSINGS)
@pytest.mark.parametrize("kind", SOURCES)
def test_on_the_files_grid_or_a_row_that_says_why_not(tmp_path, kind, name, door):
    source, both, out = SOURCES[kind], name == "concatenation", tmp_path / "out"
    entries = [source.write(tmp_path / f"s{i}", i) for i in range(4)]
    items = [{"a": e, "b": e} if both else {"image": e} for e in entries]
    config = steps(name, source)
    network = smooth_network(source.dims, channels=source.channels * (1 + both))
    run, size = DOORS[door]
    statuses = run(items, config, network, size, out)
    assert sorted(statuses) == sorted(map(name_of, items))
    for entry, item in zip(entries, items, strict=True):
        status = statuses[name_of(item)]
        stem = Path(name_of(item)).name.split(".")[0]
        written = sorted(out.rglob(f"{stem}_ifim_*"))
        if isinstance(entry, list):  # one folder a series
            written = [f for f in written if Path(entry[0]).parent.name in f.parts] or written
        if status == "ok":
            wanted = None if both else inverted(made(config), item)
            check(entry, *map(nib.load, written), source.channels, wanted)
            COUNTS[kind, name, "right"] += 1
        else:
            assert status.startswith("failed:"), status
            assert "expected" in status, status
            assert not written
            COUNTS[kind, name, "refused"] += 1


def test_the_page_has_these_counts():
    if len({(kind, name) for kind, name, _ in COUNTS}) < len(SOURCES) * len(PREPROCESSINGS):
        pytest.skip("needs the whole matrix in one process, and every reader")
    text = table_of(COUNTS)
    assert text in PAGE.read_text(), f"docs/sources.md needs this table:\n\n{text}"
