"""An Ignite handler that adds the iFIM components to an evaluator's output."""

from monai_ifim.handlers.handler import IFIMHandler

__all__ = ["IFIMHandler"]
