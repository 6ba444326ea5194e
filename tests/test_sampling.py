"""The common sampler of many texts at once: it draws what the model's own forward says."""

from __future__ import annotations

import random
from collections import Counter

from common.engine import Tensor, scaled_dot_product_attention, softmax_row
from common.language_model import GPT, pack, sample

HEADS, CONTEXT = 2, 5


def new_model(scale: float = 6.0) -> GPT:
    model = GPT(4, CONTEXT, 8, random.Random(1))
    for parameter in model.parameters():
        parameter.data = [[x * scale for x in row] for row in parameter.data]
    return model


def last_probabilities(model: GPT, text: list[int]) -> list[float]:
    """The next symbol's distribution after a text, computed without any cache."""
    ids, positions, spans, _ = pack([[*text, 0]])

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return scaled_dot_product_attention(q, k, v, HEADS, spans)

    return softmax_row(model.forward(ids, positions, attend).data[-1])


class Recorder(random.Random):
    """A generator that keeps the weights that it was asked to draw with."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.asked: list[list[float]] = []

    def choices(self, population, weights=None, **options):
        self.asked.append(list(weights))
        return super().choices(population, weights, **options)


def test_every_draw_has_the_probabilities_of_the_whole_text() -> None:
    model, rng = new_model(), Recorder(3)
    texts = sample(model, [0, 1, 2, 0], HEADS, CONTEXT, rng)
    # The draws come place by place, over the texts that are unfinished at that place.
    expected = [
        last_probabilities(model, text[:length])
        for length in range(1, CONTEXT + 1)
        for text in texts
        if len(text) > length
    ]
    assert len(rng.asked) == len(expected)
    for ours, right in zip(rng.asked, expected):
        assert max(abs(a - b) for a, b in zip(ours, right)) <= 1e-12


def test_texts_end_with_0_or_at_the_limit() -> None:
    texts = sample(new_model(), [0] * 200, HEADS, CONTEXT, random.Random(0))
    for text in texts:
        assert text[0] == 0 and 2 <= len(text) <= CONTEXT + 1
        assert 0 not in text[1:-1]
        assert text[-1] == 0 or len(text) == CONTEXT + 1
    assert sample(new_model(), [], HEADS, CONTEXT, random.Random(0)) == []


def test_first_symbols_are_drawn_as_often_as_they_should_be() -> None:
    model, count = new_model(), 4000
    texts = sample(model, [0] * count, HEADS, 1, random.Random(5))
    seen = Counter(text[1] for text in texts)
    for symbol, probability in enumerate(last_probabilities(model, [0])):
        spread = (probability * (1 - probability) * count) ** 0.5
        assert abs(seen[symbol] - probability * count) <= 5 * spread + 1
