"""A real PACS: Orthanc with DICOMweb on a loopback port, and series to fill it with."""

import json
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pydicom
import requests
from pydicom.uid import generate_uid

from _helpers.dicom import AXIAL
from _helpers.servers import free_port

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")

# As OHIF in MONAI Label 0.8.5 sends them; test_ohif.py records them anew.
OHIF_PARAMS = {
    "result_extension": ".nrrd",
    "result_dtype": "uint8",
    "result_compress": False,
    "restore_label_idx": False,
}


def missing():
    """What keeps Orthanc from running here; None where it can."""
    if shutil.which("Orthanc") is None:
        return "Orthanc is not installed: apt-get install orthanc orthanc-dicomweb"
    if not PLUGIN.is_file():
        return f"Orthanc has no DICOMweb: no {PLUGIN}"
    return None


class Orthanc:
    """Orthanc with its files in a folder; it can be stopped and started again."""

    def __init__(self, folder):
        self.folder, self.port, self.process = folder, free_port(), None
        folder.mkdir(parents=True, exist_ok=True)
        configuration = {
            "Name": "test",
            "StorageDirectory": str(folder / "storage"),
            "IndexDirectory": str(folder / "storage"),
            "Plugins": [str(PLUGIN)],
            "HttpPort": self.port,
            "DicomServerEnabled": False,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        }
        (folder / "orthanc.json").write_text(json.dumps(configuration))

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}/dicom-web"

    @property
    def rest(self):
        return f"http://127.0.0.1:{self.port}"

    def start(self):
        with (self.folder / "log").open("a") as log:
            self.process = subprocess.Popen(
                ["Orthanc", str(self.folder / "orthanc.json")],
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        for _ in range(120):
            try:
                if requests.get(f"{self.rest}/system", timeout=5).ok:
                    return self
            except requests.ConnectionError:
                time.sleep(0.25)
        raise RuntimeError((self.folder / "log").read_text()[-2000:])

    def stop(self):
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(timeout=60)
            self.process = None

    def freeze(self):
        """It keeps its port and answers nothing."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self):
        self.process.send_signal(signal.SIGCONT)

    def send(self, content):
        answer = requests.post(f"{self.rest}/instances", data=content, timeout=60)
        answer.raise_for_status()

    def send_folder(self, folder):
        for path in sorted(Path(folder).rglob("*")):
            if path.is_file():
                self.send(path.read_bytes())

    def series(self, **query):
        """UIDs of what it holds."""
        found = requests.post(
            f"{self.rest}/tools/find",
            json={"Level": "Series", "Query": query, "Expand": True},
            timeout=60,
        ).json()
        return {s["MainDicomTags"]["SeriesInstanceUID"]: s for s in found}

    def remove(self, uid):
        [series] = [s["ID"] for u, s in self.series().items() if u == uid]
        requests.delete(f"{self.rest}/series/{series}", timeout=60).raise_for_status()

    def count(self):
        return requests.get(f"{self.rest}/statistics", timeout=60).json()["CountInstances"]


def write_scan(
    folder,
    shape=(32, 32, 32),
    *,
    orientation=AXIAL,
    modality="CT",
    step=1.5,
    skip=(),
    values=None,
):
    """Slices of one series, with all that a PACS and a segmentation ask for; its UID and values.

    ``shape`` is columns, rows, slices; all different where it matters.
    """
    kind = {"CT": "1.2.840.10008.5.1.4.1.1.2", "MR": "1.2.840.10008.5.1.4.1.1.4"}[modality]
    columns, rows, count = shape
    random = np.random.default_rng(columns * 7 + rows * 3 + count)
    values = random.integers(0, 1000, shape).astype(np.int16) if values is None else values
    normal = np.cross(orientation[:3], orientation[3:])
    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        if number in skip:
            continue
        ds = pydicom.Dataset()
        ds.file_meta = pydicom.dataset.FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = kind
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = generate_uid()
        ds.PatientID, ds.PatientName, ds.PatientBirthDate, ds.PatientSex = "P1", "Made^Up", "", ""
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = study, series, frame
        ds.StudyID, ds.StudyDate, ds.StudyTime, ds.AccessionNumber = "1", "20200102", "101112", ""
        ds.ReferringPhysicianName, ds.Modality, ds.SeriesNumber = "", modality, 3
        ds.InstanceNumber, ds.PositionReferenceIndicator = count - number, ""
        ds.ImageOrientationPatient, ds.PixelSpacing = list(orientation), [1.25, 0.75]
        place = np.array([-10, 20, 7]) + number * step * normal
        ds.ImagePositionPatient = [round(float(p), 6) for p in place]
        ds.SliceThickness, ds.RescaleSlope, ds.RescaleIntercept = step, 1, 0
        ds.Rows, ds.Columns = rows, columns
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 1
        ds.PixelData = np.ascontiguousarray(values[:, :, number].T).tobytes()
        ds.save_as(folder / f"{number:04d}.dcm", enforce_file_format=True)
    return series, values.astype(np.float32)


def store_of(pacs, folder, max_voxels=2**24, **settings):
    """A datastore on a PACS, whose listings are never old."""
    from monai_ifim.label.pacs.datastore import PacsDatastore
    from monai_ifim.label.pacs.dicomweb import DicomWeb
    from monai_ifim.label.pacs.settings import PacsSettings

    chosen = PacsSettings(**{"cache": folder, "listing_seconds": 0, "seconds": 5, **settings})
    client = DicomWeb(pacs.url, seconds=chosen.seconds, download_seconds=chosen.download_seconds)
    return PacsDatastore(client, chosen, max_voxels)
