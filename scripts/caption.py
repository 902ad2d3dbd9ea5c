"""Caption photos: the same as `captioner caption`."""

import sys

from captioner.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["caption", *sys.argv[1:]]))
