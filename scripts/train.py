"""Train a captioning model from a config: the same as `captioner train`."""

import sys

from captioner.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
