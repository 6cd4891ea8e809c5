"""A NIfTI writer whose files are either whole or not there."""

from __future__ import annotations

import logging
import os
from typing import Any

import torch
from monai.data import MetaTensor, NibabelWriter

from monai_ifim.data.nifti import write_nifti

logger = logging.getLogger(__name__)


class AtomicNibabelWriter(NibabelWriter):
    """MONAI's ``NibabelWriter``, for ``SaveImaged(writer="monai_ifim.AtomicNibabelWriter")``.

    A file appears under its final name only when complete. A volume with NaN or infinity is
    logged and not written, and the run goes on: ``IFIMHandler`` gives NaN to an image without a
    result only, and its row in ``ifim.csv`` says why.
    """

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
        values = MetaTensor(values, meta={"original_channel_dim": float("nan")})
        super().set_data_array(values, channel_dim, *args, **kwargs)
        if channel_dim is not None and values.shape[channel_dim] == 1:
            single = values.select(channel_dim, 0)
            if self.data_obj.ndim < single.ndim:  # type: ignore[has-type]
                self.data_obj = single

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
        image = self.create_backend_obj(
            self.data_obj, affine=self.affine, dtype=self.output_dtype, **kwargs
        )
        # ITK reads the affine only with a code other than 0, and prefers the quaternions.
        image.set_sform(image.affine, code=1)
        image.set_qform(image.affine, code=1)
        write_nifti(image, filename)
        if verbose:
            logger.info("wrote %s", filename)

    @classmethod
    def create_backend_obj(cls, *args: Any, **kwargs: Any) -> Any:
        """The nibabel image, with its unit: MONAI's affines are in millimetres.

        Args:
            args: those of ``NibabelWriter.create_backend_obj``, in its order.
            kwargs: those of ``NibabelWriter.create_backend_obj`` by name.

        Returns:
            A ``Nifti1Image``.
        """
        image = super().create_backend_obj(*args, **kwargs)
        image.header.set_xyzt_units("mm")
        return image
