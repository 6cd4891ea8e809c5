"""Many images through one process: what is left of each in memory.

    python -m benchmarks.soak                        # 20,000 images; docs/reliability/soak.json
    python -m benchmarks.soak --images 500 --times 100 --output /tmp/reliability

A real evaluator with handler loads small NIfTI files and writes two volumes, a journal line and a
table row for each. Every so many images the resident memory, the open files, the objects that the
garbage collector knows and the tensors with a graph are counted; the slope is a straight line
through the counts after the first fifth. Then a handler is attached and detached many times.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedEvaluator

import monai_ifim as mi
from benchmarks.small_runs import evaluator, quietly, resident
from monai_ifim.data.nifti import write_nifti
from monai_ifim.data.tables import read_table

ROOT = Path(__file__).parents[1]
DIFFERENT = 50  # files with content of their own; the others are links to them
COUNTS = 40  # how often something is counted
SLOPE = 4.0  # MB per 1,000 images at the most: a row of the table stays in memory to the end


def main(argv: Sequence[str] | None = None) -> int:
    """Run, write what was counted; the status is 0 where all stays within its bound."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--times", type=int, default=1000, help="handler attached and detached")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "reliability")
    options = parser.parse_args(argv)
    quietly()
    with tempfile.TemporaryDirectory() as folder:
        result = soak(Path(folder), options.images)
    result["attached"] = attach_and_detach(options.times)
    changed = {"--images": (options.images, 20_000), "--times": (options.times, 1000)}
    words = [f" {name} {got}" for name, (got, usual) in changed.items() if got != usual]
    result["command"] = "python -m benchmarks.soak" + "".join(words)
    result["faults"] = faults(result)
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "soak.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({name: value for name, value in result.items() if name != "counts"}, indent=1))
    print(f"resident memory: {result['megabytes_per_1000_images']:.3f} MB per 1,000 images")
    return int(bool(result["faults"]))


def soak(folder: Path, images: int) -> dict:
    """One run over so many images.

    Args:
        folder: empty.
        images: how many.

    Returns:
        What was counted on the way, and the slope of the resident memory.
    """
    files = small_images(folder / "in", images)
    began = time.monotonic()
    engine = evaluator(files, folder / "out", batch_size=1)
    counts: list[dict] = []
    engine.add_event_handler(
        Events.ITERATION_COMPLETED(every=max(images // COUNTS, 1)),
        lambda engine: counts.append({"images": engine.state.iteration, **counted()}),
    )
    engine.run()
    seconds = time.monotonic() - began
    rows = read_table(folder / "out" / "ifim.csv")
    written = sum(1 for path in (folder / "out").iterdir() if path.suffix == ".nii")
    steady = counts[len(counts) // 5 :]
    return {
        "case": "soak",
        "images": images,
        "rows": len(rows),
        "rows_without_result": sum(row["status"].startswith("failed") for row in rows),
        "volumes": written,
        "seconds": round(seconds),
        "megabytes_per_1000_images": slope(steady, "megabytes") * 1000,
        "collected_objects_per_image": slope(steady, "objects"),
        "open_files": [steady[0]["files"], steady[-1]["files"]],
        "tensors_with_a_graph": [steady[0]["graphs"], steady[-1]["graphs"]],
        "tensors": [steady[0]["tensors"], steady[-1]["tensors"]],
        "counts": counts,
    }


def small_images(folder: Path, count: int) -> list[str]:
    """Small NIfTI files, most of them links to the first ones."""
    import nibabel as nib

    folder.mkdir()
    dice = np.random.default_rng(0)
    files = [folder / f"{index:06d}.nii" for index in range(count)]
    for index, file in enumerate(files):
        if index < DIFFERENT:
            values = dice.normal(size=(9, 8, 7)).astype(np.float32)
            write_nifti(nib.Nifti1Image(values, np.diag([1.0, 2.0, 3.0, 1.0])), file)
        else:
            os.link(files[index % DIFFERENT], file)
    return list(map(str, files))


def counted() -> dict[str, float]:
    """Memory, open files, objects, tensors, and tensors that hold a graph."""
    gc.collect()
    everything = gc.get_objects()
    tensors = [each for each in everything if issubclass(type(each), torch.Tensor)]
    return {
        "megabytes": resident(),
        "files": len(os.listdir("/proc/self/fd")),
        "objects": len(everything),
        "tensors": len(tensors),
        "graphs": sum(each.grad_fn is not None for each in tensors),
    }


def slope(counts: Sequence[dict], name: str) -> float:
    """What an image adds, by a straight line through the counts."""
    images = [each["images"] for each in counts]
    return float(np.polyfit(images, [each[name] for each in counts], 1)[0])


def attach_and_detach(times: int) -> dict[str, float]:
    """A handler is attached to an engine and detached again and again.

    Args:
        times: how often.

    Returns:
        How often, and what is left of it: handlers of the engine, objects.
    """

    def once(engine: Engine) -> None:
        handler = mi.IFIMHandler(metrics={"trace": mi.SpectrumMetric("trace")})
        handler.attach(engine)
        handler.detach(engine)

    data = [{"image": torch.zeros(1, 1, 4, 4)}]
    engine = SupervisedEvaluator(
        device=torch.device("cpu"), val_data_loader=data, network=torch.nn.Flatten()
    )
    once(engine)
    before, handlers = counted(), handlers_of(engine)
    for _ in range(times):
        once(engine)
    after = counted()
    return {
        "times": times,
        "handlers_left": handlers_of(engine) - handlers,
        "objects_left": after["objects"] - before["objects"],
        "megabytes_left": after["megabytes"] - before["megabytes"],
        "files_left": after["files"] - before["files"],
    }


def handlers_of(engine: Engine) -> int:
    """How many functions are registered with an engine."""
    return sum(map(len, engine._event_handlers.values()))


def faults(result: dict) -> list[str]:
    """What does not stay within its bound.

    Args:
        result: of ``soak``, with that of ``attach_and_detach``.

    Returns:
        Sentences; empty where all is well.
    """
    images, attached = result["images"], result["attached"]
    checks = {
        "a row for each image": result["rows"] == images and not result["rows_without_result"],
        "two volumes for each image": result["volumes"] == 2 * images,
        f"at most {SLOPE} MB per 1,000 images": result["megabytes_per_1000_images"] <= SLOPE,
        "as many open files as before": result["open_files"][1] <= result["open_files"][0],
        "no more graphs than before": result["tensors_with_a_graph"][1]
        <= result["tensors_with_a_graph"][0],
        "no more tensors than before": result["tensors"][1] <= result["tensors"][0],
        "no handler left": attached["handlers_left"] == 0,
        "less than an object left for each time": attached["objects_left"] < attached["times"],
    }
    return [f"expected {what}" for what, good in checks.items() if not good]


if __name__ == "__main__":
    sys.exit(main())
