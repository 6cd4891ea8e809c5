"""Networks that are called with several inputs, as networks of one tensor."""

from monai_ifim.core.inputs.several import SeveralInputs

__all__ = ["SeveralInputs"]
