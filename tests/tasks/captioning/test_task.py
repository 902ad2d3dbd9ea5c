"""Captioning: validation by decoded captions, a start from a file, sentences."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from task_cases import Patches, make_task, make_trainer, small

from captioner.checkpoint import CheckpointError, load_model, save_model
from captioner.data import TextTransform
from captioner.data.readers import Dates, TextReader
from captioner.decoding import BeamSearch, GreedySearch
from captioner.losses import CaptionLoss
from captioner.metrics import quick_score
from captioner.models import AdditiveAttention, ShowAttendTell
from captioner.models.encoders import WordEncoder
from captioner.predictors import Captioner, Wording
from captioner.tasks.captioning import CaptioningTask, TextData
from captioner.tokenizer import Characters, WordLevel
from captioner.types import TextPair


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
