"""One picture of a run: a few of its images below each other."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from monai_ifim.data.atomic import complete_file
from monai_ifim.report.cases import Style, cases_figure
from monai_ifim.report.cases.folder import RunFolder


def write_sheet(output_dir: Path, path: Path, *, most: int = 4, style: Style | None = None) -> Path:
    """Draw some images of a run.

    Args:
        output_dir: of the run, with ``ifim.csv`` and ``*_ifim_high.nii.gz`` and so on.
        path: of the PNG.
        most: the largest number of images to draw, spread evenly over the table.
        style: how they are drawn; slices by sensitivity by default.

    Returns:
        The path.

    Raises:
        FileNotFoundError: no table or no components there.
        ValueError: ``most`` < 1.
    """
    if most < 1:
        raise ValueError(f"expected at least one image to draw, got {most}; say --most 4")
    folder = RunFolder(output_dir)
    rows = [row for row in folder.rows if not folder.numbers(row).failed]
    drawn = [row for row in rows if folder.volumes(row)]
    chosen = [drawn[int(i)] for i in np.linspace(0, len(drawn) - 1, min(most, len(drawn)))]
    cases = [case for row in chosen if (case := folder.case(row)) is not None]
    if not cases:
        raise FileNotFoundError(
            f"expected *_ifim_high.nii.gz and *_ifim_orth.nii.gz of the images in {output_dir}, "
            "got none; run the bundle with the volumes high and orth"
        )
    figure = cases_figure(cases, style, f"{len(cases)} of {len(rows)} images.")
    with complete_file(path) as partial:
        figure.savefig(partial, dpi=110, format="png")
    return path
