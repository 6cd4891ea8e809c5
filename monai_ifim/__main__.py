"""``python -m monai_ifim``: the command line where its script is not on the path."""

import sys

from monai_ifim.cli import main

if __name__ == "__main__":
    sys.exit(main(program="python -m monai_ifim"))
