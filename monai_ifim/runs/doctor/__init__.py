"""What this machine has, whether a bundle fits, and what an image costs."""

from monai_ifim.runs.doctor.bundle import Examination, examine_bundle
from monai_ifim.runs.doctor.machine import machine_lines, reader_lines

__all__ = ["Examination", "examine_bundle", "machine_lines", "reader_lines"]
