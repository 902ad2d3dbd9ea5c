"""Seeds."""

from __future__ import annotations

from captioner.seeds import stable_seed


def test_stable_seed_is_stable():
    assert stable_seed("a", 1) == 2057769193037142695  # in every process, unlike hash()
    assert len({stable_seed("a", i) for i in range(100)} | {stable_seed("b", i) for i in range(100)}) == 200
    assert 0 <= stable_seed(3) < 2**63
