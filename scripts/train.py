"""Train a captioning model from a config: the same as `captioner train`."""

import sys

from captioner.cli.train import main

if __name__ == "__main__":
    sys.exit(main())
