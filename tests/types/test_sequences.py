"""What moves word by word: values of real words, in the order of their logits."""

from __future__ import annotations

import copy
import pickle

import torch

from captioner.types import Attended, TeacherForced


def test_values_of_real_words_come_in_the_order_of_the_logits():
    mask = torch.tensor([[[True, True, False], [True, False, False]], [[False] * 3, [True] * 3]])
    places = mask.flatten().nonzero()[:, 0]
    output = TeacherForced(torch.zeros(6, 4), mask, None, {}, torch.ones(2, 5, dtype=torch.bool), places)
    values = torch.arange(12).view(2, 2, 3)
    assert torch.equal(output.of_words(values), values[mask])


def test_attention_says_nothing_more_unless_it_has_something_to_say():
    assert dict(Attended(torch.zeros(1, 1, 2), None).extras) == {}


def test_what_attention_gives_travels_between_processes():
    attended = Attended(torch.zeros(1, 1, 2), None)
    for twin in (pickle.loads(pickle.dumps(attended)), copy.deepcopy(attended)):
        assert torch.equal(twin.context, attended.context)
        assert twin.extras == {}
