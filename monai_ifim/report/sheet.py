"""One picture of a run: image, components, sensitivity and spectrum of a few images."""

from __future__ import annotations

import glob
from pathlib import Path
from typing import Any

import matplotlib
import nibabel as nib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, ScalarFormatter

from monai_ifim.data.atomic import complete_file
from monai_ifim.data.tables import read_table
from monai_ifim.messages import printable

Row = dict[str, str]
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
CAUTION = (
    "The components show what the classifier is locally sensitive to. They are not anatomy, "
    "cause or diagnosis. Research use only."
)
COLUMNS = (
    "image = high + orthogonal",
    "high-sensitivity component",
    "orthogonal component",
    "sensitivity √ diag F",
)


def write_sheet(output_dir: Path, path: Path, *, most: int = 4) -> Path:
    """Draw the first images of a run, one row each.

    Volumes are shown by their three middle slices. The image is the sum of the two components.

    Args:
        output_dir: of the run, with ``ifim.csv`` and ``*_ifim_high.nii.gz`` and so on.
        path: of the PNG.
        most: the largest number of images to draw, spread evenly over the table.

    Returns:
        The path.

    Raises:
        FileNotFoundError: no table or no components there.
        ValueError: ``most`` < 1.
    """
    if most < 1:
        raise ValueError(f"expected at least one image to draw, got {most}; say --most 4")
    table = output_dir / "ifim.csv"
    if not table.is_file():
        raise FileNotFoundError(
            f"expected {table} of an inference run, got nothing; run a bundle with "
            f"--output_dir {output_dir} first"
        )
    rows = [row for row in read_table(table) if row["status"].startswith("ok")]
    pairs = [(row, stem) for row in rows if (stem := _stem(row, output_dir)) is not None]
    if not pairs:
        raise FileNotFoundError(
            f"expected *_ifim_high.nii.gz of the images of {table}, got none; run the bundle with "
            "the volumes high and orth"
        )
    chosen = [pairs[int(i)] for i in np.linspace(0, len(pairs) - 1, min(most, len(pairs)))]
    figure = _draw(chosen, output_dir, f"{len(chosen)} of {len(rows)} images. {CAUTION}")
    with complete_file(path) as partial:
        figure.savefig(partial, dpi=110, format="png")
    return path


def _stem(row: Row, output_dir: Path) -> Path | None:
    """Path of the row's volumes without ``_ifim_high.nii.gz``."""
    source = Path(row["file"])
    name = source.name
    if not source.is_dir():  # a DICOM series is a folder, and keeps its name
        name = name.removesuffix(".gz").rsplit(".", 1)[0]
    found = output_dir.rglob(f"{glob.escape(name)}_ifim_high.nii.gz")
    # File names may repeat in several folders: the one with the most folders in common.
    best = max(found, key=lambda f: _common(f.parent, source.parent), default=None)
    return None if best is None else best.with_name(best.name.removesuffix("_ifim_high.nii.gz"))


def _common(a: Path, b: Path) -> int:
    same = [x == y for x, y in zip(reversed(a.parts), reversed(b.parts), strict=False)]
    return same.index(False) if False in same else len(same)


def _draw(chosen: list[tuple[Row, Path]], output_dir: Path, caption: str) -> Figure:
    rows, columns = _planes(*chosen[0], "high").shape[:2]
    inches = min(max(2.4 * rows / columns, 1.1), 3.0) + 0.8
    with matplotlib.rc_context({"font.size": 9}):
        figure = Figure(figsize=(15, inches * len(chosen) + 0.6), layout="constrained")
        axes = figure.subplots(len(chosen), 5, squeeze=False)
        for line, (row, stem) in zip(axes, chosen, strict=True):
            _draw_row(figure, line, row, stem)
            name = printable(str(stem.relative_to(output_dir))).replace("$", r"\$")
            says = f"class {row['predicted_class']}, p = {float(row['probability']):.3f}"
            line[0].set_ylabel(f"{name}\n{says}", fontsize=8)
        for axis, title in zip(axes[0], COLUMNS, strict=False):
            axis.set_title(title)
        figure.supxlabel(caption, fontsize=9)
    return figure


def _draw_row(figure: Figure, line: np.ndarray, row: Row, stem: Path) -> None:
    high, orth = _planes(row, stem, "high"), _planes(row, stem, "orth")
    image = high + orth
    low, top = np.nanpercentile(image, [0.5, 99.5])
    limit = float(np.nanmax(np.abs(high))) or 1.0
    gray: dict[str, Any] = {"cmap": "gray", "vmin": low, "vmax": top}
    signed: dict[str, Any] = {"cmap": "RdBu_r", "vmin": -limit, "vmax": limit}
    for axis, picture, style in zip(line, (image, high, orth), (gray, signed, gray), strict=False):
        drawn = axis.imshow(picture, **style)
        axis.set_xticks([])
        axis.set_yticks([])
        figure.colorbar(drawn, ax=axis, shrink=0.75)
    share = float(row["high_energy_share"])
    line[1].set_xlabel(f"{100 * share:.2g} % of the image's energy", fontsize=8)
    _draw_sensitivity(figure, line[3], row, stem)
    _draw_spectrum(line[4], row)


def _draw_sensitivity(figure: Figure, axis: Axes, row: Row, stem: Path) -> None:
    axis.set_xticks([])
    axis.set_yticks([])
    if not stem.with_name(f"{stem.name}_ifim_sensitivity.nii.gz").is_file():
        axis.axis("off")
        axis.text(0.5, 0.5, "sensitivity\nnot written", ha="center", transform=axis.transAxes)
        return
    picture = np.sqrt(np.clip(_planes(row, stem, "sensitivity"), 0, None))
    drawn = axis.imshow(picture, cmap="magma", vmin=0)
    figure.colorbar(drawn, ax=axis, shrink=0.75, format=_powers())
    axis.set_xlabel("1 / input unit", fontsize=8)


def _powers() -> ScalarFormatter:
    """Small numbers as multiples of a power of ten, which fits beside a bar."""
    formatter = ScalarFormatter()
    formatter.set_powerlimits((-2, 3))
    return formatter


def _draw_spectrum(axis: Axes, row: Row) -> None:
    values = [float(v) for k, v in row.items() if k.startswith("eigenvalue_") and v]
    axis.bar(range(1, len(values) + 1), values, color="tab:blue", width=0.6)
    positive = [v for v in values if v > 0]
    if positive:
        axis.set_yscale("log")
        axis.set_ylim(min(positive) / 5, max(positive) * 5)
        axis.yaxis.set_minor_formatter(NullFormatter())
    axis.set_xticks(range(1, len(values) + 1))
    axis.set_xlabel("eigenpair", fontsize=8)
    axis.set_title(f"eigenvalues (rank {row['rank']})\ntrace {float(row['trace']):.3g}", fontsize=9)


def _planes(row: Row, stem: Path, volume: str) -> np.ndarray:
    """A 2D picture: the image itself, or the three middle slices of a volume side by side.

    Scans are turned so that their later axis points up; pictures (PNG, JPEG), which MONAI reads
    columns first with the origin at the top, are turned back.
    """
    file = stem.with_name(f"{stem.name}_ifim_{volume}.nii.gz")
    data = np.asanyarray(nib.load(file).dataobj, dtype=np.float64)
    if data.ndim > 3:  # channels after three spatial axes: the strongest one
        data = data.reshape(*data.shape[:3], -1)
        data = data[..., int(np.square(data).sum(axis=(0, 1, 2)).argmax())]
    data = data.reshape([n for n in data.shape if n > 1] or [1, 1])
    if data.ndim == 2:
        return data.T if row["file"].lower().endswith(PICTURES) else np.rot90(data)
    middle = [np.rot90(data.take(n // 2, axis=axis)) for axis, n in enumerate(data.shape)]
    height = max(plane.shape[0] for plane in middle)
    # NaN is drawn as nothing: a gap between the planes, and below the lower ones.
    blank = [((0, height - plane.shape[0]), (0, 1)) for plane in middle]
    padded = [np.pad(p, b, constant_values=np.nan) for p, b in zip(middle, blank, strict=True)]
    return np.concatenate(padded[::-1], axis=1)
