"""F of many images, of a neighbourhood, or of several networks, pooled into one eigenspace."""

from monai_ifim.core.pooling.pooled import PooledEigenspace
from monai_ifim.core.pooling.smoothed import smoothed_eigenspace
from monai_ifim.core.pooling.stream import pooled_eigenspace

__all__ = ["PooledEigenspace", "pooled_eigenspace", "smoothed_eigenspace"]
