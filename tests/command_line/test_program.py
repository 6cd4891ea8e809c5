"""The command line: what it prints, and one line with a fix for what it cannot do."""

import re
import shlex
import subprocess
import sys
from argparse import ArgumentParser, Namespace
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest

from _helpers.commands import refused
from monai_ifim.cli import main
from monai_ifim.cli.failures import described
from monai_ifim.cli.program import COMMANDS, build_parser

NAMES = [command.name for command in COMMANDS]
MODULE = [sys.executable, "-m", "monai_ifim"]
# The console script, as pip writes it.
SCRIPT = [sys.executable, "-c", "import sys; from monai_ifim.cli import main; sys.exit(main())"]


def run(command: list[str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)


def raising(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Let the command ``config`` fail with an error."""

    def fail(options: Namespace) -> None:
        raise error

    failing = tuple(replace(c, run=fail) for c in COMMANDS if c.name == "config")
    monkeypatch.setattr("monai_ifim.cli.program.COMMANDS", failing)


def test_the_commands():
    assert [
        *("run", "merge", "doctor", "config", "sheet", "demo", "report", "view", "dicom", "pooled"),
        *(
            "signal-images",
            "hippocampus-patches",
            "experiment",
            "evidence-page",
            "label-app",
            "label-server",
        ),
    ] == NAMES
    assert [command.alias for command in COMMANDS if command.alias] == ["results-page"]


@pytest.mark.parametrize("command", COMMANDS, ids=NAMES)
def test_the_help_of_a_command_ends_with_an_example_that_parses(
    command, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(SystemExit) as stop:
        main([command.name, "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    example = text.partition("example:\n")[2].strip()
    assert example == f"monai-ifim {command.example}"
    options = build_parser("monai-ifim").parse_args(shlex.split(example)[1:])
    assert options.command is command


@pytest.mark.parametrize("command", COMMANDS, ids=NAMES)
def test_every_argument_has_help(command):
    parser = ArgumentParser()
    command.add_arguments(parser)
    assert all(action.help for action in parser._actions)


@pytest.mark.parametrize("program", [MODULE, SCRIPT], ids=["module", "script"])
@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["experiment", "--help"]])
def test_help_and_version_load_neither_torch_nor_monai(program, arguments):
    done = run([sys.executable, "-X", "importtime", *program[1:]], *arguments)
    assert done.returncode == 0
    loaded = {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
    assert "monai_ifim.cli.program" in loaded
    assert loaded.isdisjoint({"torch", "monai", "numpy", "nibabel", "ignite", "yaml"})
    assert done.stdout


def test_the_version_is_that_of_the_installation(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"monai-ifim {version('monai-ifim')}\n"


def test_help_loads_the_standard_library_alone():
    """So it takes less than a tenth of ``import monai``: 0.06 s to 4 s."""
    done = run([sys.executable, "-X", "importtime", *SCRIPT], "--help")
    found = re.findall(r"\|\s+([\w.]+)$", done.stderr, re.MULTILINE)
    started = run([sys.executable, "-X", "importtime", "-c", ""]).stderr  # site, what it loads
    before = set(re.findall(r"\|\s+([\w.]+)$", started, re.MULTILINE))
    names = [name for name in found if name not in before]
    ours = [name for name in names if name.split(".")[0] == "monai_ifim"]
    tops = {name.split(".")[0] for name in names} - {"monai_ifim"}
    assert tops <= sys.stdlib_module_names
    assert [n for n in ours if n != "monai_ifim" and not n.startswith("monai_ifim.cli")] == []
    assert len(names) < 150


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("monai-ifim ", {"run", "doctor", "config", "--version"}),
        ("monai-ifim ru", {"run"}),
        ("monai-ifim run --in", {"--input", "--intensity"}),
        ("monai-ifim config ifim_s", {"ifim_segmentation"}),
        ("monai-ifim sheet --mo", {"--most"}),
    ],
)
def test_bash_completes(line: str, words: set[str], capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stop:
        main(["--completion", "bash"])
    assert stop.value.code == 0
    completion = capsys.readouterr().out
    typed = " ".join(map(shlex.quote, line.split(" ")))
    number = len(line.split(" ")) - 1
    code = f"{completion}\nCOMP_WORDS=({typed}); COMP_CWORD={number}; _monai_ifim\n"
    code += 'printf "%s\\n" "${COMPREPLY[@]}"'
    done = run(["bash", "--norc", "-c", code])
    assert done.returncode == 0, done.stderr
    found = set(done.stdout.split())
    assert words <= found
    assert all(word.startswith(line.split(" ")[-1]) for word in found)


def test_zsh_completes_as_bash_does(capsys: pytest.CaptureFixture[str]):
    for shell in ("bash", "zsh"):
        with pytest.raises(SystemExit):
            main(["--completion", shell])
    bash, _, zsh = capsys.readouterr().out.partition("autoload")
    assert zsh.partition("\n")[2].strip() == bash.strip()


def test_the_name_that_was_typed_is_the_one_in_the_messages():
    assert "usage: python -m monai_ifim " in run(MODULE, "--help").stdout
    assert run(MODULE, "config", "x").stderr.startswith("python -m monai_ifim config: ")
    assert run(SCRIPT, "config", "x").stderr.startswith("monai-ifim config: ")


def test_config_prints_a_path_from_any_folder(tmp_path: Path):
    command = [*MODULE, "config", "ifim_validate"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert Path(done.stdout.strip()).name == "ifim_validate.yaml"
    assert Path(done.stdout.strip()).is_file()


def test_unknown_config_names_the_known_ones(capsys: pytest.CaptureFixture[str]):
    assert "ifim_transform" in refused(capsys, "config", "nothing")


def test_unknown_command_names_the_known_ones(capsys: pytest.CaptureFixture[str]):
    line = refused(capsys, "sheets")
    assert "sheet" in line
    assert "see monai-ifim --help" in line
    assert "COMMAND" in refused(capsys)


def test_sheet_without_results(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    assert "expected" in refused(capsys, "sheet", str(tmp_path))
    (tmp_path / "ifim.csv").write_text("file,status\n")
    assert "at least one image" in refused(capsys, "sheet", str(tmp_path), "--most", "0")


def test_sheet_without_matplotlib_names_the_extra(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    import monai_ifim.report

    # Its own modules are there again afterwards, also as attributes of the package.
    monkeypatch.setattr(monai_ifim, "report", monai_ifim.report)
    for module in [name for name in sys.modules if name.startswith("monai_ifim.report")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert "monai_ifim[report]" in refused(capsys, "sheet", str(tmp_path))


def test_signal_images_refuse_a_count_of_none(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    assert "expected" in refused(capsys, "signal-images", "2d", str(tmp_path), "--count", "0")


def test_demo_outside_a_clone(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    assert "clone of the project" in refused(capsys, "demo")


@pytest.mark.parametrize("arguments", [["--debug", "sheet"], ["sheet", "--debug"]])
def test_debug_shows_the_traceback(arguments: list[str], tmp_path: Path):
    quiet = run(SCRIPT, "sheet", str(tmp_path))
    assert (quiet.returncode, quiet.stderr.count("\n")) == (2, 1)
    loud = run(SCRIPT, *arguments, str(tmp_path))
    assert loud.returncode == 1
    assert "Traceback" in loud.stderr
    assert "in write_sheet" in loud.stderr


def test_an_interruption_is_no_traceback(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    raising(monkeypatch, KeyboardInterrupt())
    assert refused(capsys, "config", "ifim", status=130) == "monai-ifim config: interrupted\n"


def test_an_unforeseen_error_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    raising(monkeypatch, RuntimeError("first\n  second\n\nthird"))
    line = refused(capsys, "config", "ifim", status=1)
    assert "unforeseen RuntimeError: first second third; run it again with --debug" in line
    with pytest.raises(RuntimeError, match="first"):
        main(["config", "ifim", "--debug"])


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (ValueError("expected a, got b; c"), "expected a, got b; c"),
        (FileNotFoundError("expected a, got b; c"), "expected a, got b; c"),
        (ModuleNotFoundError("expected pyarrow", name="pyarrow"), "expected pyarrow"),
        (PermissionError(13, "Permission denied", "x"), ".*Permission denied: 'x'; check the path"),
        (ModuleNotFoundError("No module", name="nowhere.x"), ".*nowhere, got none; pip install no"),
        (ModuleNotFoundError("No", name="monailabel.x"), ".*monailabel.*docs/monai_label.md"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_the_user_can_put_right_is_told_in_a_line(error: Exception, sentence: str):
    status, line = described(error)
    assert status == 2
    assert re.match(sentence, line)
