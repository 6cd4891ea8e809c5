"""One case: its volumes and numbers, and the picture of it."""

from monai_ifim.report.cases.case import Case, Numbers
from monai_ifim.report.cases.figure import Style, case_figure, cases_figure

__all__ = ["Case", "Numbers", "Style", "case_figure", "cases_figure"]
