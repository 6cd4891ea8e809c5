"""Files that hold images: formats, DICOM series, limits, and what a folder holds."""
