"""MONAI Deploy: an operator for components and numbers, and an application from DICOM to DICOM.

Needs the MONAI Deploy App SDK, which the base install does not bring; see docs/guides/deploy.md.
"""
