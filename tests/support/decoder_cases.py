"""Every decoder of the package, small, with memories and captions to try it on."""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil

import torch

import captioner.models
from captioner.models import (
    AdaptiveDecoder,
    AdditiveAttention,
    Decoder,
    LuongDecoder,
    ShowAndTell,
    ShowAttendTell,
    TransformerDecoder,
    UpDown,
)
from captioner.models.attention import HardAttention, LocationAttention, MultiHeadAttention
from captioner.types import Kind, Memory, Segment

FEATURE_DIM, VOCAB_SIZE, NUM_LOCATIONS = 6, 13, 5
LENGTHS = torch.tensor([[6, 4, 1], [4, 3, 0], [2, 2, 2]])  # longest first, as batches come
SHRINKING = [  # of several batches
    LENGTHS,
    LENGTHS.clamp(max=2),
    torch.tensor([[5, 4, 0]] * 3),
    torch.tensor([[5, 4, 3], [5, 4, 3], [0, 0, 0]]),
    torch.tensor([[5, 0, 0], [1, 0, 0], [0, 0, 0]]),
    LENGTHS.flip(0, 1),
]
NUM_WORDS = 6
additive = functools.partial(AdditiveAttention, attention_dim=7)
two_heads = functools.partial(MultiHeadAttention, num_heads=2, attention_dim=6)
hard = functools.partial(HardAttention, scorer=additive)
ALL_CHANGED = {"tie_embeddings": True, "normalise_features": True, "project_dim": 11}


OPTIONS = {
    ShowAttendTell: {
        "authors": {},
        "paper": {"output_tanh": False, "gated_output": False},
        "no gate, sizes": {"gate": "none", "embed_dim": 9, "hidden_dim": 10},
        "plain output": {"deep_output": False, "embed_dim": 9},
        "shipped": {"gate": "vector", **ALL_CHANGED},
        "hard": {"attention": hard},
    },
    ShowAndTell: {"paper": {}, "every step": {"every_step": True, **ALL_CHANGED}},
    LuongDecoder: {"paper": {}, "not fed": {"input_feeding": False, **ALL_CHANGED}},
    AdaptiveDecoder: {"paper": {}, "all changed": ALL_CHANGED, "several heads": {"attention": two_heads}},
    UpDown: {"paper": {}, "all changed": ALL_CHANGED, "several heads": {"attention": two_heads}},
    TransformerDecoder: {
        "paper": {},
        "learned": {"positions": "learned", "max_words": 9, "tie_embeddings": False, "normalise_features": True},
        "one head": {"attention": additive, "num_layers": 1},
        "hard": {"attention": hard},
    },
}


def all_of(kind: type) -> list[type]:
    """Every class of a kind in the package that can be built."""
    for module in pkgutil.walk_packages(captioner.models.__path__, "captioner.models."):
        importlib.import_module(module.name)
    found, queue = set(), [kind]
    while queue:
        queue += (children := queue.pop().__subclasses__())
        found |= {cls for cls in children if cls.__module__.startswith("captioner.") and not inspect.isabstract(cls)}
    return sorted(found, key=lambda cls: cls.__qualname__)


def accepted(cls: type, options: dict) -> dict:
    """Those of some options that a constructor has."""
    return {name: value for name, value in options.items() if name in inspect.signature(cls).parameters}


def build(cls: type[Decoder], options: dict, feature_dim: int = FEATURE_DIM) -> Decoder:
    """A small decoder, in evaluation mode and double precision."""
    torch.manual_seed(0)
    sizes = {"embed_dim": 8, "hidden_dim": 8, "model_dim": 8, "num_layers": 2, "num_heads": 2, "feedforward_dim": 12}
    sizes["attention"] = two_heads if cls is TransformerDecoder else additive
    return cls(feature_dim, VOCAB_SIZE, **accepted(cls, sizes) | options).double().eval()


def random_memory(num_real=(5, 3, 1), feature_dim: int = FEATURE_DIM) -> Memory:
    """Three grids, of which not all cells are real."""
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(len(num_real), NUM_LOCATIONS, feature_dim, generator=generator, dtype=torch.float64)
    mask = torch.arange(NUM_LOCATIONS) < torch.tensor(num_real)[:, None]
    return Memory(features, mask, (Segment(Kind.GRID, NUM_LOCATIONS, grid=(1, NUM_LOCATIONS)),))


def regions() -> Memory:
    memory = random_memory((2, 5, 3))
    return Memory.from_regions(memory.features, memory.mask, torch.rand(3, NUM_LOCATIONS, 4))


def words() -> Memory:
    memory = random_memory((1, 4, 5))
    return Memory.from_words(memory.features.flip(2), memory.mask)


def random_tokens(num_sequences: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randint(VOCAB_SIZE, (3, num_sequences, NUM_WORDS + 1), generator=generator)


def spread(output, values):
    """Rows of the real words at their places (B, K, T, ...)."""
    return values.new_zeros((*output.mask.shape, *values.shape[1:])).index_put(
        output.mask.nonzero(as_tuple=True), values
    )


def assert_same_looks(looks, others, change=lambda tensor: tensor):
    """The weights and extras of one answer are those of another one, changed."""
    for name, value in looks.items():
        torch.testing.assert_close(value, change(others[name]))


def looks_of(output) -> dict[str, torch.Tensor]:
    """All that a decoder says of where it looked, (B, K, T, ...) by name."""
    return dict(output.extras) | ({} if output.alpha is None else {"alpha": output.alpha})


def assert_steps_are_forward(decoder, memory, tokens, lengths):
    output = decoder(memory, tokens, lengths)
    expected = spread(output, output.logits)
    state = decoder.init_state(memory, tokens.shape[1])
    for step in range(tokens.shape[2] - 1):
        logits, state = decoder.step(tokens[..., step], state, memory)
        real = step < lengths
        torch.testing.assert_close(logits[real], expected[:, :, step][real])


def assert_looks_are_whole(decoder, output):
    """Weights of real locations sum to 1 on real words, with the sentinel's; all else is 0."""
    whole = output.alpha.sum(-1) + output.extras.get("sentinel", 0)
    if decoder.attention.rows_sum_to_1:
        torch.testing.assert_close(whole, output.mask.to(whole.dtype))
    else:
        assert (whole <= output.mask + 1e-6).all()
        assert (whole[output.mask] > 0).all()
    assert not output.alpha.masked_select(~output.locations[:, None, None]).any()
    for extra in output.extras.values():
        assert not extra[~output.mask].any()


def assert_gradients_reach(decoder, output):
    """Every weight, from the probability of one word."""
    output.logits.log_softmax(-1)[:, 0].sum().backward()
    for name, parameter in decoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


WITHOUT_SENTINEL = {LocationAttention, HardAttention}
TINY = {"attention_dim": 8, "num_heads": 2, "window": 1, "num_locations": 7, "scorer": additive}
ATTENTIVE = [cls for cls in all_of(Decoder) if cls is not ShowAndTell]


def assert_extras(decoder, output):
    """What attention gives beside its weights, by name and shape."""
    shapes = {name: extra.shape[3:] for name, extra in output.extras.items()}
    expected = {}
    layers = decoder.num_layers if isinstance(decoder, TransformerDecoder) else 1
    num_heads = layers * decoder.attention.num_heads
    if isinstance(decoder, TransformerDecoder) or decoder.attention.num_heads > 1:
        expected["heads"] = (num_heads, output.alpha.shape[-1])
        torch.testing.assert_close(output.extras["heads"].mean(dim=3), output.alpha)
    if isinstance(decoder, AdaptiveDecoder):
        expected["sentinel"] = ()
    if isinstance(decoder.attention, HardAttention):
        expected |= {"sample_log_prob": (), "entropy": ()}
    assert shapes == expected
