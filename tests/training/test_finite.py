"""Trainings whose numbers are no numbers stop, and leave what they saved as it was."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from no_waiting import NoWaiting
from task_cases import Patches, make_task, make_trainer

from captioner.losses import CaptionLoss
from captioner.training import ExactResume, FiniteWatch, NotFiniteError, finite


class BadAt(CaptionLoss):
    """A loss of which something is spoilt at one call in training."""

    def __init__(self, call: int, spoil) -> None:
        super().__init__(0.0)
        self.call, self.spoil, self.calls = call, spoil, 0

    def forward(self, output, targets, references=()):
        if self.training:
            self.calls += 1
            if self.calls == self.call:
                output = output._replace(logits=self.spoil(output.logits))
        return super().forward(output, targets, references)


def nan_loss(logits):
    return logits * torch.nan


def infinite_loss(logits):
    return logits.index_fill(1, torch.tensor([0, 1, 2, 3, 4, 5]), -torch.inf)


class _NaNGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad * torch.nan


CASES = {
    "NaN": (nan_loss, "the loss is not finite"),
    "infinite": (infinite_loss, "the loss is not finite"),
    "gradient": (_NaNGradient.apply, "the gradients are not finite"),
}


class Ruinous(torch.optim.SGD):
    """An optimiser whose steps overflow."""

    def __init__(self, parameters) -> None:
        super().__init__(parameters, lr=1.0)

    def step(self, closure=None):
        loss = super().step(closure)
        with torch.no_grad():
            self.param_groups[0]["params"][0].mul_(torch.inf)
        return loss


@pytest.mark.parametrize("name", CASES)
def test_a_step_that_is_not_finite_is_not_taken_nor_saved(make_data, tmp_path, name):
    spoil, what = CASES[name]
    data = make_data()  # two batches an epoch
    task = make_task(data, loss=BadAt(3, spoil))
    trainer = make_trainer(tmp_path, max_epochs=3, callbacks=[ExactResume(tmp_path, 1)], enable_checkpointing=True)
    with pytest.raises(NotFiniteError, match=rf"{what} \(infinite or NaN\) in optimiser step 2 \(epoch 1\)") as error:
        trainer.fit(task, data)
    named = [item for item in data.items("train") if str(item.path) in str(error.value)]
    assert len(named) == 4  # the batch's photos
    assert "learning rate" in str(error.value)
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 2
    for key, value in task.state_dict().items():  # the weights of the two good steps, here and there
        assert torch.equal(value, saved["state_dict"][key])


def test_all_accumulated_batches_are_named(make_data, tmp_path):
    data = make_data(batch_size=2)
    task = make_task(data, loss=BadAt(1, nan_loss))
    trainer = make_trainer(tmp_path, accumulate_grad_batches=2)
    with pytest.raises(NotFiniteError, match="optimiser step 0") as error:
        trainer.fit(task, data)
    assert str(error.value).count(".png") == 4


def test_weights_that_a_last_step_has_ruined_are_not_saved(make_data, tmp_path):
    data = make_data(batch_size=8)  # one step an epoch
    task = make_task(data, optimizer=Ruinous)
    trainer = make_trainer(tmp_path, callbacks=[ExactResume(tmp_path)], enable_checkpointing=True, limit_val_batches=0)
    with pytest.raises(NotFiniteError, match=r"the weights model\.\S+ are not finite after the last step"):
        trainer.fit(task, data)
    assert not (tmp_path / "last.ckpt").exists()


def test_a_likelihood_of_validation_that_is_not_finite(make_data, tmp_path):
    data = make_data()
    task = make_task(data, Patches(is_frozen=True))
    with torch.no_grad():
        task.model.encoder.patches.weight.fill_(torch.nan)
    with pytest.raises(NotFiniteError, match=r"not finite \(infinite or NaN\) in validation, with .*\.png, .*\.png"):
        make_trainer(tmp_path).validate(task, data)


def test_a_gpu_is_not_waited_for(monkeypatch):
    """Its answers are read two steps late, and all of them before anything is saved."""
    monkeypatch.setattr(finite, "STEPS_BEHIND", {"cpu": 2})
    watch, good, bad = FiniteWatch(), torch.tensor(1.0), torch.tensor(torch.nan)
    watch.step("step 0", bad, [], scaled=False)
    watch.step("step 1", good, [], scaled=False)
    with pytest.raises(NotFiniteError, match="in step 0"):
        watch.step("step 2", good, [], scaled=False)
    watch = FiniteWatch()
    watch.step("step 0", bad, [], scaled=False)
    with pytest.raises(NotFiniteError, match="in step 0"):
        watch.require({})


def test_a_look_asks_the_device_for_nothing(monkeypatch):
    monkeypatch.setattr(finite, "STEPS_BEHIND", {"meta": 2})
    watch, loss = FiniteWatch(), torch.ones(4, device="meta")
    with NoWaiting():
        for step in range(2):
            watch.step(
                f"step {step}", loss, [torch.ones(3, device="meta"), torch.ones(2, 2, device="meta")], scaled=False
            )


def test_infinite_gradients_of_a_scaled_loss_are_the_scalers_business():
    watch, good = FiniteWatch(), torch.tensor(1.0)
    watch.step("step 0", good, [torch.tensor([torch.inf])], scaled=True)
    with pytest.raises(NotFiniteError, match="the gradients are"):
        watch.step("step 0", good, [torch.ones(2), torch.tensor([torch.inf])], scaled=False)


def test_large_gradients_are_finite():
    """Their squares are not."""
    FiniteWatch().step("step 0", torch.tensor(1.0), [torch.tensor([1e30, -1e30])], scaled=False)


def test_an_error_names_some_of_many(make_data):
    items = make_data().items("train")
    many = [replace(items[0], path=f"{number}.jpg") for number in range(20)]
    assert finite.named(many) == ", ".join(f"{number}.jpg" for number in range(8)) + " and 12 more"
