"""MONAI Label: component volumes, their numbers, and images ranked by sensitivity.

Needs MONAI Label, which the base install does not bring; see docs/monai_label.md.
"""
