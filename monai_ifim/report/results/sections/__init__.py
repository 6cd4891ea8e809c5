"""The measures that the page shows, in this order."""

from monai_ifim.report.results.sections.agreement import AGREEMENT
from monai_ifim.report.results.sections.controls import CONTROLS
from monai_ifim.report.results.sections.detection import DETECTION
from monai_ifim.report.results.sections.law import LAW
from monai_ifim.report.results.sections.maps import MAPS
from monai_ifim.report.results.sections.perturbation import PERTURBATION
from monai_ifim.report.results.sections.quantus import QUANTUS
from monai_ifim.report.results.sections.section import Section

SECTIONS: tuple[Section, ...] = (PERTURBATION, LAW, DETECTION, AGREEMENT, CONTROLS, MAPS, QUANTUS)

__all__ = ["SECTIONS", "Section"]
