"""How a model is trained: gradients over batches, validation by decoded captions, averages, a start from a file."""

from __future__ import annotations

import json
import math
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
import yaml
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

import captioner
from captioner.checkpoint import CheckpointError, load_model, save_model
from captioner.cli.train import main, names_its_data
from captioner.data import ImageTransform
from captioner.data.datamodule import CaptionData
from captioner.data.dates import Dates
from captioner.data.synthetic import SyntheticShapes
from captioner.data.text import TextReader, TextTransform
from captioner.data.text_datamodule import TextData
from captioner.decoding import BeamSearch, GreedySearch
from captioner.losses import CaptionLoss, Mean
from captioner.metrics import quick_score
from captioner.models import AdditiveAttention, Encoder, ShowAttendTell
from captioner.models.encoders.words import WordEncoder
from captioner.predictor import Captioner, Wording
from captioner.tasks.averaging import AveragedWeights
from captioner.tasks.captioning import CaptioningTask
from captioner.tasks.samples import SampleCaptions
from captioner.tokenizer import Characters, WordLevel
from captioner.types import Memory, TextPair

HERE = __name__.partition(".")[0]


class Patches(Encoder):
    """Four cells a picture."""

    def __init__(self, is_frozen: bool = False) -> None:
        super().__init__()
        self.is_frozen = is_frozen
        self.feature_dim = 12
        self.patches = nn.Conv2d(3, 12, 16, 16).requires_grad_(not is_frozen)

    def forward(self, pixels):
        return Memory.from_grid(self.patches(pixels / 255).tanh())


class NamelessSize(ShowAttendTell):
    """A decoder that no checkpoint can describe: it does not keep an argument."""

    def __init__(self, feature_dim: int, vocab_size: int, size: int) -> None:
        super().__init__(feature_dim, vocab_size, embed_dim=size, hidden_dim=size)


def small(feature_dim: int, vocab_size: int) -> ShowAttendTell:
    scorer = lambda *sizes: AdditiveAttention(*sizes, 8)  # noqa: E731
    return ShowAttendTell(feature_dim, vocab_size, scorer, embed_dim=12, hidden_dim=12, dropout=0.0)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return SyntheticShapes(tmp_path_factory.mktemp("shapes"), num_train=8, num_dev=5, size=32)


@pytest.fixture
def make_data(pictures):
    def make(**options):
        options = {"batch_size": 4, "eval_batch_size": 2, "num_workers": 0, "vocabulary": WordLevel(1)} | options
        return CaptionData(pictures, ImageTransform(32), **options)

    return make


def make_task(data, encoder: Encoder | None = None, **options) -> CaptioningTask:
    torch.manual_seed(1)
    options = {"optimizer": lambda parameters: torch.optim.SGD(parameters, lr=0.1), "max_length": 8} | options
    decoder = options.pop("decoder", small)
    return CaptioningTask(encoder or Patches(), decoder, data.tokenizer, data.transform, **options)


def make_trainer(folder, **options) -> pl.Trainer:
    quiet = {
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "logger": False,
        "log_every_n_steps": 1,
    }
    if not any(isinstance(callback, ModelCheckpoint) for callback in options.get("callbacks", [])):
        quiet["enable_checkpointing"] = False
    return pl.Trainer(default_root_dir=folder, accelerator="cpu", **{"max_epochs": 1} | quiet | options)


# ------------------------------------------------------------------------------------------ training


def weights_after_an_epoch(make_data, folder, batch_size, accumulate, loss) -> dict[str, torch.Tensor]:
    data = make_data(batch_size=batch_size)
    task = make_task(data, loss=loss)
    make_trainer(folder, accumulate_grad_batches=accumulate, limit_val_batches=0).fit(task, data)
    assert task.trainer.global_step == 1
    return task.state_dict()


LOSSES = {
    "likelihood, per word": lambda: CaptionLoss(0.0, "mean"),
    "smoothed": lambda: CaptionLoss(0.0, "mean", label_smoothing=0.1),
    "as the paper": lambda: CaptionLoss(0.5, "paper"),
    "as the authors": lambda: CaptionLoss(1.0, "authors"),
}


@pytest.mark.parametrize("name", LOSSES)
def test_accumulated_batches_are_one_batch(make_data, tmp_path, name):
    whole = weights_after_an_epoch(make_data, tmp_path, 8, 1, LOSSES[name]())
    before = make_task(make_data()).state_dict()
    assert any((whole[key] - before[key]).abs().max() > 1e-3 for key in whole)
    for batch_size, accumulate in ((4, 2), (3, 3), (2, 5)):  # the last: fewer batches than are waited for
        parts = weights_after_an_epoch(make_data, tmp_path, batch_size, accumulate, LOSSES[name]())
        torch.testing.assert_close(parts, whole, atol=1e-6, rtol=1e-4)


def test_losses_are_logged_per_word(make_data, tmp_path):
    data = make_data(batch_size=8)
    task = make_task(data, loss=CaptionLoss(1.0, "authors"))
    trainer = make_trainer(tmp_path, limit_val_batches=0)
    batch = next(iter(data.train_dataloader()))
    output = task.model(batch.source, batch.tokens, batch.lengths)
    words = batch.tokens[..., 1:][output.mask]
    expected = nn.functional.cross_entropy(output.logits, words).item()
    trainer.fit(task, data)
    assert trainer.callback_metrics["train/nll"].item() == pytest.approx(expected, rel=1e-5)
    assert trainer.callback_metrics["train/doubly_stochastic"] > 0


class Talkative(CaptionLoss):
    """A loss with something more to say."""

    def forward(self, output, targets):
        logs = {"half": Mean(torch.tensor(2.0), torch.tensor(4)), "other": Mean(torch.tensor(2.0), torch.tensor(1))}
        return replace(super().forward(output, targets), logs=logs)


def test_what_else_a_loss_says_is_logged(make_data, tmp_path):
    data = make_data()
    trainer = make_trainer(tmp_path, limit_val_batches=0)
    trainer.fit(make_task(data, loss=Talkative()), data)
    assert trainer.callback_metrics["train/half"] == 0.5
    assert trainer.callback_metrics["train/other"] == 2


def test_a_fine_tuned_encoder_has_its_own_learning_rate(make_data, tmp_path):
    data = make_data()
    for encoder, rates in ((Patches(), [0.1, 0.003]), (Patches(is_frozen=True), [0.1])):
        task = make_task(data, encoder, encoder_lr=0.003)
        before = encoder.patches.weight.clone()
        make_trainer(tmp_path, limit_val_batches=0).fit(task, data)
        assert [group["initial_lr"] for group in task.trainer.optimizers[0].param_groups] == rates
        assert torch.equal(encoder.patches.weight, before) == encoder.is_frozen


@pytest.mark.parametrize("compilers", [("python3", "python"), ("no-such-compiler",)], ids=["some", "none"])
def test_compiling_is_asked_for_and_missed_where_there_is_no_compiler(make_data, tmp_path, monkeypatch, compilers):
    monkeypatch.setattr("captioner.tasks.captioning.COMPILERS", compilers)
    asked = []
    monkeypatch.setattr(ShowAttendTell, "compile", lambda self, **options: asked.append(options))
    task = make_task(make_data(), compile=True)
    warned = pytest.warns(UserWarning, match="no C\\+\\+ compiler") if "no" in compilers[0] else nullcontext()
    with warned:
        make_trainer(tmp_path, fast_dev_run=1).fit(task, make_data())
    assert asked == ([] if "no" in compilers[0] else [{"dynamic": True}])


def test_a_training_without_end_is_refused(make_data, tmp_path):
    data = make_data()
    with pytest.raises(ValueError, match="set the trainer's max_epochs"):
        make_trainer(tmp_path, max_epochs=-1).fit(make_task(data), data)


def test_a_model_that_cannot_be_saved_is_refused_before_training(make_data, tmp_path):
    data = make_data()
    task = make_task(data, decoder=lambda feature_dim, vocab_size: NamelessSize(feature_dim, vocab_size, 8))
    before = task.model.decoder.embedding.weight.clone()
    with pytest.raises(ValueError, match=r"NamelessSize must keep its argument 'size' as self\.size"):
        make_trainer(tmp_path).fit(task, data)
    assert torch.equal(task.model.decoder.embedding.weight, before)


# ------------------------------------------------------------------------------------------ validation


@pytest.mark.parametrize("search", [GreedySearch(), BeamSearch(3)], ids=str)
def test_validation_scores_the_models_own_captions_each_image_once(make_data, tmp_path, search):
    data = make_data()
    task = make_task(data, search=search, optimizer=lambda parameters: torch.optim.Adam(parameters, lr=0.02))
    trainer = make_trainer(tmp_path, max_epochs=6)
    trainer.fit(task, data)  # it says something, then
    (metrics,) = trainer.validate(task, data, verbose=False)
    items = data.reader.read("dev")
    said = Captioner(task.bundle(), "cpu").caption([item.path for item in items], search, Wording(max_length=8))
    scores = quick_score(
        {item.image_id: item.captions for item in items},
        {item.image_id: caption.text for item, caption in zip(items, said, strict=True)},
    )
    assert scores.num_scored == 5
    assert scores.bleu[0] > 5
    assert metrics["val/cider"] == pytest.approx(scores.cider)
    assert [metrics[f"val/bleu{n}"] for n in range(1, 5)] == pytest.approx(scores.bleu)
    looks = [Captioner(task.bundle(), "cpu").look(item.path, text) for item in items for text in item.captions]
    words = sum(len(look.words) + 1 for look in looks)
    assert metrics["val/nll"] == pytest.approx(-sum(look.log_prob for look in looks) / words, rel=1e-4)
    assert (task.references, task.captions, task.likelihoods) == ({}, {}, {})


class Watch(pl.Callback):
    """Keeps the weights after each step and those that validation sees."""

    def __init__(self) -> None:
        self.steps: list[torch.Tensor] = []
        self.seen: list[torch.Tensor] = []

    def on_train_batch_end(self, trainer, pl_module, *args) -> None:
        self.steps.append(pl_module.model.decoder.embedding.weight.detach().clone())

    def on_validation_batch_start(self, trainer, pl_module, *args) -> None:
        self.seen.append(pl_module.model.decoder.embedding.weight.detach().clone())


def test_averaged_weights_are_validated_and_saved(make_data, tmp_path):
    data = make_data()
    watch = Watch()
    best = ModelCheckpoint(tmp_path, filename="best", monitor="val/nll", save_top_k=1)
    callbacks = [AveragedWeights(decay=0.6), watch, best]
    encoder = Patches(is_frozen=True)
    frozen = encoder.patches.weight.clone()
    make_trainer(tmp_path, max_epochs=2, callbacks=callbacks).fit(make_task(data, encoder), data)
    average = watch.steps[0]
    for weight in watch.steps[1:]:
        average = 0.6 * average + 0.4 * weight
    torch.testing.assert_close(watch.seen[-1], average)
    assert not torch.allclose(watch.steps[-1], average)
    saved = load_model(tmp_path / "best.ckpt", trust=[HERE])
    torch.testing.assert_close(saved.model.decoder.embedding.weight, average)
    assert saved.provenance["metrics"]["val/nll"] == pytest.approx(float(best.best_model_score))
    assert saved.provenance["epoch"] == 1
    assert torch.equal(saved.model.encoder.patches.weight, frozen)  # an average of the same numbers is those numbers


def test_sample_captions_go_to_tensorboard(make_data, tmp_path):
    data = make_data()
    logger = TensorBoardLogger(tmp_path, name="", version="")
    make_trainer(tmp_path, logger=logger, callbacks=[SampleCaptions(2)]).fit(make_task(data), data)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert events.Tags()["images"] == ["sample 0", "sample 1"]
    (image,) = events.Images("sample 0")
    assert image.width > 100
    assert {"train/loss", "val/cider", "val/bleu4", "val/nll"} <= set(events.Tags()["scalars"])


# ------------------------------------------------------------------------------------------ starting from a file


def test_start_from_a_model(make_data, tmp_path):
    data = make_data()
    first = make_task(data, Patches(is_frozen=True))
    with torch.no_grad():
        for weight in first.parameters():
            weight.add_(0.25)
    save_model(first.bundle(), tmp_path / "m.safetensors", "float32")
    second = make_task(data, Patches(), init_from=str(tmp_path / "m.safetensors"))  # to be fine-tuned now
    torch.testing.assert_close(dict(second.state_dict()), dict(first.state_dict()))
    assert second.model.encoder.patches.weight.requires_grad


def test_what_one_cannot_start_from(make_data, tmp_path):
    data = make_data()
    save_model(make_task(data).bundle(), tmp_path / "m.safetensors")
    path = str(tmp_path / "m.safetensors")
    with pytest.raises(ValueError, match=r"m\.safetensors: its vocabulary is not that of the data"):
        make_task(make_data(vocabulary=WordLevel(min_count=9)), init_from=path)
    larger = lambda *sizes: ShowAttendTell(*sizes, embed_dim=16, hidden_dim=12)  # noqa: E731
    with pytest.raises(ValueError, match=r"m\.safetensors: not the same model") as caught:
        make_task(data, decoder=larger, init_from=path)
    assert "\n" not in str(caught.value)
    with pytest.raises(CheckpointError, match="no such model file"):
        make_task(data, init_from=str(tmp_path / "gone.safetensors"))


def test_a_bundle_is_what_was_trained(make_data):
    data = make_data()
    bundle = make_task(data).bundle()
    assert bundle.transform == replace(data.transform)
    assert bundle.tokenizer is data.tokenizer
    assert math.isfinite(sum(weight.sum().item() for weight in bundle.model.parameters()))


# ------------------------------------------------------------------------------------------ sentences


class Given(TextReader):
    """Sentences that a test gives."""

    splits = ("train", "dev")

    def __init__(self, train: list[TextPair], dev: list[TextPair]) -> None:
        self.given = {"train": train, "dev": dev}

    def items(self, split: str) -> list[TextPair]:
        return self.given[split]


EIGHT = Dates(num_train=8, num_dev=3, num_test=1)


def dates_and(dev: list[TextPair]) -> TextData:
    """Eight dates to learn, and others to validate on."""
    return TextData(Given(EIGHT.items("train"), dev), WordLevel(1), Characters(), batch_size=4, eval_batch_size=3)


@pytest.fixture(scope="module")
def dates() -> TextData:
    return dates_and(EIGHT.items("dev"))


def reader_of(vocab_size: int) -> WordEncoder:
    return WordEncoder(vocab_size, embed_dim=16, hidden_dim=16)


@pytest.fixture(scope="module")
def learnt(dates, tmp_path_factory) -> CaptioningTask:
    """Eight dates by heart."""
    torch.manual_seed(1)
    task = CaptioningTask(
        reader_of,
        lambda *sizes: ShowAttendTell(*sizes, lambda *of: AdditiveAttention(*of, 16), 16, 48, dropout=0.0),
        dates.tokenizer,
        dates.transform,
        CaptionLoss(doubly_stochastic=0.0),
        lambda parameters: torch.optim.Adam(parameters, lr=0.02),
    )
    make_trainer(tmp_path_factory.mktemp("dates"), max_epochs=40, limit_val_batches=0).fit(task, dates)
    return task


def test_the_same_task_learns_sentences(dates, learnt, tmp_path):
    """Word for word, here character for character."""
    assert learnt.model.encoder.vocab_size == dates.transform.tokenizer.vocab_size
    (metrics,) = make_trainer(tmp_path).validate(learnt, dates_and(dates.items("train")), verbose=False)
    assert metrics["val/exact"] == 100
    assert metrics["val/nll"] < 0.1
    (metrics,) = make_trainer(tmp_path).validate(learnt, dates, verbose=False)
    assert metrics["val/exact"] < 100  # of dates that it has never read


def test_exact_is_the_share_that_is_one_of_its_references(dates, learnt, tmp_path):
    first, second, third, fourth, fifth, *_ = dates.items("train")
    given = [
        replace(first, captions=("no", *first.captions)),
        replace(second, captions=second.captions),
        replace(third, captions=fourth.captions),
        replace(fourth, captions=(f" {fourth.captions[0]}",)),
        replace(fifth, captions=(f"{fifth.captions[0]}0",)),
    ]
    (metrics,) = make_trainer(tmp_path).validate(learnt, dates_and(given), verbose=False)
    assert metrics["val/exact"] == pytest.approx(40)


def test_a_saved_model_reads_the_same_sentences(dates, learnt, tmp_path):
    save_model(learnt.bundle(), tmp_path / "m.safetensors", "float32")
    loaded = load_model(tmp_path / "m.safetensors")
    (batch,) = dates.eval_loader(dates.items("dev"))
    given = (batch.source, batch.tokens, batch.lengths)
    with torch.no_grad():
        assert torch.equal(loaded.model(*given).logits, learnt.model.eval()(*given).logits)
    assert isinstance(loaded.transform, TextTransform)
    assert loaded.transform("3 March 1999").tolist() == dates.transform("3 March 1999").tolist()


def test_one_starts_from_a_model_of_the_same_two_vocabularies(dates, learnt, tmp_path):
    path = tmp_path / "m.safetensors"
    save_model(learnt.bundle(), path, "float32")

    def start(data: TextData) -> CaptioningTask:
        return CaptioningTask(reader_of, lambda *sizes: small(*sizes), data.tokenizer, data.transform, init_from=path)

    with pytest.raises(ValueError, match="not the same model"):
        start(dates)
    other = TextData(dates.reader, Characters(), Characters())
    assert other.tokenizer.to_json() == dates.tokenizer.to_json()
    with pytest.raises(ValueError, match=r"m\.safetensors: its vocabulary is not that of the data"):
        start(other)


def test_photos_have_no_source_vocabulary(make_data):
    with pytest.raises(ValueError, match=r"vocab_size.*TextData.*these data are photos"):
        make_task(make_data(), reader_of)


CONFIG = Path(captioner.__file__).parents[1] / "configs" / "dates.yaml"
FEW = {"num_train": 40, "num_dev": 4, "num_test": 0}


def train_dates(folder: Path, *arguments: str) -> int:
    few = (f"--data.reader.{name}={value}" for name, value in FEW.items())
    quiet = ("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false")
    return main(["fit", "-c", str(CONFIG), f"--run_dir={folder}", *few, *quiet, *arguments])


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
        "--data.reader": json.dumps({"class_path": "captioner.data.text.ParallelText", "init_args": {"files": files}}),
        "--data.vocabulary": json.dumps(words),
        "--data.source_vocabulary": json.dumps(words),
        "--trainer.fast_dev_run": "1",
        "--run_dir": str(tmp_path),
    }
    arguments = [f"{name}={value}" for name, value in given.items()]
    assert main(["fit", "-c", str(tmp_path / "rest.yaml"), *arguments]) == 0, capsys.readouterr().err


@pytest.mark.parametrize(
    "typo", ["data.bach_size=3", "data.reader.num_trian=3", "model.encoder.hiden_dim=3", "data.init_args.vocabulry=x"]
)
def test_a_typo_is_named(typo, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        train_dates(tmp_path, f"--{typo}")
    assert stop.value.code == 2
    assert typo.partition("=")[0].rpartition(".")[2] in capsys.readouterr().err


def test_which_form_the_data_have(tmp_path):
    (tmp_path / "plain.yaml").write_text("data: {batch_size: 3}\n")
    (tmp_path / "class.yaml").write_text("data: {class_path: TextData}\n")
    (tmp_path / "broken.yaml").write_text("data: [\n")
    plain, own, broken = (str(tmp_path / f"{name}.yaml") for name in ("plain", "class", "broken"))
    for arguments in (["fit", "-c", own], ["fit", f"--config={own}"], ["-c", plain, "-c", own], ["--data=TextData"]):
        assert names_its_data(arguments), arguments
    for arguments in ([], ["fit", "-c", plain, "--data.batch_size", "3"], ["-c", broken], ["-c", "gone"], ["-c"]):
        assert not names_its_data(arguments), arguments
