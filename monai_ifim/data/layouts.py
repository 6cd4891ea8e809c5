"""File names of the volumes: one for each image, and inside the output folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from monai.data import FolderLayout
from monai.data.utils import create_file_basename

from monai_ifim.data.sources.formats import is_dicom


class DistinctFolderLayout(FolderLayout):
    """MONAI's ``FolderLayout``, for ``SaveImaged(folder_layout=...)``, without silent overwriting.

    A second image of this run, or a second patch, that would take the name of a first is refused,
    so that ``a/scan.nii.gz`` and ``b/scan.nii.gz``, or ``scan.png`` and ``scan.nii.gz``, do not
    end as one file. So is a name outside the output folder, which MONAI makes of an image that
    does not lie below ``data_root_dir``. Files of an earlier run are replaced. Several processes
    that write to one folder do not know of each other: give them ``data_root_dir``.

    Args:
        output_dir: folder of the results; subfolders are made as needed.
        postfix: appended to the image's name.
        extension: of the files, for example ``".nii.gz"``.
        data_root_dir: the images' folders below it are kept.

    >>> layout = DistinctFolderLayout("out", postfix="ifim_high", extension=".nii.gz")
    >>> layout.filename("a/scan.nii.gz")
    'out/scan_ifim_high.nii.gz'
    >>> layout.filename("b/scan.nii.gz")
    Traceback (most recent call last):
        ...
    ValueError: expected a file name of its own for b/scan.nii.gz, got scan_ifim_high.nii.gz, \
which a/scan.nii.gz has; keep the folders with data_root_dir (--ifim_data_root_dir), or rename one

    Raises:
        ValueError: ``postfix`` or ``extension`` holds a folder.
    """

    def __init__(
        self,
        output_dir: str | os.PathLike[str],
        postfix: str = "",
        extension: str = "",
        data_root_dir: str | os.PathLike[str] = "",
    ) -> None:
        _check_plain(postfix, extension)
        super().__init__(
            output_dir, postfix, extension, makedirs=True, data_root_dir=str(data_root_dir)
        )
        self._taken: dict[str, tuple[str, Any]] = {}

    def filename(
        self, subject: str | os.PathLike[str] = "subject", idx: Any = None, **kwargs: Any
    ) -> str:
        """Name of one image's file.

        Args:
            subject: path of the image.
            idx: number of a patch of it.
            kwargs: appended to the name.

        Returns:
            The path.

        Raises:
            ValueError: the name is taken by another image, or lies outside the output folder.
        """
        _check_plain(*([] if idx is None else [idx]), *kwargs, *kwargs.values())
        # MONAI would cut the last number of a DICOM folder or file named like 1.2.840.11.
        suffixed = Path(subject).suffix.lower() == ".dcm"
        bare = Path(subject).is_dir() or (is_dicom(subject) and not suffixed)
        path = f"{subject}.dcm" if bare else str(subject)
        self._refuse_outside(path)
        name = str(super().filename(path, idx, **kwargs))
        taken_by, patch = self._taken.setdefault(name, (str(subject), idx))
        if (taken_by, patch) != (str(subject), idx):
            raise ValueError(
                f"expected a file name of its own for {subject}, got {Path(name).name}, which "
                f"{taken_by} has; keep the folders with data_root_dir (--ifim_data_root_dir), "
                "or rename one"
            )
        return name

    def _refuse_outside(self, subject: str | os.PathLike[str]) -> None:
        # Before MONAI makes the folder.
        base = create_file_basename(
            "", str(subject), str(self.output_dir), str(self.data_root_dir), makedirs=False
        )
        output = Path(os.path.abspath(self.output_dir))
        if not Path(os.path.abspath(base)).is_relative_to(output):
            raise ValueError(
                f"expected {subject} below data_root_dir {self.data_root_dir!r}, got a file name "
                f"outside {self.output_dir}; leave data_root_dir empty or name a folder above "
                "the images"
            )


def _check_plain(*parts: Any) -> None:
    """Refuse what is appended to a name and would lead into another folder."""
    for part in map(str, parts):
        if set(part) & {"/", "\\", "\0"}:
            raise ValueError(
                f"expected a part of a file name, got {part!r}, which leads into another folder; "
                "choose the folder with output_dir"
            )
