"""`python benchmarks/gpu.py`: all that wants a GPU, for one that is at hand for minutes.

    python benchmarks/gpu.py --minutes 8 --output runs/gpu --photos photos.zip
    python benchmarks/gpu.py --quick --output /tmp/rehearsal      on a CPU: does it all run?
    python benchmarks/gpu.py --output runs/gpu --report           the tables of what was measured

The tests of a GPU, the benchmark against the textbook on the same GPU, a trace, and a training, in this order, each
within its share of the time and in a process of its own. Results lie in OUTPUT/results.json as soon as they are there;
the same command goes on where it was cut. What is missing on the machine is named, and the rest is done. docs/gpu.md
says what to expect.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from importlib.util import find_spec
from math import inf
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the package's folder is not there when this file is run

import torch

from benchmarks import machine, trace
from benchmarks.gpu_tests import Outcomes
from benchmarks.jobs import GRACE, FailedError, Job, Keep, Outcome, do
from benchmarks.run import CASES, Bench
from benchmarks.short_training import train
from benchmarks.table import Row, headline, table
from benchmarks.workload import sizes_for
from captioner.files import locked, write_whole
from captioner.training.task import COMPILERS

ROOT = Path(__file__).resolve().parents[1]
TESTS = {"kernels": 4, "steps": 14, "captions": 4, "training": 6}  # of tests/gpu, with their shares of the time
BENCHMARKS = {"decoder_step": 12, "train_step": 8, "finetune_step": 7, "captioning": 7, "bulk": 4}
TRACE, TRAINING = 6, 30
WANTED = {
    "triton": "the kernels of additive attention; without it they are many",
    "pytest": "the tests",
    "entmax": "Sparsemax and Entmax15",
    "pycocoevalcap": "BLEU and CIDEr in validation",
    "skimage": "photos for the tests of captions; they draw some",
}


class Session:
    """What all jobs of a call share.

    Args:
        output: the folder of the results.
        device: where everything runs.
        quick: whether this is a rehearsal.
        photos: the packed photos of the training; None to draw some, in a rehearsal, or to leave it out.
        model: the model file whose encoder the training starts from; None for that which ships.
    """

    def __init__(
        self, output: Path, device: torch.device, quick: bool, photos: Path | None, model: Path | None
    ) -> None:
        self.output = output
        self.device = device
        self.quick = quick
        self.photos = photos
        self.model = model
        self.path = output / "results.json"
        self.results: dict[str, Any] = {"quick": quick, "jobs": {}}
        if self.path.is_file():
            self.results = _read_results(self.path)

    def require_same_kind(self) -> None:
        """Refuse to go on with a rehearsal as if it were none, or the other way round.

        Raises:
            ValueError: the folder holds the other.
        """
        if self.results["quick"] != self.quick:
            what = "a rehearsal" if self.results["quick"] else "results that are no rehearsal's"
            raise ValueError(f"{self.output} holds {what}: choose another --output")

    def result(self, name: str) -> dict[str, Any]:
        """What a job has found."""
        return self.results["jobs"].get(name, {}).get("result", {})

    def is_done(self, job: Job) -> bool:
        """Whether a job need not be done again."""
        return self.results["jobs"].get(job.name, {}).get("state") == "done"

    def keep(self, job: Job, outcome: Outcome) -> None:
        """Add what came of a job."""
        self.results["jobs"][job.name] = asdict(outcome)
        write_whole(self.path, json.dumps(self.results, indent=1) + "\n")

    # ------------------------------------------------------------------------------------------ the jobs

    def jobs(self) -> list[Job]:
        """All of them, in their order."""
        least = 0 if self.quick else 10
        found = [Job("machine", 3, self.describe, at_least=0)]
        missing = "" if find_spec("pytest") else "pytest is not installed"
        found += [Job(f"test_{name}", share, partial(self.test, name), least, missing) for name, share in TESTS.items()]
        found += [Job(name, share, partial(self.measure, name), least) for name, share in BENCHMARKS.items()]
        found.append(Job("trace", TRACE, self.trace, least))
        no_photos = "" if self.photos or self.quick else "no --photos FILE; benchmarks/pack.py writes it"
        found.append(Job("training", TRAINING, self.train, 3 * least, no_photos))
        return found

    def describe(self, deadline: float, keep: Keep) -> dict[str, Any]:
        """The machine, and the rates that it attains."""
        described = machine.describe(self.device, torch.get_num_threads())
        known = self.result("machine").get("machine", described)
        if known["gpu"] != described["gpu"]:
            raise FailedError(
                f"{self.output} holds results of {known['gpu']}, this is {described['gpu']}: choose another --output",
                self.result("machine"),
            )
        return {"machine": described, "attainable": machine.attainable(self.device, self.quick)}

    def test(self, name: str, deadline: float, keep: Keep) -> dict[str, Any]:
        """The tests of a file that have not passed yet."""
        os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # whatever else is installed
        import pytest

        outcomes = Outcomes(self.result(f"test_{name}").get("tests", {}), keep, deadline)
        options = ["--override-ini=addopts=--import-mode=importlib", "-p", "no:cacheprovider", "-p", "no:xdist", "-v"]
        if self.device.type == "cpu":
            options.append("--rehearse")
        status = pytest.main(
            [str(ROOT / "tests" / "gpu" / f"test_{name}.py"), f"--rootdir={ROOT}", *options], [outcomes]
        )
        result = {"tests": outcomes.states, "reasons": outcomes.reasons}
        failed = [test for test, state in outcomes.states.items() if state == "failed"]
        if failed:
            first = f"{failed[0]}: {outcomes.reasons[failed[0]]}"
            raise FailedError(f"{len(failed)} of {len(outcomes.states)} failed, the first {first[:300]}", result)
        if outcomes.is_late:
            raise FailedError(f"cut after {len(outcomes.states)} tests", result)
        if status != 0 or not outcomes.states:
            raise FailedError(f"pytest ended with {status}; see log.txt", result)
        return result

    def measure(self, name: str, deadline: float, keep: Keep) -> dict[str, Any]:
        """A case of the benchmark."""
        torch.backends.cudnn.allow_tf32 = False  # fp32 means fp32 on both sides
        rates = self.result("machine")["attainable"]
        sizes, rounds = sizes_for(self.device, self.quick), 1 if self.quick else 5
        stop = deadline - 0.2 * (deadline - time.monotonic())  # optional sides, rounds; what was begun goes on
        found: dict[tuple[str, str], dict[str, Any]] = {}

        def kept(rows: list[Row]) -> None:
            found.update({(row.case, row.side): row.as_dict() for row in rows})
            keep({"sizes": asdict(sizes), "rows": [*found.values()]})

        with tempfile.TemporaryDirectory() as folder:
            threads = torch.get_num_threads()
            options = (rounds, threads, self.quick, not self.quick, rates, Path(folder), stop, kept)
            kept(CASES[name](Bench(sizes, self.device, *options)))
        return {}

    def trace(self, deadline: float, keep: Keep) -> dict[str, Any]:
        """The trace of a training step."""

        def kept(traced: list[trace.Traced]) -> None:
            keep({"steps": [asdict(step) for step in traced]})

        trace.trace(
            self.device, sizes_for(self.device, self.quick), self.output / "trace.json.gz", deadline - GRACE, kept
        )
        return {}

    def train(self, deadline: float, keep: Keep) -> dict[str, Any]:
        """The training, until the time is over; with CUDA graphs where their tests have passed."""
        seconds = deadline - time.monotonic()
        tests = self.result("test_steps").get("tests", {}).items()
        of_graphs = [state for name, state in tests if "graph" in name and "compiled" not in name]
        graphs = "passed" in of_graphs and "failed" not in of_graphs
        folder, place = self.output / "training", self.device.type
        result = train(
            folder, self.photos, seconds, self.model, place, self.quick, 2 if self.quick else None, cuda_graphs=graphs
        )
        if not result["finished"]:
            raise FailedError("cut; the same command goes on", result)
        return result

    # ------------------------------------------------------------------------------------------ the report

    def report(self) -> str:
        """What was found, in Markdown."""
        found = {name: job["result"] for name, job in self.results["jobs"].items() if job["result"]}
        parts = []
        if "machine" in found:
            parts.append(headline(found["machine"]["machine"], found["machine"]["attainable"]))
        parts.append(
            "\n".join(_counts(name, found[f"test_{name}"]["tests"]) for name in TESTS if f"test_{name}" in found)
        )
        rows = [row for name in BENCHMARKS for row in found.get(name, {}).get("rows", [])]
        parts.append(table(rows, markdown=True) if rows else "")
        parts.append(trace.table(found["trace"]["steps"]) if "trace" in found else "")
        if "training" in found:
            parts.append(f"```json\n{json.dumps(found['training'], indent=1)}\n```")
        undone = {name: job for name, job in self.results["jobs"].items() if job["state"] != "done"}
        parts.append("\n".join(f"- {name}: {job['state']}: {job['reason']}" for name, job in undone.items()))
        return "\n\n".join(filter(None, parts))


def _read_results(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        for job in found["jobs"].values():
            Outcome(**job)
        return {"quick": bool(found["quick"]), "jobs": found["jobs"]}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path}: damaged ({error!r}); remove it, or choose another --output") from error


def _counts(name: str, states: dict[str, str]) -> str:
    numbers = [f"{list(states.values()).count(state)} {state}" for state in sorted(set(states.values()))]
    return f"- `tests/gpu/test_{name}.py`: {', '.join(numbers)}"


def say_what_is_missing(say: Callable[[str], None]) -> None:
    """A line for each thing that is not installed, and for what it is."""
    for module, purpose in WANTED.items():
        if find_spec(module) is None:
            say(f"without {module}: {purpose}")
    if not any(map(shutil.which, COMPILERS)):
        say("without a C++ compiler: compiled steps")


def run(session: Session, minutes: float) -> int:
    """Do what is not done yet; 1 if something has failed or is still to be done."""
    end = time.monotonic() + 60 * minutes
    (session.output / "log.txt").touch()
    jobs = session.jobs()
    left = [job for job in jobs if job.name == "machine" or not session.is_done(job)]
    status = 0
    for number, job in enumerate(left):
        rest = end - time.monotonic() - GRACE
        shares = sum(other.share for other in left[number:] if not other.missing or other is job)
        given = rest if session.quick else rest * job.share / shares
        if job.missing or given < job.at_least:
            print(f"{job.name:14}  left out: {job.missing or 'no time'}", flush=True)
            status = 1
            continue
        outcome = do(job, given, session.output)
        session.keep(job, outcome)
        reason = f": {outcome.reason}" if outcome.reason else ""
        print(f"{job.name:14}  {outcome.state} in {outcome.seconds:.0f} s of {given:.0f}{reason}", flush=True)
        status = max(status, int(outcome.state != "done"))
        if job.name == "machine" and outcome.state != "done":
            break
    return status


def is_a_gpu_there() -> bool:
    """Ask in a process of its own: to ask may bar forks of this one from using the GPU."""
    child = os.fork()
    if child == 0:
        os._exit(0 if torch.cuda.is_available() else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Tests, benchmark, trace and training on a GPU, in so many minutes.")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="the folder of the results")
    parser.add_argument("--minutes", type=float, default=8.0, help="for all that is left to be done (default 8)")
    parser.add_argument("--photos", type=Path, metavar="ZIP", help="what benchmarks/pack.py wrote, for the training")
    parser.add_argument("--model", type=Path, help="whose encoder is trained (default: the model that ships)")
    parser.add_argument("--quick", action="store_true", help="a rehearsal with small sizes, for which a CPU will do")
    parser.add_argument("--report", action="store_true", help="print what was found, in Markdown, and do nothing")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Do it, or report."""
    args = parse(arguments)
    on_gpu = is_a_gpu_there()
    try:
        if args.report and not (args.output / "results.json").is_file():
            raise ValueError(f"{args.output}: no results.json there")
        if not (on_gpu or args.quick or args.report):
            raise ValueError("there is no GPU here; --quick rehearses on a CPU")
        if not 0 < args.minutes < inf:
            raise ValueError(f"--minutes {args.minutes}: give a number of minutes, more than none")
        for path in filter(None, (args.photos, args.model)):
            if not path.is_file():
                raise ValueError(f"{path}: no such file")
        args.output.mkdir(parents=True, exist_ok=True)
        device = torch.device("cuda" if on_gpu else "cpu")
        session = Session(args.output, device, args.quick, args.photos, args.model)
        if args.report:
            print(session.report())
            return 0
        session.require_same_kind()
        if args.quick:
            torch.set_num_threads(1)  # sizes are too small for more
        with locked(args.output):
            say_what_is_missing(lambda line: print(line, flush=True))
            return run(session, args.minutes)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("cut; the same command goes on", flush=True)
        return 130


if __name__ == "__main__":
    sys.exit(main())
