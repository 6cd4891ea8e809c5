"""What the journal takes for each image: ``docs/reliability/overhead.json``.

python -m benchmarks.reliability_overhead
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from pathlib import Path

from benchmarks.reliability_page import FOLDER
from monai_ifim.data.run_folder.done import Done
from monai_ifim.data.run_folder.image_list import ImageList
from monai_ifim.data.run_folder.journal import read_history
from monai_ifim.data.run_table.writer import TableWriter

IMAGES, VOLUMES = 2000, 2


def measure(folder: Path) -> dict:
    """Journal images that are there, with their volumes."""
    sources = [folder / f"scan{i}.nii.gz" for i in range(IMAGES)]
    volumes = [
        [folder / "out" / f"scan{i}_{k}.nii.gz" for k in range(VOLUMES)] for i in range(IMAGES)
    ]
    (folder / "out").mkdir()
    for path in [*sources, *(each for both in volumes for each in both)]:
        path.write_bytes(b"x")
    writer = TableWriter(folder / "out" / "ifim.csv")
    names = [str(path) for path in sources]
    writer.begin(lambda: {"network": "none"}, ImageList(tuple(names)))
    numbers = {f"eigenvalue_{i}": 0.1 / (i + 1) for i in range(8)}
    times = []
    for name, paths in zip(names, volumes, strict=True):
        row = {"file": name, "status": "ok", "predicted_class": "1", "trace": 0.7, **numbers}
        began = time.perf_counter()
        writer.look()
        writer.start([name])
        writer.stage([row], [paths])
        writer.commit()
        times.append(time.perf_counter() - began)
    writer.finish()
    began = time.perf_counter()
    history = read_history(folder / "out")
    done = Done(history, folder / "out", ImageList(tuple(names)))
    assert all(name in done for name in names)
    return {
        "command": "python -m benchmarks.reliability_overhead",
        "images": IMAGES,
        "volumes": VOLUMES,
        "milliseconds_per_image": 1e3 * statistics.median(times),
        "milliseconds_to_look_back": 1e3 * (time.perf_counter() - began) / IMAGES,
    }


def main() -> None:
    """Measure, and write what was found."""
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Path(folder))
    FOLDER.mkdir(exist_ok=True, parents=True)
    (FOLDER / "overhead.json").write_text(json.dumps(result, indent=1) + "\n")
    print(result)


if __name__ == "__main__":
    main()
