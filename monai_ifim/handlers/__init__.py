"""An Ignite handler that adds the iFIM components to an evaluator's output."""

from monai_ifim.handlers.handler import IFIMHandler
from monai_ifim.handlers.pooling import IFIMPooling

__all__ = ["IFIMHandler", "IFIMPooling"]
