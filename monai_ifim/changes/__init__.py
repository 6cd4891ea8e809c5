"""Changes of an image that are named by what its batch holds beside it: organs, spacing."""

from monai_ifim.changes.batch import Batch, MissingEntry, spacing_of
from monai_ifim.changes.label_map import label_map_of, label_numbers
from monai_ifim.changes.of_batch import MaskOf, SmoothOf, with_changes_of

__all__ = [
    "Batch",
    "MaskOf",
    "MissingEntry",
    "SmoothOf",
    "label_map_of",
    "label_numbers",
    "spacing_of",
    "with_changes_of",
]
