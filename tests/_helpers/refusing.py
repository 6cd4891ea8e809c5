"""A PACS that answers as Orthanc does, but takes what it likes of a store."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import requests

REFUSED, KEPT = "00081198", "00081199"


class Refusing(ThreadingHTTPServer):
    """In front of Orthanc; ``answer(objects)`` decides on a store.

    ``objects`` are pydicom data sets; the answer is (status, content, those that Orthanc gets).
    """

    daemon_threads = True

    def __init__(self, pacs, answer):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.pacs, self.answer, self.stores = pacs, answer, []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/dicom-web"


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_GET(self):
        path = self.path.removeprefix("/dicom-web")
        headers = {"Accept": self.headers["Accept"]}
        answer = requests.get(self.server.pacs.url + path, headers=headers, timeout=60)
        self.reply(answer.status_code, answer.content, answer.headers["Content-Type"])

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        objects = objects_of(body, self.headers["Content-Type"])
        self.server.stores.append([each.SOPInstanceUID for each, _ in objects])
        status, content, kept = self.server.answer([each for each, _ in objects])
        for each, raw in objects:
            if each in kept:
                self.server.pacs.send(raw)
        self.reply(status, content)

    def reply(self, status, content, kind="application/dicom+json"):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def objects_of(body, kind):
    """Data sets of a multipart request, each with its file."""
    import io

    import pydicom

    mark = f"--{kind.rpartition('boundary=')[2]}".encode()
    parts = [part.partition(b"\r\n\r\n")[2] for part in body.split(mark)[1:-1]]
    return [(pydicom.dcmread(io.BytesIO(each[:-2])), each[:-2]) for each in parts]


def told(kept=(), refused=(), code=0x0110):
    """The answer to a store in DICOM JSON."""

    def items(objects, **more):
        return [
            {
                "00081150": {"vr": "UI", "Value": [each.SOPClassUID]},
                "00081155": {"vr": "UI", "Value": [each.SOPInstanceUID]},
                **more,
            }
            for each in objects
        ]

    reason = {"00081197": {"vr": "US", "Value": [code]}}
    return json.dumps(
        {
            KEPT: {"vr": "SQ", "Value": items(kept)},
            REFUSED: {"vr": "SQ", "Value": items(refused, **reason)},
        }
    ).encode()


# What a PACS may do with the objects of a store.


def all_refused(objects):
    return 409, told((), objects, 0xA700), []


def class_refused(objects):
    """Maps are unknown to it."""
    maps = [each for each in objects if each.SOPClassUID.name == "Parametric Map Storage"]
    rest = [each for each in objects if each not in maps]
    return 202, told(rest, maps, 0x0122), rest


def error(objects):
    return 500, b"Internal Server Error", []


def not_allowed(objects):
    return 403, b"", []


def one_left_out(objects):
    """Says nothing of the last one, and does not keep it."""
    return 200, told(objects[:-1]), objects[:-1]


def page(objects):
    return 200, b"<html>welcome</html>", []


def silent(objects):
    """Keeps all, and says nothing."""
    return 200, b"", objects


def duplicates(objects):
    """Refuses what it has just been given by somebody else."""
    return 409, told((), objects, 0x0111), objects


def slow(objects):
    time.sleep(3)
    return 200, told(objects), objects
