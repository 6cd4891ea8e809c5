"""MONAI Deploy: an operator for components and numbers, and an application from DICOM to DICOM.

Needs the MONAI Deploy App SDK, which the base install does not bring; see docs/guides/deploy.md.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from monai_ifim.deploy.application import IFIMApplication
    from monai_ifim.deploy.operator import IFIMOperator
    from monai_ifim.deploy.series import SeriesOperator
    from monai_ifim.deploy.writer import ResultsWriterOperator

__all__ = ["IFIMApplication", "IFIMOperator", "ResultsWriterOperator", "SeriesOperator"]

_MODULES = {
    "IFIMApplication": "application",
    "IFIMOperator": "operator",
    "ResultsWriterOperator": "writer",
    "SeriesOperator": "series",
}

if not TYPE_CHECKING:  # a type checker would take any name for known

    def __getattr__(name: str) -> object:
        """The class that is asked for, with the SDK loaded for the first one.

        Args:
            name: one of ``__all__``.

        Returns:
            The class.

        Raises:
            AttributeError: there is no such name.
            ModuleNotFoundError: the SDK is not installed.
        """
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        try:
            return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
        except ModuleNotFoundError as error:
            if str(error).startswith("expected"):
                raise
            raise ModuleNotFoundError(
                f"expected the MONAI Deploy App SDK and what it needs, got no {error.name}; "
                "pip install 'monai_ifim[deploy]'",
                name=error.name,
            ) from error
