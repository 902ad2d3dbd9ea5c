"""What the training of any model shares."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from task_cases import Patches, make_task, make_trainer
from torch import nn

from captioner.losses import CaptionLoss, Mean
from captioner.models import Encoder, ShowAttendTell


class NamelessSize(ShowAttendTell):
    """A decoder that no checkpoint can describe: it does not keep an argument."""

    def __init__(self, feature_dim: int, vocab_size: int, size: int) -> None:
        super().__init__(feature_dim, vocab_size, embed_dim=size, hidden_dim=size)


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

    def forward(self, output, targets, references=()):
        logs = {"half": Mean(torch.tensor(2.0), torch.tensor(4)), "other": Mean(torch.tensor(2.0), torch.tensor(1))}
        return replace(super().forward(output, targets, references), logs=logs)


def test_what_else_a_loss_says_is_logged(make_data, tmp_path):
    data = make_data()
    trainer = make_trainer(tmp_path, limit_val_batches=0)
    trainer.fit(make_task(data, loss=Talkative()), data)
    assert trainer.callback_metrics["train/half"] == 0.5
    assert trainer.callback_metrics["train/other"] == 2


def test_pretrained_parameters_have_their_own_learning_rate(make_data, tmp_path):
    data = make_data()
    for encoder, rates in ((Patches(), [0.1, 0.1, 0.003, 0.003]), (Patches(is_frozen=True), [0.1, 0.1])):
        task = make_task(data, encoder, encoder_lr=0.003)
        before = encoder.patches.weight.clone()
        make_trainer(tmp_path, limit_val_batches=0).fit(task, data)
        assert [group["initial_lr"] for group in task.trainer.optimizers[0].param_groups] == rates
        assert torch.equal(encoder.patches.weight, before) == encoder.is_frozen


def test_a_learning_rate_for_nothing_is_noticed(make_data, tmp_path, monkeypatch):
    monkeypatch.setattr(Patches, "pretrained", Encoder.pretrained)
    data = make_data()
    task = make_task(data, encoder_lr=0.003)
    with pytest.warns(UserWarning, match="encoder_lr is for pretrained parameters, and none is trained"):
        make_trainer(tmp_path, limit_val_batches=0).fit(task, data)
    assert {group["initial_lr"] for group in task.trainer.optimizers[0].param_groups} == {0.1}


def test_biases_and_embeddings_do_not_decay(make_data, tmp_path):
    data = make_data()
    task = make_task(data, optimizer=lambda groups: torch.optim.AdamW(groups, lr=0.0, weight_decay=0.3))
    make_trainer(tmp_path, limit_val_batches=0).fit(task, data)
    groups = {group["name"]: group["weight_decay"] for group in task.trainer.optimizers[0].param_groups}
    assert groups == {"new": 0.3, "new, not decayed": 0.0, "pretrained": 0.3, "pretrained, not decayed": 0.0}


def test_a_run_that_began_with_the_groups_of_0_1_0_goes_on_with_them(make_data, tmp_path):
    """To the same weights as if nothing had come between."""
    ends, folder = [], tmp_path / "checkpoints"
    for epochs, resumed in ((2, False), (1, False), (2, True)):
        data = make_data()
        task = make_task(data, optimizer=lambda groups: torch.optim.AdamW(groups, lr=0.01, weight_decay=0.3))
        task.goes_on_undivided = not resumed  # as 0.1.0 trained
        trainer = make_trainer(tmp_path, limit_val_batches=0, max_epochs=epochs)
        trainer.fit(task, data, ckpt_path=folder / "last.ckpt" if resumed else None)
        trainer.save_checkpoint(folder / "last.ckpt")
        ends.append(task.state_dict())
        assert len(trainer.optimizers[0].param_groups) == 2
    torch.testing.assert_close(ends[2], ends[0])
    assert not torch.equal(ends[1]["model.decoder.output.weight"], ends[0]["model.decoder.output.weight"])


@pytest.mark.parametrize("compilers", [("python3", "python"), ("no-such-compiler",)], ids=["some", "none"])
def test_compiling_is_asked_for_and_missed_where_there_is_no_compiler(make_data, tmp_path, monkeypatch, compilers):
    monkeypatch.setattr("captioner.training.task.COMPILERS", compilers)
    asked = []
    monkeypatch.setattr(ShowAttendTell, "compile", lambda self, **options: asked.append(options))
    task = make_task(make_data(), compile=True)
    warned = pytest.warns(UserWarning, match="no C\\+\\+ compiler") if "no" in compilers[0] else nullcontext()
    with warned:
        make_trainer(tmp_path, fast_dev_run=1).fit(task, make_data())
    assert asked == ([] if "no" in compilers[0] else [{"dynamic": True}])


def test_cuda_graphs_are_for_a_gpu_alone(make_data, tmp_path):
    task = make_task(make_data(), cuda_graphs=True)
    make_trainer(tmp_path, fast_dev_run=1).fit(task, make_data())
    assert task.model.decoder.recorder is None  # here; tests/gpu has the other half


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
