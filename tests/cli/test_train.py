"""A whole training by the command: a run's folder, going on with it, exporting it, and errors without a traceback."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path

import pytest
import torch
import yaml
from run_cases import arguments
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import captioner
from captioner.checkpoint import load_model
from captioner.cli import train
from captioner.cli.main import main
from captioner.cli.train import names_its_data
from captioner.training.run_folder import held


def test_a_runs_folder(root):
    config = yaml.safe_load((root / "run" / "config.yaml").read_text())
    assert config["trainer"]["max_epochs"] == 2
    checkpoints = sorted(path.name for path in (root / "run" / "checkpoints").iterdir())
    assert len(checkpoints) == 2
    assert checkpoints[0].startswith("best-0")
    assert checkpoints[1] == "last.ckpt"
    assert len(list((root / "run").glob("events.*"))) == 1


def test_a_run_is_not_trained_over(root, capsys):
    before = (root / "run" / "checkpoints" / "last.ckpt").read_bytes()
    assert main(arguments(root, 1)) == 2
    assert "holds a run already: go on with it by --ckpt_path last" in capsys.readouterr().err
    assert (root / "run" / "checkpoints" / "last.ckpt").read_bytes() == before


def test_going_on(root):
    assert main([*arguments(root, 3), "--ckpt_path", "last"]) == 0
    assert load_model(root / "run" / "checkpoints" / "last.ckpt").provenance["step"] == 6


def resumed(root, *changes) -> list[str]:
    return [*arguments(root, 4), "--ckpt_path", "last", *changes]


REFUSED = {
    "another size": (
        ["--model.decoder.init_args.hidden_dim=24"],
        "the checkpoint's run had another model than this one",
    ),
    "another optimizer": (
        ["--model.optimizer=SGD", "--model.optimizer.lr=0.1"],
        "the checkpoint's run had another optimizer (Adam",
    ),
    "another transform": (["--data.transform.fit=crop"], "the checkpoint's run had another transform than this one"),
    "another vocabulary": (
        ["--data.vocabulary.class_path=captioner.tokenizer.Characters"],
        "the checkpoint's run had another vocabulary than this one",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_run_goes_on_with_what_it_began_with(root, capsys, name):
    before = {
        path: path.read_bytes() for path in (root / "run").rglob("*") if path.is_file() and "events" not in path.name
    }
    changes, message = REFUSED[name]
    assert main(resumed(root, *changes)) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("captioner: error: ")
    assert message in line
    assert {path: path.read_bytes() for path in before} == before  # config.yaml is still the run's own


def test_checkpoints_are_neither_unpickled_nor_fetched(root, tmp_path, capsys):
    class Bomb:
        def __reduce__(self):
            return (Path(tmp_path / "exploded").touch, ())

    good = torch.load(root / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    torch.save({**good, "hyper_parameters": Bomb()}, tmp_path / "bomb.ckpt")
    torch.save({**good, "hyper_parameters": {"max_length": 0}}, tmp_path / "hyper.ckpt")  # it takes no arguments of it
    (tmp_path / "torn.ckpt").write_bytes((root / "run" / "checkpoints" / "last.ckpt").read_bytes()[:5000])
    (tmp_path / "text.ckpt").write_text("no checkpoint")
    cases = {
        "http://127.0.0.1:9/last.ckpt": "checkpoints are not read from URLs",
        "https://127.0.0.1:9/last.ckpt": "checkpoints are not read from URLs",
        "s3://bucket/last.ckpt": "checkpoints are not read from URLs",
        str(tmp_path / "bomb.ckpt"): "without running code from it",
        str(tmp_path / "torn.ckpt"): "damaged",
        str(tmp_path / "text.ckpt"): "damaged",
        str(tmp_path / "gone.ckpt"): "gone.ckpt",
    }
    for path, message in cases.items():
        for command in (
            ("fit", "validate") if path.endswith(("https://127.0.0.1:9/last.ckpt", "bomb.ckpt")) else ("fit",)
        ):
            given = arguments(root, 3)
            given[1] = command
            assert main([*given, "--ckpt_path", path]) == 2, path
            line = capsys.readouterr().err.splitlines()[-1]
            assert line.startswith("captioner: error: "), line
            assert path in line
            assert message in line
    given = arguments(root, 3)
    assert main(["train", "validate", *given[2:], "--ckpt_path", str(tmp_path / "hyper.ckpt")]) == 0
    assert not (tmp_path / "exploded").exists()


def test_validating_writes_nothing_and_needs_weights(root, capsys):
    before = (root / "run" / "config.yaml").read_bytes()
    given = ["train", "validate", *arguments(root, 7)[2:]]
    assert main([*given, "--ckpt_path", "last", "--data.eval_batch_size=3"]) == 0
    assert "val/cider" in capsys.readouterr().out
    assert (root / "run" / "config.yaml").read_bytes() == before
    assert main(given) == 2
    assert "validate needs weights: give --ckpt_path" in capsys.readouterr().err


def test_what_is_watched_must_be_logged(tmp_path, capsys):
    cases = {
        "--best.monitor=val/cidr": "ModelCheckpoint watches 'val/cidr', which is not logged; choose one of val/nll",
        "--stopping.monitor=loss": "EarlyStopping watches 'loss', which is not logged",
        "--trainer.limit_val_batches=0": "nothing is validated; let it watch the training by --best.monitor train/loss",
    }
    for change, message in cases.items():
        assert main([*arguments(tmp_path, 1), change]) == 2, change
        assert message in capsys.readouterr().err.splitlines()[-1]


def test_a_training_without_validation(tmp_path, capsys):
    """By the arguments that the error names."""
    watched = "--best.monitor train/loss --best.mode min --best.filename best-{epoch:02d} --stopping.monitor train/loss"
    without = [*watched.split(), "--stopping.mode", "min", "--trainer.limit_val_batches=0"]
    assert main([*arguments(tmp_path, 2), *without]) == 0
    assert "the best checkpoint (train/loss " in capsys.readouterr().out
    assert len(list((tmp_path / "run" / "checkpoints").glob("best-*.ckpt"))) == 1


def test_one_training_in_a_folder(tmp_path, capsys):
    with held(str(tmp_path / "run")):
        assert main(arguments(tmp_path, 1)) == 2
    assert "another training is writing to it; choose another --run_dir" in capsys.readouterr().err
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_an_end_names_the_best_and_what_to_do_next(root, capsys):
    assert main(resumed(root)) == 0
    out = capsys.readouterr().out.splitlines()
    (best,) = (root / "run" / "checkpoints").glob("best-*.ckpt")
    assert re.fullmatch(rf"captioner: the best checkpoint \(val/cider \d+\.\d\d\) is {re.escape(str(best))}", out[-3])
    assert out[-2].split(":  ")[1] == f"captioner caption PHOTO.jpg --model {best}"
    assert out[-1].split(":   ")[1] == f"captioner export {best} --output model.safetensors"


def test_a_run_that_is_over_says_so(root, capsys):
    assert main(resumed(root)) == 0
    assert main(resumed(root)) == 0
    assert "there was nothing left to train: the run has had its 4 epochs" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("trainer.accumulate_grad_batches=0", "accumulate_grad_batches must be a whole number from 1"),
        ("trainer.check_val_every_n_epoch=0", "check_val_every_n_epoch must be a whole number from 1"),
        ("trainer.limit_train_batches=0", "nothing would be trained"),
        ("trainer.gradient_clip_val=-1", "gradient_clip_val must be a finite number, 0 or more"),
        ("trainer.max_epochs=0", "max_epochs must be a whole number from 1"),
        ("trainer.devices=[a]", "devices"),
        ("trainer.max_epoch=3", "max_epochs"),  # no abbreviations
        ("data.vocabulary.min_count=-1", "min_count must be a whole number from 1"),
        ("data.batch_size=0", "batch_size must be a whole number from 1"),
    ],
)
def test_numbers_that_nothing_can_be_trained_with(tmp_path, capsys, argument, message):
    assert main([*arguments(tmp_path, 1), f"--{argument}"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("captioner: error: ")
    assert message in lines[-1]


def test_a_config_that_is_not_there_is_named(capsys):
    assert main(["train", "fit", "-c", "gone.yaml"]) == 2
    assert capsys.readouterr().err == "captioner: error: gone.yaml: no such config\n"


def test_learning_rates_are_logged(root):
    events = EventAccumulator(str(root / "run"))
    events.Reload()
    assert any(name.startswith("lr-") for name in events.Tags()["scalars"])


def test_commands_without_data_are_not_offered(capsys):
    for name in ("test", "predict"):
        assert main(["train", name]) == 2
        assert re.search(r"invalid choice: .*fit.*validate", capsys.readouterr().err)


def test_errors_are_one_line(tmp_path, capsys):
    cases = {
        "--model.encoder.init_args.name=nonet": "no encoder 'nonet'",
        "--model.init_from=gone.ckpt": "gone.ckpt: no such model file",
        "--data.vocabulary.init_args.min_count=99": "no word of the captions",
        "--trainer.max_epochs=-1": "max_epochs",
        "--save_every_n_steps=0": "every_n_steps must be a whole number from 1",
    }
    for change, message in cases.items():
        assert main([*arguments(tmp_path, 1), change]) == 2, change
        line = capsys.readouterr().err.splitlines()[-1]
        assert line.startswith("captioner: error: "), change
        assert message in line


def test_a_failed_download_names_the_other_ways(tmp_path, capsys, monkeypatch):
    def fail(*arguments, **options):
        raise OSError("no network here")

    monkeypatch.setattr("timm.create_model", fail)
    assert main([*arguments(tmp_path, 1), "--model.encoder.init_args.weights=default"]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("captioner: error: ")
    assert "could not be downloaded" in line
    assert "weights=" in line


def test_lightnings_chatter_is_left_out():
    def passes(message: str) -> bool:
        return train._is_no_noise(logging.LogRecord("pytorch_lightning", 20, "", 0, message, None, None))

    assert not passes("`weights_only` was not set, defaulting to `False`.")
    assert not passes("💡 Tip: For seamless cloud logging and experiment tracking, try installing [litlogger]")
    assert not passes("`isinstance(treespec, LeafSpec)` is deprecated, use `isinstance(treespec, TreeSpec)`")
    assert passes("`Trainer.fit` stopped: `max_epochs=2` reached.")
    assert passes("GPU available: True, used: True")


def test_processes_of_torchrun_that_the_trainer_does_not_know_of(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("pytorch_lightning.trainer.Trainer.world_size", 1)
    assert main(arguments(tmp_path, 1)) == 2
    assert "torchrun started 2 processes, and the trainer is of 1: give --trainer.devices" in capsys.readouterr().err
    assert not (tmp_path / "run" / "checkpoints").exists()


CONFIG = Path(captioner.__file__).parents[1] / "configs" / "dates.yaml"


FEW = {"num_train": 40, "num_dev": 4, "num_test": 0}


def train_dates(folder: Path, *arguments: str) -> int:
    few = (f"--data.reader.{name}={value}" for name, value in FEW.items())
    quiet = ("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false")
    return main(["train", "fit", "-c", str(CONFIG), f"--run_dir={folder}", *few, *quiet, *arguments])


def test_the_config_of_dates_trains_goes_on_and_loads(tmp_path, capsys):
    assert train_dates(tmp_path, "--trainer.max_epochs=1") == 0, capsys.readouterr().err
    first = load_model(tmp_path / "checkpoints" / "last.ckpt")
    assert first.transform.tokenizer.unknown_words("March zebra") == ["zebra"]
    assert first.tokenizer.decode(first.tokenizer.encode("1999-03-03")) == "1999-03-03"
    assert train_dates(tmp_path, "--trainer.max_epochs=2", "--ckpt_path=last") == 0, capsys.readouterr().err
    assert load_model(tmp_path / "checkpoints" / "last.ckpt").provenance["epoch"] == 1


def test_data_of_one_s_own_class_by_name_and_part_by_part(tmp_path, capsys):
    """Without a config for the data; `TextData` alone is enough of a name."""
    (tmp_path / "a.tsv").write_text("ein Hund\ta dog\neine Katze\ta cat\n")
    config = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    del config["data"]
    (tmp_path / "rest.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    files = {"train": str(tmp_path / "a.tsv"), "dev": str(tmp_path / "a.tsv")}
    words = {"class_path": "captioner.tokenizer.WordLevel", "init_args": {"min_count": 1}}
    given = {
        "--data": "TextData",
        "--data.reader": json.dumps(
            {"class_path": "captioner.data.readers.ParallelText", "init_args": {"files": files}}
        ),
        "--data.vocabulary": json.dumps(words),
        "--data.source_vocabulary": json.dumps(words),
        "--trainer.fast_dev_run": "1",
        "--run_dir": str(tmp_path),
    }
    changes = [f"{name}={value}" for name, value in given.items()]
    assert main(["train", "fit", "-c", str(tmp_path / "rest.yaml"), *changes]) == 0, capsys.readouterr().err


TYPOS = {
    "data.bach_size=3": "TextData has no such argument: did you mean batch_size",
    "data.reader.num_trian=3": "reader.init_args.num_trian: Dates has no such argument: did you mean num_train?",
    "model.decoder=UppDown": "model.decoder: no Decoder 'UppDown': did you mean UpDown? Or choose from",
    "model.decodr=UpDown": "model.decodr: CaptioningTask has no such argument: did you mean decoder",
    "model.decoder.init_args.hiden_dim=3": "did you mean hidden_dim?",
    "model.decoder.init_args.hidden_dim=abc": "model.decoder.init_args.hidden_dim: 'abc' is not a whole number",
    "trainer.callbacks=[{class_path: AveragdWeights}]": "callbacks[0]: no Callback 'AveragdWeights': did you",
    "trainer.max_epohcs=3": "did you mean max_epochs",
    "modle.max_length=3": "there is no 'modle': did you mean model?",
    "run_dirr=x": "there is no 'run_dirr': did you mean run_dir?",
}


@pytest.mark.parametrize("typo", TYPOS)
def test_a_typo_is_named_in_one_line(typo, tmp_path, capsys):
    assert train_dates(tmp_path, f"--{typo}") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("captioner: error: ")
    assert TYPOS[typo] in line


NO_PARTS = [
    "model.encoder={class_path: os.mkdir, init_args: {path: exploded}}",
    "model.decoder={class_path: os.mkdir, init_args: {path: exploded}}",
    "model.decoder.init_args.attention={class_path: os.mkdir, init_args: {path: exploded}}",
    "model.optimizer={class_path: os.mkdir, init_args: {path: exploded}}",
    "model.optimizer={class_path: subprocess.Popen, init_args: {args: [mkdir, exploded]}}",
    "model.schedule={class_path: os.mkdir, init_args: {path: exploded}}",
    "model.loss={class_path: os.mkdir, init_args: {path: exploded}}",
    "trainer.callbacks=[{class_path: os.mkdir, init_args: {path: exploded}}]",
    "trainer.logger={class_path: os.mkdir, init_args: {path: exploded}}",
    "trainer.plugins={class_path: os.mkdir, init_args: {path: exploded}}",
    "trainer.strategy={class_path: os.mkdir, init_args: {path: exploded}}",
    "trainer.profiler={class_path: os.mkdir, init_args: {path: exploded}}",
    "data={class_path: os.mkdir, init_args: {path: exploded}}",
    "data.vocabulary={class_path: os.mkdir, init_args: {path: exploded}}",
    "model.encoder=os.getcwd",
    "model.optimizer=os.getcwd",
    "data=os.getcwd",
]


@pytest.mark.parametrize("change", NO_PARTS)
def test_a_config_calls_nothing_but_parts(change, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert train_dates(tmp_path / "run", f"--{change}") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("captioner: error: ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("what", ["callbacks", "plugins"])
def test_one_object_stands_for_a_list_of_it(what, tmp_path, capsys):
    given = {
        "callbacks": "{class_path: captioner.training.AveragedWeights}",
        "plugins": "{class_path: pytorch_lightning.plugins.precision.Precision}",
    }
    assert train_dates(tmp_path, "--trainer.fast_dev_run=1", f"--trainer.{what}={given[what]}") == 0, (
        capsys.readouterr()
    )


def test_which_form_the_data_have(tmp_path):
    (tmp_path / "plain.yaml").write_text("data: {batch_size: 3}\n")
    (tmp_path / "class.yaml").write_text("data: {class_path: TextData}\n")
    (tmp_path / "broken.yaml").write_text("data: [\n")
    plain, own, broken = (str(tmp_path / f"{name}.yaml") for name in ("plain", "class", "broken"))
    for given in (["fit", "-c", own], ["fit", f"--config={own}"], ["-c", plain, "-c", own], ["--data=TextData"]):
        assert names_its_data(given), given
    for given in ([], ["fit", "-c", plain, "--data.batch_size", "3"], ["-c", broken], ["-c", "gone"], ["-c"]):
        assert not names_its_data(given), given
