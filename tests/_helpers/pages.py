"""Pages of the documentation: their code blocks, and a shell in which their commands are found."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def blocks(page: str, language: str) -> list[str]:
    """The code blocks of a page in one language, as they stand.

    Args:
        page: its path below docs/.
        language: as the block's first line has it.

    Returns:
        Their texts, in order.
    """
    text = (DOCS / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def environment(folder: Path) -> dict[str, str]:
    """In which ``python`` and ``monai-ifim`` are those under test, installed or not."""
    programs = folder / "programs"
    programs.mkdir(exist_ok=True)
    for name, arguments in {"python": "", "monai-ifim": "-m monai_ifim"}.items():
        program = programs / name
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments} "$@"\n')
        program.chmod(0o755)
    path = os.pathsep.join([str(programs), os.environ["PATH"]])
    return os.environ | {"PATH": path, "PYTHONPATH": str(ROOT)}


def shell(text: str, folder: Path, variables: dict[str, str]) -> None:
    """Run lines of a page in a folder; a command that fails is an error."""
    done = subprocess.run(
        ["bash", "-euc", text], cwd=folder, env=variables, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
