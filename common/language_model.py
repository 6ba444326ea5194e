"""The small language model on names, once: the GPT, packing, and the table of counts to beat.

Scripts carry exact copies of the pieces that they use (tools/sync.py writes and checks them).
01-foundations/microgpt.py explains them. Symbols are whole numbers: 0 is the boundary that stands
before and after every name, 1 to 26 are the letters a to z.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

from common.engine import (
    Tensor,
    embedding,
    linear,
    relu,
    rms_norm,
    scaled_dot_product_attention,
    softmax_row,
)

# === TEXT ===

ALPHABET = ".abcdefghijklmnopqrstuvwxyz"  # symbol i is ALPHABET[i]; the dot marks start and end


def encode(name: str) -> list[int]:
    """A name as symbols, with the boundary before and after it.

    >>> encode("ava")
    [0, 1, 22, 1, 0]
    """
    return [0, *[ALPHABET.index(letter) for letter in name], 0]


def pack(
    sequences: Sequence[Sequence[int]], look_back: int = 10**9
) -> tuple[list[int], list[int], list[tuple[int, int]], list[int]]:
    """Lay sequences end to end, so that one matrix product serves them all.

    Returns four lists, one entry per prediction: the symbol read, its place in its sequence, the
    span (first, stop) of rows that its row may read, and the target: the symbol that comes next.

    >>> pack([[0, 1, 2, 0], [0, 5, 0]])  # doctest: +NORMALIZE_WHITESPACE
    ([0, 1, 2, 0, 5], [0, 1, 2, 0, 1],
     [(0, 1), (0, 2), (0, 3), (3, 4), (3, 5)], [1, 2, 0, 5, 0])
    """
    ids: list[int] = []
    positions: list[int] = []
    spans: list[tuple[int, int]] = []
    targets: list[int] = []
    for sequence in sequences:
        start, length = len(ids), len(sequence) - 1
        ids += sequence[:-1]
        targets += sequence[1:]
        positions += range(length)
        # A row reads its own sequence only, up to itself: its target stands one further on.
        spans += [
            (max(start, row + 1 - look_back), row + 1) for row in range(start, start + length)
        ]
    return ids, positions, spans, targets


# === THE TABLE TO BEAT ===


class CountTable:
    """Predict the next symbol from counts of what followed the last few symbols.

    Interpolated Kneser-Ney smoothing with one discount: Kneser & Ney, "Improved Backing-off for
    M-gram Language Modeling", 1995; Chen & Goodman, "An Empirical Study of Smoothing Techniques
    for Language Modeling", 1998.
    """

    def __init__(self, sequences: Sequence[Sequence[int]], order: int, discount: float) -> None:
        self.order = order  # 2: a bigram, which knows the last symbol only
        self.discount = discount
        self.counts: defaultdict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
        for sequence in sequences:
            for i in range(1, len(sequence)):
                longest = min(order - 1, i)
                for length in range(longest, -1, -1):
                    followers = self.counts[tuple(sequence[i - length : i])]
                    followers[sequence[i]] += 1
                    # A shorter context hears of a symbol only when it is new to the longer one. So
                    # its count says in how many *different* longer contexts the symbol came. A
                    # letter that came fifty times, but always after the same letter, is not a
                    # likely guess after another. This is Kneser and Ney's idea.
                    if followers[sequence[i]] > 1:
                        break

    def probabilities(self, history: Sequence[int]) -> list[float]:
        """The next symbol's distribution after a history that starts with the boundary."""
        result = [1.0 / len(ALPHABET)] * len(ALPHABET)
        for length in range(min(self.order, len(history) + 1)):
            followers = self.counts.get(tuple(history[len(history) - length :]))
            if followers is None:
                break
            # Every count gives up the discount; what is saved goes to the shorter context.
            total = sum(followers.values())
            saved = self.discount * len(followers) / total
            result = [saved * shorter for shorter in result]
            for symbol, count in followers.items():
                result[symbol] += (count - self.discount) / total
        return result

    def num_counts(self) -> int:
        """How many numbers the table stores."""
        return sum(map(len, self.counts.values()))


# === THE MODEL ===


class GPT:
    """A transformer with one block. What it knows is in nine matrices, which start out random.

    Radford et al., "Language Models are Unsupervised Multitask Learners" (GPT-2), 2019, but with
    RMSNorm for LayerNorm, ReLU for GELU, no biases, and a head of its own (GPT-2 uses the token
    embedding once more).
    """

    def __init__(self, num_symbols: int, context: int, width: int, rng: random.Random) -> None:
        def matrix(rows: int, columns: int) -> Tensor:
            return Tensor([[rng.gauss(0.0, 0.08) for _ in range(columns)] for _ in range(rows)])

        self.token_embedding = matrix(num_symbols, width)  # one row for each symbol
        self.position_embedding = matrix(context, width)  # one row for each place
        self.query = matrix(width, width)
        self.key = matrix(width, width)
        self.value = matrix(width, width)
        self.attention_out = matrix(width, width)
        self.mlp_in = matrix(4 * width, width)
        self.mlp_out = matrix(width, 4 * width)
        self.head = matrix(num_symbols, width)

    def parameters(self) -> list[Tensor]:
        """Every matrix that training may change."""
        return list(vars(self).values())

    def forward(self, ids: Sequence[int], positions: Sequence[int], attend: Callable) -> Tensor:
        """N symbols and their places -> logits [N][num_symbols]: a score for each next symbol.

        attend(q, k, v) lets each row read itself and rows of its past; which ones is decided there,
        so causality is too. It is the only step in which rows meet.
        """
        # A symbol's vector says what it is, a place's vector where it stands. Their sum starts
        # out small (entries of 0.08 * sqrt(2) = 0.11). Normed, every row has a root mean square of
        # 1, so what attention and the MLP add later has the same relative size for every symbol.
        x = embedding(self.token_embedding, ids) + embedding(self.position_embedding, positions)
        x = rms_norm(x)

        # x is the residual stream. Attention and the MLP each read a normed copy of it and *add*
        # what they found, so on the way back the sum hands every gradient on unweakened. The norm
        # stands before each part (pre-norm), off that path. The first Transformer put it after the
        # sum, on the path, and was hard to train without warm-up (Xiong et al., arXiv:2002.04745).
        normed = rms_norm(x)
        q, k, v = [linear(normed, weight) for weight in (self.query, self.key, self.value)]
        x = x + linear(attend(q, k, v), self.attention_out)

        # The MLP works on each row alone: what attention has gathered is combined here.
        normed = rms_norm(x)
        x = x + linear(relu(linear(normed, self.mlp_in)), self.mlp_out)

        # GPT-2 and its heirs norm once more before the head, since a stream to which dozens of
        # blocks have added has grown. After one block the head can learn the size it gets.
        return linear(x, self.head)


# === SAMPLING MANY AT ONCE ===


def sample(
    model: GPT, starts: Sequence[int], num_heads: int, context: int, rng: random.Random
) -> list[list[int]]:
    """Continue each start symbol until the model ends the text with 0, or context + 1 symbols are
    there: one list of symbols per start, both ends included. Nothing is cut off or sharpened.

    All unfinished texts read their last symbol in one forward pass. The keys and values of what
    they have read before are kept; they lie one text after the other, so a text is a span.
    """
    texts = [[start] for start in starts]
    keys: list[list[list[float]]] = [[] for _ in starts]
    values: list[list[list[float]]] = [[] for _ in starts]
    active = list(range(len(starts)))

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        for i, key, value in zip(active, k.data, v.data):
            keys[i].append(key)
            values[i].append(value)
        all_keys, all_values = [
            [row for i in active for row in cache[i]] for cache in (keys, values)
        ]
        length = len(all_keys) // len(active)
        spans = [(n * length, (n + 1) * length) for n in range(len(active))]
        return scaled_dot_product_attention(
            q, Tensor(all_keys), Tensor(all_values), num_heads, spans
        )

    for position in range(context):
        if active:
            last = [texts[i][-1] for i in active]
            logits = model.forward(last, [position] * len(active), attend).data
            for i, row in zip(active, logits):
                texts[i].append(rng.choices(range(len(row)), softmax_row(row))[0])
            active = [i for i in active if texts[i][-1] != 0]
    return texts
