"""How far a run is, in a terminal and on a pipe."""

import io

from monai_ifim.runs.progress import Progress


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_speed_and_time_left():
    clock = Clock()
    progress = Progress(100, io.StringIO(), clock)
    clock.now = 10
    assert progress.line(25) == "25/100 images, 2.5 images/s, 0:30 left"
    clock.now = 4000
    assert progress.line(50, 2) == "50/100 images, 0.0125 images/s, 1:06:40 left, 2 failed"
    assert progress.line(0) == "0/100 images"
    clock.now = 10
    assert progress.line(60, 0, earlier=40) == "60/100 images, 2 images/s, 0:20 left"
    assert progress.line(40, 0, earlier=40) == "40/100 images"


def test_a_pipe_gets_a_line_now_and_then():
    clock, stream = Clock(), io.StringIO()
    progress = Progress(1000, stream, clock)
    for done in range(1000):
        clock.now = done / 10
        progress.show(done)
    progress.clear()
    lines = stream.getvalue().splitlines()
    assert [line.split("/")[0] for line in lines] == ["300", "600", "900"]
    assert "\x1b" not in stream.getvalue()


def test_a_short_run_says_nothing_on_a_pipe():
    stream = io.StringIO()
    Progress(2, stream, Clock()).show(2)
    assert stream.getvalue() == ""


def test_a_terminal_has_one_line_that_is_drawn_anew():
    clock, stream = Clock(), Terminal()
    progress = Progress(10, stream, clock)
    for done in range(1, 11):
        clock.now = done / 8
        progress.show(done)
    progress.clear()
    text = stream.getvalue()
    assert "\n" not in text
    assert text.count("\r") == 6  # not more often than five times a second, and the end
    assert "[#####" in text
    assert text.endswith("\r\x1b[K")


def test_more_images_than_were_listed():
    """A file may hold several."""
    assert "[########################] 4/2 images" in Progress(2, Terminal(), Clock()).line(4)
