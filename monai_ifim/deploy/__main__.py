"""``python -m monai_ifim.deploy -i DICOM_FOLDER -o OUTPUT_FOLDER -m BUNDLE``."""

from monai_ifim.deploy import IFIMApplication

if __name__ == "__main__":
    IFIMApplication().run()
