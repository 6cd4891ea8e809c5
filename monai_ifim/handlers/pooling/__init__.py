"""The eigenspace that is pooled over each epoch's images."""

from monai_ifim.handlers.pooling.choices import IFIMPooling
from monai_ifim.handlers.pooling.epochs import observers_of

__all__ = ["IFIMPooling", "observers_of"]
