"""Images of the MONAI Label app in a PACS that speaks DICOMweb."""
