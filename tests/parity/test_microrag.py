"""microrag against rank_bm25, bm25s, sentence-transformers and PyTorch."""

from __future__ import annotations

import math
import random

import bm25s
import pytest
import torch
import torch.nn.functional as F
from rank_bm25 import BM25Okapi
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from support import load_script

script = load_script("microrag")
RNG = random.Random(0)
FACTS = script.load_facts()
PASSAGES = script.write_passages(FACTS, RNG)
QUESTIONS = script.ask(FACTS, PASSAGES, list(FACTS))
TEXTS = [passage.words for passage in PASSAGES]
WORDS = sorted({word for text in [*PASSAGES, *QUESTIONS] for word in text.words})


def scores_of(texts, query):
    found = script.BM25(texts).search(query)
    return [found.get(number, 0.0) for number in range(len(texts))]


def random_texts(seed):
    rng = random.Random(seed)
    return [rng.choices("abcdefgh", k=rng.randint(1, 12)) for _ in range(30)]


@pytest.mark.parametrize("texts", [TEXTS, random_texts(0), random_texts(1)])
def test_bm25_against_rank_bm25_with_lucenes_idf(texts):
    theirs = BM25Okapi(texts, k1=script.K1, b=script.B)
    counts = {word: sum(word in text for text in texts) for word in theirs.idf}
    for word, n in counts.items():
        theirs.idf[word] = math.log(1.0 + (len(texts) - n + 0.5) / (n + 0.5))
    queries = [q.words for q in QUESTIONS[::20]] if texts is TEXTS else [["a", "b"], ["h"], ["z"]]
    for query in queries:
        expected = theirs.get_scores(query).tolist()
        assert scores_of(texts, query) == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_bm25_against_bm25s_as_lucene_ranks():
    """Lucene leaves the factor k1 + 1 out, which changes no order."""
    theirs = bm25s.BM25(k1=script.K1, b=script.B, method="lucene", dtype="float64")
    theirs.index(TEXTS, show_progress=False)
    for question in QUESTIONS[::20]:
        known = [word for word in question.words if any(word in text for text in TEXTS)]
        expected = theirs.get_scores(known) * (script.K1 + 1.0)
        assert scores_of(TEXTS, question.words) == pytest.approx(expected.tolist(), rel=1e-9)


def test_the_contrastive_loss_and_its_gradients_against_sentence_transformers():
    encoder = script.TextEncoder(WORDS, random.Random(1))
    golds = random.Random(2).sample(sorted({q.gold for q in QUESTIONS}), 12)
    batch = [next(q for q in QUESTIONS if q.gold == gold) for gold in golds]
    sides = [[q.words for q in batch], [TEXTS[gold] for gold in golds]]
    ours = script.contrastive_loss(*[encoder.encode(side) for side in sides])
    ours.backward()

    table = torch.tensor(encoder.table.data, dtype=torch.float64, requires_grad=True)
    sums = [
        torch.stack([table[[encoder.index_of[w] for w in text]].sum(0) for text in side])
        for side in sides
    ]
    loss = MultipleNegativesRankingLoss(
        model=torch.nn.Identity(),
        scale=1.0 / script.TEMPERATURE,
        directions=("query_to_doc", "doc_to_query"),
        partition_mode="per_direction",
    ).compute_loss_from_embeddings(sums, None)
    loss.backward()
    assert ours.item() == pytest.approx(loss.item(), rel=1e-12)
    close(encoder.table.grad, table.grad)


KEYS = ("embedding", "gain_previous", "gain_before", "segment", "query", "key", "value", "head")
KEYS += ("gate_head",)


def torch_loss(weights, reader, examples):
    """The reader's loss, one example at a time, with torch.scatter_add for the copying."""

    def embed(words):
        ids = [torch.tensor([reader.index_of[w] for w in c]) for c in zip(*script.windows(words))]
        rows = [F.rms_norm(weights["embedding"][i], (script.WIDTH,), eps=1e-5) for i in ids]
        return rows[0] + rows[1] * weights["gain_previous"] + rows[2] * weights["gain_before"]

    def norm(x):
        return F.rms_norm(x, (script.WIDTH,), eps=1e-5)

    losses = []
    for passage, question, answer in examples:
        segments = torch.tensor([0] * len(passage) + [1] * len(question))
        x = torch.cat([embed(passage), embed(question)]) + weights["segment"][segments]
        k, v = [F.linear(norm(x), weights[key]) for key in ("key", "value")]
        y = embed([script.START, *answer[:-1]])
        q = F.linear(norm(y), weights["query"])
        attention = torch.softmax(q @ k.T / math.sqrt(script.WIDTH), dim=-1)
        context = F.scaled_dot_product_attention(q[None], k[None], v[None])[0]
        y = norm(y + context)
        g = torch.sigmoid(F.linear(y, weights["gate_head"]))
        listed = torch.tensor([reader.index_of[word] for word in reader.generator])
        generated = torch.softmax(F.linear(y, weights["head"]), dim=-1)
        p = torch.zeros(len(answer), len(reader.index_of), dtype=torch.float64)
        p = p.index_add(1, listed, g * generated)
        source = torch.tensor([reader.index_of[word] for word in passage + question])
        p = p.scatter_add(1, source.expand(len(answer), -1), (1.0 - g) * attention)
        targets = torch.tensor([reader.index_of[word] for word in answer])
        losses.append(-p.gather(1, targets[:, None]).log())
    return torch.cat(losses).mean()


def reader_and_weights(seed):
    generator = sorted({word for question in QUESTIONS[:300] for word in question.answer})
    reader = script.Reader(WORDS, generator, random.Random(seed))
    # A zero gate would hide mistakes in it, and small logits mistakes in the list.
    rng = random.Random(seed + 1)
    reader.gate_head = script.gaussian(1, script.WIDTH, 0.5, rng)
    reader.head.data = [[10.0 * x for x in row] for row in reader.head.data]
    weights = {
        key: torch.tensor(getattr(reader, key).data, dtype=torch.float64, requires_grad=True)
        for key in KEYS
    }
    picked = rng.sample(QUESTIONS, 6)
    return reader, weights, [(TEXTS[q.gold], q.words, q.answer) for q in picked]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_readers_loss_and_every_gradient(seed):
    reader, weights, examples = reader_and_weights(seed)
    ours, theirs = script.reader_loss(reader, examples), torch_loss(weights, reader, examples)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-12)
    ours.backward()
    theirs.backward()
    for key in KEYS:
        close(getattr(reader, key).grad, weights[key].grad)


def test_ten_steps_of_training():
    reader, weights, examples = reader_and_weights(3)
    ours = script.Adam(reader.parameters(), betas=(0.9, 0.95))
    theirs = torch.optim.Adam(weights.values(), lr=0.03, betas=(0.9, 0.95))
    for _ in range(10):
        loss = script.reader_loss(reader, examples)
        loss.backward()
        ours.step(0.03)
        theirs.zero_grad()
        expected = torch_loss(weights, reader, examples)
        expected.backward()
        theirs.step()
        assert loss.item() == pytest.approx(expected.item(), rel=1e-9)


def close(rows, expected):
    """Assert that every entry agrees to 1e-9 of the largest."""
    ours = torch.tensor(rows, dtype=torch.float64)
    assert ours.shape == expected.shape
    difference = (ours - expected).abs().max().item()
    assert difference <= 1e-9 * max(1e-3, expected.abs().max().item())
