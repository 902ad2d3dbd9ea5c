"""Arguments and configs of a training, read again where they were refused."""

from __future__ import annotations

import pytest

from captioner.cli.arguments.training import fault, written
from captioner.cli.main import main
from captioner.training import Schedule


class Model:
    """What a config describes."""

    def __init__(self, schedule: Schedule, size: int = 3) -> None: ...


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text(
        "run_dir: x\nmodel: {schedule: {class_path: captioner.tasks.schedules.EpochDecay, init_args: {gamma: 1}}}\n"
    )
    return path


DECAY = "captioner.training.EpochDecay"


def schedule(*arguments: str):
    return written(arguments)["model"]["schedule"]


def test_the_later_go_before_the_earlier(config, tmp_path):
    (tmp_path / "b.yaml").write_text("run_dir: z\nmodel: {size: 4}\n")
    found = written(["fit", "-c", str(config), "--run_dir", "y", f"--config={tmp_path / 'b.yaml'}"])
    assert found == {"run_dir": "z", "model": {"schedule": {"class_path": DECAY, "init_args": {"gamma": 1}}, "size": 4}}


def test_arguments_of_a_class_in_every_form(config):
    given = ["-c", str(config)]
    for form in ("--model.schedule.init_args.every=2", "--model.schedule.every=2"):
        assert schedule(*given, form) == {"class_path": DECAY, "init_args": {"gamma": 1, "every": 2}}
    assert schedule(*given, "--model.schedule", "Constant") == {"class_path": "Constant"}
    assert schedule("--model.schedule=Constant", "--model.schedule.a.b=[1, x]") == {
        "class_path": "Constant",
        "init_args": {"a": {"b": [1, "x"]}},
    }
    assert written(["--callbacks+=A", "--callbacks.x=1", "--callbacks+={class_path: B}"]) == {
        "callbacks": [{"class_path": "A", "init_args": {"x": 1}}, {"class_path": "B"}]
    }
    assert written(["--fast", "--a=[", "-c"]) == {"fast": None, "a": "["}


def test_a_fault_is_found_or_the_parser_s_own_words_are_used(config):
    sections = {"run_dir": str, "model": Model}
    given = ["fit", "-c", str(config)]
    assert fault([*given, "--model.schedule.gama=1"], sections, "long").startswith("model.schedule.init_args.gama: ")
    assert fault([*given, "--modl.size=1"], sections, "unrecognized: --modl.size").startswith("there is no 'modl': ")
    assert fault(given, sections, "two\n  lines") == "two lines"
    assert fault(["-c", "gone.yaml"], sections, "no such file") == "no such file"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"model: [", "not a YAML file"),
        (b"\xff\xfe", "not UTF-8 text"),
        (b"- 1", "not a training config"),
        (b"", "not a training config"),
        (b"a: &a [*a]", "something in it holds itself"),
    ],
)
def test_configs_that_are_none_are_named(content, message, tmp_path, capsys):
    path = tmp_path / "a.yaml"
    path.write_bytes(content)
    assert fault(["-c", str(path)], {}, "refused").startswith(f"{path}: {message}"[:60])
    assert message in fault(["-c", str(path)], {}, "refused")
    assert main(["train", "fit", "-c", str(path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"captioner: error: {path}: ")
