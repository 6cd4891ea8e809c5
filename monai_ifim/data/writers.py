"""A NIfTI writer whose files are either whole or not there."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor, NibabelWriter
from torch import Tensor

from monai_ifim.data.nifti import component_header, units_of, write_nifti
from monai_ifim.data.provenance import POOLED
from monai_ifim.data.source_grid import SourceGrid

logger = logging.getLogger(__name__)


class AtomicNibabelWriter(NibabelWriter):
    """MONAI's ``NibabelWriter``, for ``SaveImaged(writer="monai_ifim.AtomicNibabelWriter")``.

    A file appears under its final name only when complete. A volume with NaN or infinity is
    logged and not written, and the run goes on: ``IFIMHandler`` gives NaN to an image without a
    result only, and its row in ``ifim.csv`` says why.

    Attributes:
        units: NIfTI's ``xyzt_units``; those of the image's metadata where it came from a NIfTI,
            else millimetres.
        description: the header's ``descrip``, of which 79 bytes are kept.
        source_header: of the file on whose grid the values are; its transforms, codes and intent
            are kept then.
    """

    units: int = 2
    description: str = ""
    source_header: Any = None

    def set_data_array(
        self, data_array: Any, channel_dim: int | None = 0, *args: Any, **kwargs: Any
    ) -> None:
        """Take the values, with a single slice's axis, and forget where the file had its channels.

        MONAI saves (H, W, 1) as (H, W). And MONAI 1.6.1 counts the spatial axes of the
        channel-last array by the file's channel axis, and fails for colour pictures.

        Args:
            data_array: MetaTensor, tensor or array, channel first.
            channel_dim: axis of the channels, None if there is none.
            args: further ones of ``NibabelWriter.set_data_array``, in its order.
            kwargs: further ones by name, such as ``squeeze_end_dims``.
        """
        values = torch.as_tensor(data_array).detach().as_subclass(torch.Tensor)
        if values.dtype.is_floating_point and values.dtype.itemsize < 4:
            values = values.float()  # exact; numpy has no bfloat16, NIfTI no float16
        values = MetaTensor(values, meta={"original_channel_dim": float("nan")})
        super().set_data_array(values, channel_dim, *args, **kwargs)
        if channel_dim is not None and values.shape[channel_dim] == 1:
            single = values.select(channel_dim, 0)
            if self.data_obj.ndim < single.ndim:  # type: ignore[has-type]
                self.data_obj = single

    def set_metadata(
        self, meta_dict: Mapping[str, Any] | None, resample: bool = True, **options: Any
    ) -> None:
        """Take affine and unit.

        Args:
            meta_dict: of the image, as MONAI's readers make it.
            resample: to the grid of the file.
            options: further ones of ``NibabelWriter.set_metadata``.
        """
        units = (meta_dict or {}).get("xyzt_units")
        if units is not None:
            self.units = units_of(units)
        super().set_metadata(meta_dict, resample, **options)

    @classmethod
    def resample_if_needed(
        cls, data_array: Any, affine: Any = None, target_affine: Any = None, *args: Any, **kw: Any
    ) -> tuple[Any, Any]:
        """Values as they are when there is no other grid to go to.

        MONAI 1.6.1 passes them through float32 even then, where the sensitivities of a sure
        prediction, 1e-60 say, become zero.

        Args:
            data_array: values, channel last.
            affine: of the values.
            target_affine: of the file, None for the same.
            args: further ones of ``ImageWriter.resample_if_needed``, in its order.
            kw: further ones by name, such as ``mode``.

        Returns:
            Values and affine.
        """
        if target_affine is None:
            return data_array, affine
        return super().resample_if_needed(data_array, affine, target_affine, *args, **kw)

    def write(self, filename: str | os.PathLike[str], verbose: bool = False, **kwargs: Any) -> None:
        """Write the file, compressed by ``isal`` where it is installed.

        Args:
            filename: final path, ending in .nii or .nii.gz.
            verbose: log the path.
            kwargs: ``header``, ``extra`` and ``file_map`` of ``nibabel.Nifti1Image``.
        """
        values = torch.as_tensor(self.data_obj).as_subclass(torch.Tensor)
        smallest, largest = values.aminmax()  # NaN if there is one; half the time of isfinite
        if not (torch.isfinite(smallest) and torch.isfinite(largest)):
            logger.error("%s not written: the volume holds NaN or infinity", filename)
            return
        dtype = np.dtype(np.float32 if self.output_dtype == np.float16 else self.output_dtype)
        if self.source_header is not None:
            kwargs["header"] = component_header(self.source_header)
        image = self.create_backend_obj(self.data_obj, affine=self.affine, dtype=dtype, **kwargs)
        image.set_data_dtype(dtype)
        if self.source_header is None:
            # ITK reads the affine only with a code other than 0, and prefers the quaternions.
            image.set_sform(image.affine, code=1)
            image.set_qform(image.affine, code=1)
        image.header["xyzt_units"] = self.units
        if self.description:
            image.header["descrip"] = self.description.encode("latin-1", "replace")[:79]
        write_nifti(image, filename)
        if verbose:
            logger.info("wrote %s", filename)


def write_component(
    volume: Tensor,
    path: str | os.PathLike[str],
    key: str,
    source: SourceGrid | None,
    placed: bool,
    model: str = "",
) -> None:
    """Write a volume; one with NaN or infinity is logged and left out.

    Args:
        volume: (C, *S); half precision is written as float32.
        path: of the file.
        key: of the volume, whose ending names the component in the header's ``descrip``.
        source: grid of the image's file, None where there is none.
        placed: the volume is on that grid, so that units, codes, both transforms, voxel sizes and
            intent are the source's; otherwise only its unit is.
        model: that made the volume, for ``descrip``.

    Raises:
        OSError: the file cannot be written, with a sentence that says why.
    """
    header = None if source is None else source.header
    writer = AtomicNibabelWriter(output_dtype=_numpy_dtype(volume))
    if placed and source is not None:
        writer.data_obj, writer.affine = source.array(volume), source.affine
    else:
        writer.set_data_array(volume, channel_dim=0)
        writer.set_metadata(volume.meta if isinstance(volume, MetaTensor) else None, resample=False)
    writer.description = _description(key, model, header)
    writer.source_header = header if placed else None
    if header is not None:
        writer.units = units_of(header["xyzt_units"])
    try:
        writer.write(path)
    except OSError as error:
        sentence = _sentence(error, Path(path))
        if sentence is None:
            raise
        explained = OSError(sentence)
        explained.errno = error.errno  # by which a full disk is known from a fault of one image
        raise explained from None


def _description(key: str, model: str, header: nib.Nifti1Header | None) -> str:
    former = "" if header is None else bytes(header["descrip"]).rstrip(b"\0").decode("latin-1")
    component = key.rsplit("_", 1)[-1]
    if component == "sensitivity":  # the image's own, whatever the components are taken in
        model = model.partition(POOLED)[0]
    return "; ".join(filter(str.strip, (f"iFIM {component}", model, "research use only", former)))


def _numpy_dtype(volume: Tensor) -> np.dtype:
    """What a NIfTI can hold without a loss."""
    dtype = volume.dtype
    if dtype.is_floating_point:
        dtype = torch.promote_types(dtype, torch.float32)
    return torch.empty(0, dtype=dtype).numpy().dtype


def _sentence(error: OSError, path: Path) -> str | None:
    """What to do about an error, by its number."""
    folder, size = path.parent, len(os.fsencode(path.name))
    sentences = {
        errno.ENOSPC: f"expected space for {path.name}, got a full disk at {folder}; make room "
        "or choose another output_dir",
        errno.EDQUOT: f"expected space for {path.name}, got a used-up quota at {folder}; make "
        "room or choose another output_dir",
        errno.ENAMETOOLONG: f"expected a name of at most 255 bytes, got {size} in "
        f"{path.name[:40]}...; rename the image",
        errno.EACCES: f"expected a folder that can be written, got {folder}, which this user may "
        "not write to; choose another output_dir",
        errno.EROFS: f"expected a folder that can be written, got {folder} on a read-only disk; "
        "choose another output_dir",
    }
    return sentences.get(error.errno or 0)
