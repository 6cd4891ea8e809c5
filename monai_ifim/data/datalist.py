"""Lists of images for a MONAI data set."""

from __future__ import annotations

import csv
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np

from monai_ifim.data.sources.folder import FolderContent, content_of
from monai_ifim.data.sources.formats import SUFFIXES

logger = logging.getLogger(__name__)

Entry = dict[str, Any]

_SECTIONS = {"training": "train", "validation": "val", "test": "test"}


def find_images(directory: str | os.PathLike[str]) -> list[Entry]:
    """Every image below a folder.

    Every file that MONAI's readers, or those of ``FaultTolerantDataLoader``, can read is an image:
    NIfTI, Analyze and MGH, NRRD, MetaImage, PNG, JPEG, BMP, TIFF, and DICOM with or without suffix.
    Files are told by their names, so a damaged one is listed and fails when it is loaded. Links are
    followed, each folder is searched once. What is found and not taken is logged in one warning,
    with the reasons; ``folder_content`` returns it.

    DICOM files are one image for each series and orientation: the folder, where it holds one
    alone, or the list of its files. One that is no regular volume is listed, and
    ``FaultTolerantDataLoader`` gives it a row with the reason.

    Args:
        directory: folder, searched with all its subfolders, or one image file.

    Returns:
        ``[{"image": path}, ...]`` sorted by path; a list of paths where a folder holds several
        DICOM series.

    Raises:
        FileNotFoundError: there is no such path.
        ValueError: it holds no image.
    """
    content = folder_content(directory)
    if content.refused or content.left_out:
        logger.warning("%s: %s", directory, content.summary())
    return [{"image": image} for image in content.images]


def folder_content(directory: str | os.PathLike[str]) -> FolderContent:
    """What ``find_images`` finds, takes, refuses and leaves out, with the reasons.

    Args:
        directory: folder, searched with all its subfolders, or one image file.

    Returns:
        Images, and every file below the folder in one of three groups, which add up.

    Raises:
        FileNotFoundError: there is no such path.
        ValueError: it holds no image.
    """
    top = _existing(directory)
    content = content_of(top)
    if not content.images:
        raise ValueError(
            f"expected images ({' '.join(SUFFIXES)} or DICOM), got none in {str(top)!r} "
            f"({content.summary()}); pass --dataset_dir with the folder that holds them"
        )
    return content


def image_root(directory: str | os.PathLike[str]) -> str:
    """Folder that the images' relative paths start from, for ``SaveImaged(data_root_dir=...)``.

    Args:
        directory: as given to ``find_images``.

    Returns:
        The folder itself; of one image file or one DICOM series, the folder around it, because
        ``SaveImaged`` would otherwise write beside its output folder.

    Raises:
        FileNotFoundError: there is no such path.
        ValueError: it holds no image.
    """
    top = _existing(directory)
    alone = str(top) in folder_content(top).images
    return str(top.absolute().parent if alone else top)


def labelled_images(directory: str | os.PathLike[str], section: str) -> list[Entry]:
    """Images of one section of a data set, with their classes.

    The first of these layouts that is there is read:

    1. ``labels.csv`` with the columns path, label and split (train, val or test); it comes
       before an array file because files have an affine.
    2. one ``.npz`` in the folder itself, with ``{train,val,test}_images`` and ``_labels``.
    3. one folder per class, labels in the order of the sorted names. The sorted files of each
       class are cut into blocks of 70, 10 and 20 %, never shuffled: neighbouring numbers are
       often slices of one study.

    Args:
        directory: folder of one of the three layouts, or the ``.csv`` or ``.npz`` file itself.
        section: ``"training"``, ``"validation"`` or ``"test"``.

    Returns:
        ``[{"image": path or array, "label": class number}, ...]``, with a ``"name"`` where it is
        an array; load with ``monai_ifim.LoadImageOrArrayd`` where arrays may come.

    Raises:
        FileNotFoundError: there is no such path.
        ValueError: unknown section or layout, or a section without images.
    """
    if section not in _SECTIONS:
        raise ValueError(
            f"expected a section in {list(_SECTIONS)}, got {section!r}; choose one of them"
        )
    top = _existing(directory)
    table = top if top.suffix == ".csv" else top / "labels.csv"
    arrays = [top] if top.suffix == ".npz" else sorted(top.glob("[!.]*.npz"))
    if table.is_file():
        entries = _from_table(table, _SECTIONS[section])
    elif arrays:
        entries = _from_arrays(arrays, _SECTIONS[section])
    else:
        entries = _from_class_folders(top, _SECTIONS[section])
    if not entries:
        raise ValueError(
            f"expected images for {section} in {str(top)!r}, got none; add some, or "
            "choose another section"
        )
    return entries


def _existing(directory: str | os.PathLike[str]) -> Path:
    top = Path(directory)
    if not top.exists():
        raise FileNotFoundError(
            f"expected a folder of images, got {str(top)!r}, which does not exist; "
            "pass --dataset_dir with a folder that does"
        )
    return top


def _from_table(table: Path, split: str) -> list[Entry]:
    with table.open(newline="") as stream:
        reader = csv.DictReader(stream)
        missing = {"path", "label", "split"} - set(reader.fieldnames or ())
        if missing:
            raise ValueError(
                f"expected the columns path, label and split in {str(table)!r}, got "
                f"{reader.fieldnames}; add {', '.join(sorted(missing))}"
            )
        return [
            {"image": str(table.parent / row["path"]), "label": int(row["label"])}
            for row in reader
            if row["split"] == split
        ]


def _from_arrays(files: list[Path], split: str) -> list[Entry]:
    if len(files) > 1:
        raise ValueError(
            f"expected one .npz file, got {[file.name for file in files]}; "
            "pass the path of one of them"
        )
    with np.load(files[0], allow_pickle=False) as archive:
        wanted = (f"{split}_images", f"{split}_labels")
        if not set(wanted) <= set(archive.files):
            raise ValueError(
                f"expected the arrays {' and '.join(wanted)} in {str(files[0])!r}, got "
                f"{archive.files}; use the layout of MedMNIST"
            )
        images, labels = (archive[name] for name in wanted)
    if labels.size != len(images):
        raise ValueError(
            f"expected one label an image in {str(files[0])!r}, got images {images.shape} and "
            f"labels {labels.shape}; several labels an image are not supported"
        )
    if images.ndim == 3:  # rows x columns; MONAI's readers give pictures the other way round
        images = images.swapaxes(1, 2)
    names = (f"{files[0].name} {split} {index:06d}" for index in range(len(images)))
    return [
        {"image": image, "label": int(label), "name": name}
        for image, label, name in zip(images, labels.ravel(), names, strict=False)
    ]


def _from_class_folders(top: Path, split: str) -> list[Entry]:
    folders = sorted(f for f in top.glob("[!.]*") if f.is_dir())
    if len(folders) < 2:
        raise ValueError(
            f"expected labels.csv, one .npz file or one folder per class in {str(top)!r}, got "
            f"{sorted(f.name for f in top.glob('*'))[:5]}; pass the folder that holds them"
        )
    entries: list[Entry] = []
    for label, folder in enumerate(folders):
        files = find_images(folder)
        first, second = len(files) * 7 // 10, len(files) * 8 // 10
        block = {"train": slice(first), "val": slice(first, second), "test": slice(second, None)}
        entries += [{**entry, "label": label} for entry in files[block[split]]]
    return entries
