"""The report of a run: a page with the table of all images, and a page for each of them."""

from monai_ifim.report.html.report import write_report
from monai_ifim.report.html.server import ReportServer

__all__ = ["ReportServer", "write_report"]
