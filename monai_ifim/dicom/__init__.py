"""Results as DICOM objects: Parametric Maps, pictures and measurement reports."""
