"""Output folders of runs, written without a network: tables and component volumes."""

from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from scipy.spatial.transform import Rotation

from monai_ifim.data.tables import write_csv, write_table
from monai_ifim.data.writers import write_component

OBLIQUE = np.eye(4)
OBLIQUE[:3, :3] = Rotation.from_euler("xyz", (25, -10, 15), degrees=True).as_matrix() @ np.diag(
    [-1.5, 1.0, 5.5]
)
OBLIQUE[:3, 3] = 60, -40, 10


def components(shape, peak, seed=0):
    """An image (C, *S) with a bright box, and components that are strongest at ``peak``."""
    random = np.random.default_rng(seed)
    axes = np.meshgrid(*(np.arange(n, dtype=np.float64) for n in shape[1:]), indexing="ij")
    square = sum((a - p) ** 2 for a, p in zip(axes, peak[1:], strict=True))
    blob = np.exp(-square / 8)
    high = 0.01 * random.standard_normal(shape)
    high[peak[0]] += 2 * blob * np.cos(axes[0] - peak[1])
    image = 100 + 5 * random.standard_normal(shape)
    image[(slice(None), *(slice(n // 4, n // 2) for n in shape[1:]))] += 60
    sensitivity = 1e-4 * random.random(shape)
    sensitivity[peak[0]] += blob
    return {"high": high, "orth": image - high, "sensitivity": sensitivity}


def write_volumes(stem, parts, affine):
    """Component files beside each other, each (C, *S), as a run writes them."""
    for name, values in parts.items():
        volume = torch.as_tensor(values, dtype=torch.float32)
        path = stem.with_name(f"{stem.name}_ifim_{name}.nii.gz")
        write_component(volume, path, f"ifim_{name}", None, False, "Net 0123abcd")
        loaded = nib.load(path)
        nib.save(nib.Nifti1Image(np.asarray(loaded.dataobj), affine, loaded.header), path)


def row(file, index=0, classes=3, status="ok"):
    """One row of ifim.csv."""
    if status.startswith("failed"):
        return {"file": str(file), "status": status}
    values = [(2.0 - 0.01 * (index % 100)) / (i + 1) ** 2 for i in range(classes - 1)]
    return {
        "file": str(file),
        "predicted_class": str(index % classes),
        "probability": 0.4 + 0.5 * ((index * 7) % 100) / 100,
        "trace": sum(values),
        "rank": classes - 1,
        "trace_share": 1.0,
        "high_energy_share": 0.01,
        "flip_distance": 0.75,
        "flip_class": str((index + 1) % classes),
        "status": status,
    } | {f"eigenvalue_{i}": value for i, value in enumerate(values, 1)}


def write_run(folder, cases, names=("healthy", "benign", "malignant"), affine=OBLIQUE):
    """A run's folder.

    ``cases``: name of the source file, and components, or None for an image that failed.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rows, probabilities = [], []
    for index, (file, parts) in enumerate(cases):
        status = "ok" if parts is not None else "failed: the image cannot be read"
        rows.append(row(file, index, len(names), status))
        if parts is None:
            continue
        short = Path(file).name.removesuffix(".gz").rsplit(".", 1)[0]
        write_volumes(folder / short, parts, affine)
        p, best = rows[-1]["probability"], index % len(names)
        each = [p if i == best else (1 - p) / (len(names) - 1) for i in range(len(names))]
        probabilities.append({"file": str(file), **dict(zip(names, each, strict=True)),
                              "predicted_class": names[best]})  # fmt: skip
    write_table(rows, folder / "ifim.csv")
    write_csv(probabilities, ["file", *names, "predicted_class"], folder / "predictions.csv")
    return folder
