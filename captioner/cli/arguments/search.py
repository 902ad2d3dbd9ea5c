"""How to search, and what captions must obey, as arguments of the sub-commands that caption."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from captioner.cli.arguments.photos import positive

if TYPE_CHECKING:
    from captioner.decoding import Search
    from captioner.predictors import Wording


ONLY_WITH = {  # what an argument belongs to; given with another search it would do nothing
    "beam_size": ("beam", "diverse"),
    "length_penalty": ("beam", "diverse"),
    "groups": ("diverse",),
    "diversity": ("diverse",),
    "temperature": ("sample",),
    "top_k": ("sample",),
    "top_p": ("sample",),
    "seed": ("sample",),
}


def add_search_arguments(parser: argparse.ArgumentParser) -> None:
    """The search, and what captions must obey."""
    search = parser.add_argument_group("search")
    search.add_argument(
        "--search",
        choices=("beam", "diverse", "sample", "greedy"),
        default="beam",
        help="beam search (default), diverse beam search, sampling, or always the likeliest word",
    )
    search.add_argument("--beam-size", type=positive, metavar="K", help="prefixes that beam search keeps (default 5)")
    search.add_argument("--length-penalty", type=float, metavar="P", help="of beam search; 0 is none (default 0.7)")
    search.add_argument("--groups", type=positive, metavar="G", help="of diverse beam search (default: one per beam)")
    search.add_argument("--diversity", type=float, metavar="D", help="how much groups keep apart (default 0.5)")
    search.add_argument("--temperature", type=float, metavar="T", help="of sampling; below 1 is safer (default 1)")
    search.add_argument("--top-k", type=positive, metavar="N", help="sample from the N likeliest words")
    search.add_argument("--top-p", type=float, metavar="P", help="sample from the likeliest words of probability P")
    search.add_argument("--seed", type=int, metavar="N", help="of sampling (default 0)")
    wording = parser.add_argument_group("what captions must obey")
    wording.add_argument("--min-length", type=int, default=1, metavar="N", help="words, at least (default 1)")
    wording.add_argument("--max-length", type=positive, default=30, metavar="N", help="words, at most (default 30)")
    wording.add_argument("--no-repeat", type=int, default=0, metavar="N", help="no run of N words comes twice")
    for name, help_text in (
        ("--forbid", "words that no caption may hold (may be given again)"),
        ("--require", "words that every caption must hold (may be given again)"),
        ("--no-ending", "words that no caption may end in (may be given again)"),
    ):
        wording.add_argument(name, action="append", default=[], metavar="WORDS", help=help_text)


def add_num_best(parser: argparse.ArgumentParser) -> None:
    """How many captions of each photo."""
    parser.add_argument("--num-best", type=positive, default=1, metavar="N", help="captions of each photo (default 1)")


def find_search(args: argparse.Namespace, num_best: int = 1) -> Search:
    """The search that the arguments name.

    Args:
        args: what `add_search_arguments` declared.
        num_best: captions wanted of each photo: so many are sampled.

    Raises:
        ValueError: an argument of another search.
    """
    from captioner.decoding import BeamSearch, DiverseBeamSearch, GreedySearch, Sampling

    given = {name: value for name, value in vars(args).items() if name in ONLY_WITH and value is not None}
    for name in given:
        if args.search not in ONLY_WITH[name]:
            raise ValueError(
                f"--{name.replace('_', '-')} belongs to --search {' or '.join(ONLY_WITH[name])}, not to {args.search}"
            )
    if args.search == "greedy":
        return GreedySearch()
    if args.search == "sample":
        return Sampling(num_samples=num_best, **given)
    if args.search == "beam":
        return BeamSearch(**given)
    beam_size = given.pop("beam_size", 5)
    return DiverseBeamSearch(beam_size=beam_size, num_groups=given.pop("groups", beam_size), **given)


def find_wording(args: argparse.Namespace) -> Wording:
    """What captions must obey by the arguments."""
    from captioner.predictors import Wording

    return Wording(
        min_length=args.min_length,
        max_length=args.max_length,
        no_repeat=args.no_repeat,
        forbidden=tuple(args.forbid),
        required=tuple(args.require),
        bad_endings=tuple(args.no_ending),
    )
