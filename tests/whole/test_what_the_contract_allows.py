"""What is to be built on the contract, each in a few lines outside the package: nothing within it knows of them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from task_cases import make_task, make_trainer
from torch import nn

from captioner.checkpoint import Bundle
from captioner.decoding import sample
from captioner.losses import CaptionLoss, LossSums, Mean
from captioner.models import AdditiveAttention, CaptionModel, Decoder, TransformerDecoder
from captioner.models.attention import GeneralAttention, MultiHeadAttention
from captioner.predictors import Captioner
from captioner.tasks.captioning import CaptioningTask
from captioner.types import Attended, Memory, Reading

# ------------------------------------------------------------------------------------------ self-critical training


class RewardLoss(CaptionLoss):
    """REINFORCE, where a caption's baseline is the mean reward of the image's others (Luo 2020, arXiv 2003.09971).

    A caption's reward is the share of its words that any of its image's references has.
    """

    def __init__(self, tokenizer) -> None:
        super().__init__()
        self.tokenizer = tokenizer

    def reward(self, ids, references) -> float:
        words = self.tokenizer.decode([word for word in ids if word != self.tokenizer.eos_id]).split()
        known = " ".join(references).split()
        return sum(word in known for word in words) / max(1, len(words))

    def forward(self, output, targets, references=()):
        rewards = torch.zeros(targets.shape[:2])
        for image, texts in enumerate(references):
            for caption, real in enumerate(output.mask[image]):
                rewards[image, caption] = self.reward(targets[image, caption][real].tolist(), texts)
        others = (rewards.sum(1, keepdim=True) - rewards) / (rewards.shape[1] - 1)
        log_probs = output.logits.log_softmax(-1).gather(1, output.of_words(targets)[:, None])[:, 0]
        of_captions = rewards.new_zeros(output.mask.shape).masked_scatter(output.mask, log_probs).sum(-1)
        number = output.mask.any(-1).sum()
        terms = {"reinforced": Mean(-((rewards - others) * of_captions).sum(), number)}
        return LossSums(terms, {"reward": Mean(rewards.sum(), number)})


class SelfCritical(CaptioningTask):
    """Learns from captions that it samples."""

    def add_up(self, batch):
        memory = self.model.encode(batch.source)
        found = sample(*self.model.decoder.begin(memory), self.rules, None, num_samples=4)
        tokens, lengths = found.given(self.tokenizer.bos_id, self.tokenizer.eos_id, self.tokenizer.pad_id)
        output = self.model.decoder(memory, tokens, lengths)
        return self.loss(output, tokens[..., 1:], batch.references)


def test_self_critical_training(make_data, tmp_path):
    data = make_data(batch_size=8)
    task = make_task(data)
    loss = RewardLoss(data.tokenizer)
    task = SelfCritical(
        task.model.encoder,
        lambda *sizes: task.model.decoder,
        data.tokenizer,
        data.transform,
        loss,
        lambda groups: torch.optim.Adam(groups, lr=0.02),
        max_length=8,
    )
    rewards = []
    for _ in range(2):
        trainer = make_trainer(tmp_path, limit_val_batches=0, max_epochs=1 if not rewards else 12)
        trainer.fit(task, data)
        rewards.append(trainer.callback_metrics["train/reward"].item())
    assert rewards[1] > rewards[0] + 0.2


# ------------------------------------------------------------------------------------------ ensemble


@dataclass(frozen=True)
class Several(Memory):
    """One memory, as each member has prepared it."""

    members: tuple[Memory, ...] = ()

    def map(self, change):
        return replace(super().map(change), members=tuple(member.map(change) for member in self.members))


class Ensemble(Decoder):
    """The mean of several decoders' probabilities."""

    def __init__(self, members) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.vocab_size = members[0].vocab_size

    def prepare(self, memory):
        prepared = tuple(member.prepare(memory) for member in self.members)
        return Several(memory.features, memory.mask, memory.segments, members=prepared)

    def init_state(self, memory, num_sequences):
        states = [
            member.init_state(own, num_sequences) for member, own in zip(self.members, memory.members, strict=True)
        ]
        return {f"{number} {name}": value for number, state in enumerate(states) for name, value in state.items()}

    def read(self, tokens, state, memory):
        after, probabilities, alphas = {}, [], []
        for number, (member, own) in enumerate(zip(self.members, memory.members, strict=True)):
            mine = {name.partition(" ")[2]: value for name, value in state.items() if name.startswith(f"{number} ")}
            reading = member.read(tokens, mine, own)
            after |= {f"{number} {name}": value for name, value in reading.state.items()}
            probabilities.append(reading.logits.softmax(-1))
            alphas.append(reading.attended.alpha)
        attended = Attended(reading.attended.context, torch.stack(alphas).mean(0))
        return Reading(torch.stack(probabilities).mean(0).log(), attended, after)

    def follow(self, memory, tokens, lengths):
        return self(memory, tokens, lengths, feed=lambda given, logits: given)


def test_an_ensemble_captions_like_any_model(make_bundle, draw):
    """Two of one kind are that one; and of two kinds, each caption is as probable as both find it in the mean."""
    bundle = make_bundle()
    encoder, one = bundle.model.encoder, bundle.model.decoder
    torch.manual_seed(2)
    other = TransformerDecoder(
        encoder.feature_dim, one.vocab_size, model_dim=16, num_heads=2, feedforward_dim=16
    ).eval()
    photos = [draw(seed) for seed in range(4)]

    def captioner(*members):
        return Captioner(
            Bundle(CaptionModel(encoder, Ensemble(members)).eval(), bundle.tokenizer, bundle.transform), "cpu"
        )

    alone = Captioner(bundle, "cpu").caption(photos)
    for expected, twice in zip(alone, captioner(one, one).caption(photos), strict=True):
        assert twice.text == expected.text
        assert twice.log_prob == pytest.approx(expected.log_prob, abs=1e-4)
        torch.testing.assert_close(twice.maps.alpha, expected.maps.alpha, atol=1e-4, rtol=1e-3)
    both = captioner(one, other)
    for photo, caption in zip(photos, both.caption(photos), strict=True):
        assert both.look(photo, caption.text).log_prob == pytest.approx(caption.log_prob, abs=1e-3)


# ------------------------------------------------------------------------------------------ questions


class Answers(nn.Module):
    """K questions about each image, answered from one copy of its memory."""

    def __init__(self, attention, feature_dim: int, num_words: int, num_answers: int) -> None:
        super().__init__()
        self.words = nn.Embedding(num_words, 16)
        self.reader = nn.GRU(16, 24, batch_first=True)
        self.attention = attention(feature_dim, 24)
        self.answer = nn.Linear(feature_dim, num_answers)

    def forward(self, memory: Memory, questions: torch.Tensor):
        """(B, K, T) questions to (B, K, A) logits, and a map (B, K, L) for each."""
        _, read = self.reader(self.words(questions.flatten(0, 1)))
        asked = read[0].unflatten(0, questions.shape[:2])  # (B, K, H)
        seen = self.attention(asked, self.attention.prepare(memory))
        return self.answer(seen.context), seen.alpha


@pytest.mark.parametrize("attention", [AdditiveAttention, GeneralAttention, MultiHeadAttention])
def test_two_questions_about_one_memory(attention):
    """Six things in a row, each with a colour; a question names one of them, and its colour is the answer."""
    torch.manual_seed(0)
    model = Answers(attention, 6 + 4, num_words=8, num_answers=4)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(150):
        order = torch.rand(32, 6).argsort(dim=1)  # what lies where
        colours = torch.randint(4, (32, 6))
        features = torch.cat([nn.functional.one_hot(order, 6), nn.functional.one_hot(colours, 4)], dim=-1).float()
        asked = torch.randint(6, (32, 2))
        questions = torch.stack([torch.full_like(asked, 7), asked], dim=-1)  # "which", and the thing
        place = (order[:, None] == asked[..., None]).int().argmax(-1)  # (B, K)
        logits, alpha = model(Memory.from_words(3 * features, torch.ones(32, 6, dtype=torch.bool)), questions)
        answers = colours.gather(1, place)
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), answers.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert alpha.shape == (32, 2, 6)
    assert (logits.argmax(-1) == answers).float().mean() > 0.9
    if attention is not MultiHeadAttention:
        assert (alpha.argmax(-1) == place).float().mean() > 0.9
