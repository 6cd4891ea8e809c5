"""F of many images, of a neighbourhood, or of several networks, pooled into one eigenspace."""

from monai_ifim.core.pooling.digest import network_digest, network_name
from monai_ifim.core.pooling.given import (
    Space,
    leading,
    load_pooled,
    pooled_digest,
    pooled_note,
    pooled_summary,
    pooled_words,
    taken_in,
    warn_of_another,
)
from monai_ifim.core.pooling.pooled import PooledEigenspace
from monai_ifim.core.pooling.smoothed import smoothed_eigenspace
from monai_ifim.core.pooling.stream import pooled_eigenspace

__all__ = [
    "PooledEigenspace",
    "Space",
    "leading",
    "load_pooled",
    "network_digest",
    "network_name",
    "pooled_digest",
    "pooled_eigenspace",
    "pooled_note",
    "pooled_summary",
    "pooled_words",
    "smoothed_eigenspace",
    "taken_in",
    "warn_of_another",
]
