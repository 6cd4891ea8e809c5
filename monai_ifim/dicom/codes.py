"""The private coding scheme: DICOM has no codes for what this package computes.

docs/guides/dicom_results.md lists it; a test compares both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

DESIGNATOR = "99MONAIIFIM"  # "99" begins the private ones (DICOM PS3.16, section 8)
SCHEME_NAME = "monai_ifim: input-dependent Fisher information of a classifier"
SCHEME_VERSION = "1"


@dataclass(frozen=True)
class Concept:
    """One code.

    Attributes:
        value: at most 16 characters.
        meaning: at most 64 characters.
        unit: of the number in UCUM; "1" for none.
        unit_meaning: the unit in words.
    """

    value: str
    meaning: str
    unit: str = "1"
    unit_meaning: str = "no units"

    def code(self) -> Any:
        """As pydicom has it."""
        from pydicom.sr.coding import Code

        return Code(self.value, DESIGNATOR, self.meaning)

    def unit_code(self) -> Any:
        """The unit as pydicom has it."""
        from pydicom.sr.coding import Code

        return Code(self.unit, "UCUM", self.unit_meaning)


HIGH = Concept("IFIM-HIGH", "High-sensitivity component of the network's input")
ORTH = Concept("IFIM-ORTH", "Orthogonal component of the network's input")
SENSITIVITY = Concept("IFIM-SENS", "Local sensitivity: diagonal of the Fisher information")
PICTURE = Concept("IFIM-PICTURE", "Picture of the image, its components and its numbers")
PROBABILITY = Concept("IFIM-PROB", "Probability of a class, as the classifier gives it")
TRACE = Concept("IFIM-TRACE", "Trace of the Fisher information")
EIGENVALUE = Concept("IFIM-EIGEN", "Eigenvalue of the Fisher information")
EFFECTIVE_RANK = Concept("IFIM-ERANK", "Effective rank of the Fisher information")
TRACE_SHARE = Concept("IFIM-TSHARE", "Share of the trace in the eigenvalues that were kept")
ENERGY_SHARE = Concept("IFIM-ESHARE", "Share of the image's energy in the high component")
FLIP_DISTANCE = Concept("IFIM-FLIP", "Distance to another prediction, to first order")
PREDICTED = Concept("IFIM-CLASS", "Class predicted by the classifier")
STATUS = Concept("IFIM-STATUS", "Status of the computation")
ANALYSIS = Concept("IFIM-ANALYSIS", "Local sensitivity analysis of a classifier, research only")

MAPS = {"high": HIGH, "orth": ORTH, "sensitivity": SENSITIVITY}
ALL = (
    *MAPS.values(),
    PICTURE,
    *(PROBABILITY, TRACE, EIGENVALUE, EFFECTIVE_RANK, TRACE_SHARE, ENERGY_SHARE, FLIP_DISTANCE),
    *(PREDICTED, STATUS, ANALYSIS),
)


def of_label(label: str | None) -> Concept:
    """What an object of this package shows.

    Args:
        label: its ContentLabel, None of a picture.

    Returns:
        Its concept.
    """
    name = (label or "").removeprefix("IFIM_").lower()
    return next((concept for key, concept in MAPS.items() if key == name), PICTURE)


def scheme() -> list[Any]:
    """Items that tell the reader of an object whose codes these are."""
    from highdicom.coding_schemes import CodingSchemeIdentificationItem

    return [
        CodingSchemeIdentificationItem(
            designator=DESIGNATOR,
            name=SCHEME_NAME,
            version=SCHEME_VERSION,
            responsible_organization="monai_ifim",
        )
    ]
