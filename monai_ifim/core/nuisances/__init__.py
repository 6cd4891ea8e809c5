"""How much of an acquisition parameter a prediction tolerates."""

from monai_ifim.core.nuisances.nuisance import Nuisance
from monai_ifim.core.nuisances.sensitivity import (
    NuisanceSensitivity,
    check_nuisances,
    nuisance_sensitivity,
    sensitivity_of,
)

__all__ = [
    "Nuisance",
    "NuisanceSensitivity",
    "check_nuisances",
    "nuisance_sensitivity",
    "sensitivity_of",
]
