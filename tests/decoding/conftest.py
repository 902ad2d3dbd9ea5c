"""A toy model for the searches, where any prefix has its own random next-word distribution; and all searches."""

from __future__ import annotations

import itertools

import pytest
import torch

from captioner.decoding import BeamSearch, Constraint, DiverseBeamSearch, GreedySearch, Rules, Sampling, Search

PAD, BOS, EOS, UNK = range(4)
NUM_SPECIAL = 4
NUM_HASHES = 9973

SEARCHES = {
    "greedy": GreedySearch(),
    "beam 1": BeamSearch(beam_size=1, length_penalty=0.0),
    "beam 3": BeamSearch(beam_size=3, length_penalty=0.0),
    "beam 3, normalised": BeamSearch(beam_size=3, length_penalty=0.8),
    "beam wider than the vocabulary": BeamSearch(beam_size=20, length_penalty=0.0),
    "groups of 1": DiverseBeamSearch(beam_size=3, num_groups=3, diversity=2.0),
    "groups of 2": DiverseBeamSearch(beam_size=6, num_groups=3, diversity=0.5, length_penalty=0.0),
    "sampling": Sampling(num_samples=6),
    "sampling the head": Sampling(num_samples=4, temperature=0.7, top_k=3, top_p=0.9, seed=5),
}


class TableModel:
    """Logits looked up by image and whole prefix; its state holds the prefix, in two forms.

    The special words are the likeliest ones nearly everywhere, so that a search that lets one through is
    caught. The steps taken are counted.
    """

    def __init__(self, seed: int, num_images: int = 3, num_words: int = 3) -> None:
        self.words = range(NUM_SPECIAL, NUM_SPECIAL + num_words)
        generator = torch.Generator().manual_seed(seed)
        self.table = 2 * torch.randn(num_images, NUM_HASHES, NUM_SPECIAL + num_words, generator=generator)
        self.table[..., [PAD, BOS, UNK]] += 3
        self.num_steps = 0

    def set_logit(self, prefix: list[int], word: int, logit: float) -> None:
        """Say, for every image, how likely a word is after a prefix."""
        self.table[:, prefix_code(prefix), word] = logit

    def init_state(self, images: list[int] | None = None) -> dict[str, torch.Tensor]:
        image = torch.arange(len(self.table)) if images is None else torch.tensor(images, dtype=torch.long)
        code = torch.zeros(len(image), 1, dtype=torch.long)
        return {"image": image[:, None], "code": code, "history": code.new_zeros(len(image), 1, 0)}

    def step(self, tokens, state):
        assert tokens.shape == state["code"].shape
        self.num_steps += 1
        code = next_code(state["code"], tokens)
        history = torch.cat([state["history"], tokens[..., None]], dim=-1)
        logits = self.table[state["image"], code]
        return logits, {"image": state["image"], "code": code, "history": history}

    def log_prob(self, image: int, words: list[int], finished: bool) -> float:
        """Teacher forcing, one word at a time, in double precision."""
        targets = [*words, EOS] if finished else words
        total = 0.0
        for num_words, target in enumerate(targets):
            logits = self.table[image, prefix_code(targets[:num_words])]
            total += logits.double().log_softmax(-1)[target].item()
        return total

    def all_captions(self, rules: Rules) -> list[list[int]]:
        lengths = range(rules.min_length, rules.max_length + 1)
        return [list(words) for n in lengths for words in itertools.product(self.words, repeat=n)]


def next_code(code, token):
    """The hash of a prefix, from that of the prefix without its last token."""
    return (31 * code + token + 7) % NUM_HASHES


def prefix_code(words: list[int]) -> int:
    """The hash of a prefix, given without its begin word."""
    code = next_code(0, BOS)
    for word in words:
        code = next_code(code, word)
    return code


@pytest.fixture(params=SEARCHES.values(), ids=SEARCHES.keys())
def search(request):
    """Every search, asked for all the captions it can give: a new one is tested by standing in SEARCHES."""
    found: Search = request.param

    def all_captions(step, state, rules):
        return found(step, state, rules, num_best=found.max_captions)

    return all_captions


@pytest.fixture(params=range(2))
def model(request) -> TableModel:
    return TableModel(seed=request.param)


@pytest.fixture
def endless_model() -> TableModel:
    """A model in which the end word is impossible."""
    model = TableModel(seed=0)
    model.table[..., EOS] = -torch.inf
    return model


@pytest.fixture
def make_rules():
    def make(min_length: int = 1, max_length: int = 4, constraints: tuple[Constraint, ...] = ()) -> Rules:
        return Rules(BOS, EOS, (PAD, BOS, UNK), min_length, max_length, constraints)

    return make
