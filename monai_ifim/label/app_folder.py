"""The folder that MONAI Label takes for an app, and a server for it."""

from __future__ import annotations

import ipaddress
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

_MAIN = '''"""MONAI Label app of monai_ifim; put bundles into the folder model/."""

from monailabel.interfaces.app import MONAILabelApp

from monai_ifim.label.app import IFIMApp


class App(IFIMApp, MONAILabelApp):  # MONAI Label looks for a class with that direct base
    """Serves the classification bundles in ``model/``."""
'''


def write_app(folder: Path, bundles: Sequence[Path] = ()) -> Path:
    """Write an app folder.

    Args:
        folder: new, or an app folder to be written anew; its bundles stay.
        bundles: folders to copy into ``model/``.

    Returns:
        The folder.

    Raises:
        ValueError: the folder holds something else, or a bundle is already in it or not there.
    """
    if folder.exists() and any(folder.iterdir()) and not (folder / "model").is_dir():
        raise ValueError(f"expected an empty folder or an app, got {folder}; choose another")
    for bundle in bundles:
        if not (bundle / "configs").is_dir():
            raise ValueError(f"expected a bundle with a folder configs, got {bundle}")
        if (folder / "model" / bundle.name).exists():
            raise ValueError(
                f"expected no bundle {bundle.name} in {folder / 'model'}, got one; remove it first"
            )
    (folder / "model").mkdir(parents=True, exist_ok=True)
    (folder / "main.py").write_text(_MAIN)
    for bundle in bundles:
        ignore = shutil.ignore_patterns("eval", "__pycache__")
        shutil.copytree(bundle, folder / "model" / bundle.name, ignore=ignore)
    return folder


def start_server(
    app: Path,
    studies: str,
    host: str,
    port: int,
    conf: Sequence[str],
    *,
    without_password: bool = False,
) -> None:
    """Become MONAI Label's server for an app; does not return.

    Args:
        app: folder of the app.
        studies: folder of the images, or address of a DICOMweb server.
        host: address to listen at; 127.0.0.1 keeps other machines out.
        port: to listen at.
        conf: settings of the app as ``NAME=VALUE``.
        without_password: let other machines in although nobody is asked for a password.

    Raises:
        ValueError: a folder that is not there, a setting without a value, an address with a
            password, or one that other machines reach while MONAI Label asks for no password.
    """
    check_host(host, without_password)
    remote = studies.startswith(("http://", "https://"))
    if remote:
        check_address(studies)
    for folder in [app] if remote else [app, Path(studies)]:
        if not folder.is_dir():
            raise ValueError(f"expected a folder, got {folder}; make it first")
    command = [sys.executable, "-m", "monailabel.main", "start_server"]
    command += ["--app", str(app), "--studies", studies, "--host", host, "--port", str(port)]
    command += ["--uvicorn_app", "monai_ifim.label.server:app"]
    for setting in conf:
        name, _, value = setting.partition("=")
        if not value:
            raise ValueError(f"expected a setting as NAME=VALUE, got {setting!r}")
        command += ["--conf", name, value]
    # Programs of this environment, such as those of dcmqi, which MONAI Label would else download.
    programs = str(Path(sys.executable).parent)
    os.environ["PATH"] = os.pathsep.join([programs, os.environ.get("PATH", os.defpath)])
    os.environ.setdefault("PYTHONPATH", "")  # MONAI Label's background tasks read it
    sys.stdout.flush()
    os.execv(command[0], command)


def check_address(studies: str) -> None:
    """Refuse an address that holds a password: it stands in logs, answers and lists of processes.

    Args:
        studies: address of a DICOMweb server.

    Raises:
        ValueError: refused.

    >>> check_address("http://127.0.0.1:8042/dicom-web")
    >>> check_address("https://reader:secret@pacs.example/dicom-web")
    Traceback (most recent call last):
        ...
    ValueError: expected the address of a PACS alone, got one with a user or a password; set \
MONAI_LABEL_DICOMWEB_USERNAME and MONAI_LABEL_DICOMWEB_PASSWORD
    """
    if "@" in urlsplit(studies).netloc:
        raise ValueError(
            "expected the address of a PACS alone, got one with a user or a password; set "
            "MONAI_LABEL_DICOMWEB_USERNAME and MONAI_LABEL_DICOMWEB_PASSWORD"
        )


def check_host(host: str, without_password: bool) -> None:
    """Refuse to let other machines in while nobody is asked for a password.

    Args:
        host: address to listen at.
        without_password: do so nevertheless.

    Raises:
        ValueError: refused.

    >>> check_host("127.0.0.1", False)
    >>> check_host("0.0.0.0", False)
    Traceback (most recent call last):
        ...
    ValueError: expected an address of this machine alone, such as 127.0.0.1, got 0.0.0.0, where \
everyone could read all images and, through /proxy, the whole PACS; set MONAI_LABEL_AUTH_ENABLE=\
true and MONAI_LABEL_AUTH_REALM_URI, or say --without-password behind a proxy that authenticates
    """
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = host == "localhost"
    asks = os.environ.get("MONAI_LABEL_AUTH_ENABLE", "").lower() in ("true", "1", "yes", "on", "t")
    if not (loopback or asks or without_password):
        raise ValueError(
            f"expected an address of this machine alone, such as 127.0.0.1, got {host}, where "
            "everyone could read all images and, through /proxy, the whole PACS; set "
            "MONAI_LABEL_AUTH_ENABLE=true and MONAI_LABEL_AUTH_REALM_URI, or say "
            "--without-password behind a proxy that authenticates"
        )
