"""Draw where the model looks for every word: the same as `captioner heatmap`."""

import sys

from captioner.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["heatmap", *sys.argv[1:]]))
