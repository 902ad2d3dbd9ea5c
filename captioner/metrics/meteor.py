"""METEOR 1.5 (Denkowski and Lavie 2014), by the Java program that pycocoevalcap carries."""

from __future__ import annotations

import math
import subprocess
import tempfile
from collections.abc import Sequence
from typing import IO

from captioner.metrics.java import JavaError, first_message, java_command, pycocoevalcap_file


def meteor(references: Sequence[Sequence[str]], hypotheses: Sequence[str]) -> float:
    """METEOR of a corpus, as pycocoevalcap computes it: English, normalised, default parameters.

    pycocoevalcap's own class is not used: it fails where the package's path has a space, waits for ever
    when it is let go after an error, and its process outlives the score.

    Args:
        references: the tokenised references of each image.
        hypotheses: one tokenised caption per image; it may be empty.

    Returns:
        METEOR from 0 to 1.

    Raises:
        JavaError: when there is no Java or the program fails.
    """
    command = meteor_command()
    with tempfile.TemporaryFile() as messages:  # a pipe that nobody reads could fill and stop the program
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=messages)
        try:
            try:
                return _converse(process, references, hypotheses)
            finally:
                process.kill()
                process.communicate()  # closes the pipes and waits for the end
        except (OSError, ValueError) as error:
            messages.seek(0)
            message = f"METEOR's program failed ({error}): {first_message(messages.read())}"
            raise JavaError(message) from error


def meteor_command() -> list[str]:
    """The command line of METEOR's program.

    Raises:
        JavaError: when there is no Java that starts, or no program.
    """
    jar = pycocoevalcap_file("meteor", "meteor-1.5.jar")
    paraphrases = pycocoevalcap_file("meteor", "data", "paraphrase-en.gz")
    command = java_command("-Xmx2G", "-jar", str(jar), "-", "-", "-stdio", "-l", "en", "-norm")
    return [*command, "-a", str(paraphrases)]  # by itself the jar looks in a wrong place if its path has a space


def _converse(
    process: subprocess.Popen[bytes], references: Sequence[Sequence[str]], hypotheses: Sequence[str]
) -> float:
    """Ask for the statistics of each image, then for the score of them all."""
    assert process.stdin is not None
    assert process.stdout is not None
    statistics = []
    for captions, hypothesis in zip(references, hypotheses, strict=True):
        hypothesis = _without_bars(hypothesis).replace("  ", " ")
        _write_line(process.stdin, ["SCORE", *map(_without_bars, captions), hypothesis])
        statistics.append(_read_line(process.stdout))
    _write_line(process.stdin, ["EVAL", *statistics])
    for _ in statistics:
        _read_line(process.stdout)  # the score of one image
    score = float(_read_line(process.stdout))
    if not math.isfinite(score):
        raise ValueError(f"its score is {score}")
    return score


def _without_bars(caption: str) -> str:
    return caption.replace("|||", "")  # the program's separator


def _write_line(pipe: IO[bytes], fields: Sequence[str]) -> None:
    pipe.write((" ||| ".join(fields) + "\n").encode("utf-8", "replace"))
    pipe.flush()


def _read_line(pipe: IO[bytes]) -> str:
    line = pipe.readline()
    if not line:
        raise ValueError("it ended before its answer")
    return line.decode("ascii").strip()
