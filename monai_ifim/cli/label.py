"""Commands of the MONAI Label app."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from monai_ifim.cli.command import Command


def _app_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("directory", type=Path, help="folder to write")
    parser.add_argument(
        "--bundle", type=Path, action="append", default=[], help="to copy in; can be repeated"
    )


def _app(options: Namespace) -> None:
    from monai_ifim.label.app_folder import write_app

    print(write_app(options.directory, options.bundle))


def _server_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("app", type=Path, help="written by label-app")
    parser.add_argument("studies", help="folder with the images, or address of a DICOMweb server")
    parser.add_argument("--host", default="127.0.0.1", help="address (%(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="to listen at (%(default)s)")
    parser.add_argument(
        "--without-password",
        action="store_true",
        help="listen to other machines although MONAI Label asks for no password",
    )
    parser.add_argument(
        "--conf",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="setting of the app; can be repeated",
    )


def _server(options: Namespace) -> None:
    from monai_ifim.label.app_folder import start_server

    start_server(
        options.app,
        options.studies,
        options.host,
        options.port,
        options.conf,
        without_password=options.without_password,
    )


COMMANDS = (
    Command(
        "label-app",
        "write an app folder for MONAI Label",
        "label-app my_app --bundle bundles/ifim_signal_2d",
        _app_arguments,
        _app,
        extra="label",
    ),
    Command(
        "label-server",
        "start MONAI Label with such an app",
        "label-server my_app path/to/images --port 8000",
        _server_arguments,
        _server,
        extra="label",
    ),
)
