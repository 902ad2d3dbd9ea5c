"""The `captioner` command: finds the sub-command, and turns errors that a user can mend into one line."""

from __future__ import annotations

import argparse
import difflib
import io
import os
import sys
from collections.abc import Sequence
from importlib import import_module

import captioner
from captioner.cli.allocator import keep_freed_memory
from captioner.cli.warned import warn_in_one_line

COMMANDS = {
    "caption": "caption photos",
    "heatmap": "draw where the model looks for every word",
    "evaluate": "run a model on a data set and score its captions",
    "score": "score a results file in the COCO server's format",
    "cache": "store a frozen encoder's grids, to train on them",
    "regions": "store the regions that a detector finds in photos, to train on them",
    "shards": "pack a data set into WebDataset's tar shards, or index shards of others",
    "export": "make one safe model file of a training run",
    "compare": "train every variant of a config, and make one table of them",
    "demo": "caption free sample photos and draw their maps, to see it work",
    "train": "train, validate or print a config (the same as scripts/train.py)",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a sub-command; returns the exit status (2 for an error that stopped it)."""
    keep_freed_memory()
    warn_in_one_line()
    given = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a file's name that the terminal cannot show must not stop a run
            stream.reconfigure(errors="backslashreplace")
    if given[:1] == ["train"]:  # LightningCLI has a parser of its own
        from captioner.cli.train import main as train

        return train(given[1:])
    args = _parsed(given)
    try:
        return import_module(f"captioner.cli.{args.command}").run(args)
    except BrokenPipeError:  # who read our output has left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ValueError, OSError, RuntimeError) as error:
        reason = str(error)
        if isinstance(error, OSError) and error.filename is not None:
            reason = f"{error.filename}: {error.strerror}"
        elif isinstance(error, UnicodeEncodeError):
            reason = f"{error.object!r}: no file can be called so, and no text be written so: {error.reason}"
        print(f"captioner: error: {reason}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("captioner: interrupted", file=sys.stderr)
        return 130


def _parsed(given: Sequence[str]) -> argparse.Namespace:
    """The arguments; what none of them is called is named with those that are called alike."""
    parser, command = _parser(given[0] if given else None)
    args, unknown = parser.parse_known_args(given)
    if unknown:
        name = next((word for word in unknown if word.startswith("-")), unknown[0]).partition("=")[0]
        known = [] if command is None else [option for action in command._actions for option in action.option_strings]
        alike = difflib.get_close_matches(name, known, 3)
        hint = f"; did you mean {' or '.join(alike)}?" if alike else ""
        (command or parser).error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
    return args


def _parser(chosen: str | None) -> tuple[argparse.ArgumentParser, argparse.ArgumentParser | None]:
    """The parser, and that of the chosen sub-command; only its arguments are declared, so that help comes at once."""
    parser = argparse.ArgumentParser(prog="captioner", description=(captioner.__doc__ or "").partition("\n")[0])
    parser.add_argument("--version", action="version", version=f"captioner {captioner.__version__}")
    found = None
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, summary in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
        if name == chosen:
            import_module(f"captioner.cli.{name}").add_arguments(command)
            found = command
    return parser, found


if __name__ == "__main__":
    sys.exit(main())
