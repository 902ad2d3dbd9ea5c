"""The loop over words, recorded and replayed: with work that is done again in place of a CUDA graph, which needs a GPU.

What a graph adds is in tests/gpu.
"""

from __future__ import annotations

import copy
import gc
from dataclasses import replace

import pytest
import torch
from decoder_cases import LENGTHS, OPTIONS, SHRINKING, all_of, build, random_memory, random_tokens

from captioner.models import RecurrentDecoder, ShowAttendTell
from captioner.models.decoders import recording
from captioner.models.decoders.recording import STEPS, Recorder

NOT_RANDOM = [
    pytest.param(cls, options, id=f"{cls.__name__}, {name}")
    for cls in all_of(RecurrentDecoder)
    for name, options in OPTIONS.get(cls, {"default": {}}).items()
    if name != "hard"
]


class DoneAgain:
    """Work whose replay does it again, and puts the results where they were."""

    def __init__(self, work) -> None:
        self.work = work
        self.results = work()

    def replay(self) -> None:
        with torch.enable_grad():
            results = self.work()
        for place, result in zip(self.results, results, strict=True):
            if result is not None:
                place.copy_(result)


class Repeater(Recorder):
    """Records on a CPU."""

    kind = "cpu"

    def rehearse(self, work) -> None:
        work()

    def record(self, work):
        tape = DoneAgain(work)
        return tape, tape.results


class Broken(Repeater):
    """Cannot record, nor end it."""

    has_recovered = False

    def record(self, work):
        try:
            raise RuntimeError("operation not permitted when stream is capturing\nand more")
        finally:
            raise RuntimeError("capture was invalidated")

    def recover(self) -> None:
        self.has_recovered = True


def make(cls=ShowAttendTell, options=None, recorder=None) -> RecurrentDecoder:
    decoder = build(cls, {} if options is None else options).train()
    decoder.drop.p = 0.0
    decoder.recorder = recorder
    return decoder


def learn(decoder: RecurrentDecoder, lengths=LENGTHS, seed: int = 0) -> tuple[torch.Tensor, dict]:
    """A step's loss, which sees all that is told, and the gradients; weights then move by them."""
    memory = random_memory()
    memory = replace(memory, features=(memory.features * (1 + 0.1 * seed)).requires_grad_())
    tokens = random_tokens()[..., : int(lengths.max()) + 1]
    output = decoder(decoder.prepare(memory), tokens, lengths)
    told = [output.logits, *([] if output.alpha is None else [output.alpha]), *output.extras.values()]
    loss = sum((tensor * torch.linspace(-1, 1, tensor.numel()).view_as(tensor)).sum() for tensor in told)
    decoder.zero_grad()
    loss.backward()
    gradients = {name: weight.grad for name, weight in decoder.named_parameters()}
    gradients["features"] = memory.features.grad
    with torch.no_grad():
        for weight in decoder.parameters():
            if weight.grad is not None:
                weight.sub_(1e-4 * weight.grad)
    return loss.detach(), {name: gradient.clone() for name, gradient in gradients.items() if gradient is not None}


@pytest.mark.parametrize(("cls", "options"), NOT_RANDOM)
def test_replayed_loops_learn_as_others_do(cls, options):
    """Over batches of many lengths, each shape twice and more, and with weights that move."""
    plain, recorded = make(cls, options), make(cls, options, Repeater())
    for number, lengths in enumerate(SHRINKING * 2):
        expected = learn(plain, lengths, number)
        torch.testing.assert_close(learn(recorded, lengths, number), expected, rtol=1e-9, atol=1e-11)
    assert len(recorded.recorder.recordings) == len({-(-int(lengths.max()) // STEPS) for lengths in SHRINKING}) == 2
    assert recorded.recorder.turn == 2 * len(SHRINKING) - 2


def test_a_shape_that_comes_once_is_not_recorded():
    decoder = make(recorder=Repeater())
    learn(decoder)
    assert not decoder.recorder.recordings
    learn(decoder)
    assert len(decoder.recorder.recordings) == 1


def test_no_more_loops_are_kept_than_may_be(monkeypatch):
    monkeypatch.setattr(recording, "MOST", 1)
    decoder = make(recorder=Repeater())
    for lengths in (LENGTHS, LENGTHS, LENGTHS.clamp(max=3), LENGTHS.clamp(max=3)):
        learn(decoder, lengths)
    assert len(decoder.recorder.recordings) == 1


def forward(decoder: RecurrentDecoder, seed: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    memory = random_memory()
    memory = replace(memory, features=(memory.features * seed).to(dtype))
    return decoder(decoder.prepare(memory), random_tokens(), LENGTHS).logits.square().sum()


def gradients_of(decoder: RecurrentDecoder, loss: torch.Tensor, **options) -> list[torch.Tensor]:
    return [weight.clone() for weight in torch.autograd.grad(loss, [*decoder.parameters()], **options)]


def replayed() -> RecurrentDecoder:
    """A decoder that has recorded the loop of `LENGTHS`."""
    decoder = make(recorder=Repeater())
    for _ in range(2):
        forward(decoder, 1).backward()
    assert decoder.recorder.turn == 1
    return decoder


def test_two_losses_at_a_time_do_not_overwrite_each_other():
    decoder = replayed()
    first, second = forward(decoder, 1), forward(decoder, 2)
    found = gradients_of(decoder, first + second)
    decoder.recorder = None
    torch.testing.assert_close(found, gradients_of(decoder, forward(decoder, 1) + forward(decoder, 2)))


def test_a_graph_that_was_dropped_is_not_waited_for():
    decoder = replayed()
    turn = decoder.recorder.turn
    loss = forward(decoder, 1)
    forward(decoder, 2)
    assert decoder.recorder.turn == turn + 1
    del loss
    gc.collect()
    forward(decoder, 3)
    assert decoder.recorder.turn == turn + 2


def test_gradients_add_up_over_batches():
    decoder = replayed()
    decoder.zero_grad()
    forward(decoder, 1).backward()
    forward(decoder, 2).backward()
    decoder.recorder = None
    expected = gradients_of(decoder, forward(decoder, 1) + forward(decoder, 2))
    torch.testing.assert_close([weight.grad for weight in decoder.parameters()], expected)


def test_a_retained_graph_that_was_overwritten_is_refused():
    decoder = replayed()
    loss = forward(decoder, 1)
    gradients_of(decoder, loss, retain_graph=True)
    forward(decoder, 2)
    with pytest.raises(RuntimeError, match="overwritten by a later one"):
        gradients_of(decoder, loss)


def test_where_recording_fails_a_warning_says_why_and_training_goes_on():
    plain, broken = make(), make(recorder=Broken())
    for number in range(3):
        expected = learn(plain, seed=number)
        if number == 1:
            with pytest.warns(UserWarning, match="goes without CUDA graphs: operation not permitted"):
                found = learn(broken, seed=number)
        else:
            found = learn(broken, seed=number)
        torch.testing.assert_close(found, expected)
    assert broken.recorder.has_recovered
    assert not broken.recorder.recordings


@pytest.mark.parametrize("how", ["evaluation", "no gradients"])
def test_only_training_is_recorded(how):
    decoder = replayed()
    turn = decoder.recorder.turn
    with torch.set_grad_enabled(how != "no gradients"):
        forward(decoder.train(how != "evaluation"), 1)
    assert decoder.recorder.turn == turn


def test_moved_weights_are_recorded_anew():
    """A graph reads the addresses that it was recorded with."""
    decoder = replayed()
    with torch.no_grad():
        for weight in decoder.parameters():
            weight.data = weight.data.clone() + 0.1
    found = gradients_of(decoder, forward(decoder, 1))
    decoder.recorder = None
    torch.testing.assert_close(found, gradients_of(decoder, forward(decoder, 1)))


def test_on_a_cpu_loops_are_done_as_they_are():
    plain, asked = make(), make()
    asked.use_cuda_graphs()
    for number in range(3):
        torch.testing.assert_close(learn(asked, seed=number), learn(plain, seed=number))
    assert not asked.recorder.has_failed
    assert not asked.recorder.recordings


def test_a_copy_records_for_itself():
    decoder = replayed()
    twin = copy.deepcopy(decoder)
    assert twin.recorder is not decoder.recorder
    assert not twin.recorder.recordings
    learn(twin), learn(decoder)


def test_in_another_number_format_another_loop_is_recorded():
    decoder, plain = make(recorder=Repeater()).float(), make().float()
    for half in (True, False, True, False, True, False):
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            losses = [forward(one, 1, torch.float32) for one in (decoder, plain)]
        torch.testing.assert_close(gradients_of(decoder, losses[0]), gradients_of(plain, losses[1]), atol=0.1, rtol=0.1)
    assert len(decoder.recorder.recordings) == 2
    assert decoder.recorder.turn == 4
