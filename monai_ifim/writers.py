"""A NIfTI writer whose files are either whole or not there."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import torch
from monai.data import NibabelWriter

logger = logging.getLogger(__name__)


class AtomicNibabelWriter(NibabelWriter):
    """MONAI's ``NibabelWriter``, for ``SaveImaged(writer="monai_ifim.AtomicNibabelWriter")``.

    A file appears under its final name only when complete. A volume with NaN or infinity is not
    written: its row in ``ifim.csv`` says why.
    """

    def write(self, filename: str | os.PathLike[str], verbose: bool = False, **kwargs: Any) -> None:
        """Write to a hidden neighbour, then rename.

        Args:
            filename: final path, ending in .nii or .nii.gz.
            verbose: log the path.
            kwargs: passed to nibabel.
        """
        if not torch.isfinite(torch.as_tensor(self.data_obj)).all():
            logger.error("%s not written: the volume holds NaN or infinity", filename)
            return
        final = Path(filename)
        partial = final.with_name(f".partial-{os.getpid()}-{final.name}")
        try:
            super().write(partial, verbose=False, **kwargs)
            partial.replace(final)
            if verbose:
                logger.info("wrote %s", final)
        finally:
            partial.unlink(missing_ok=True)
