"""microembedding against PyTorch, sentence-transformers and Levenshtein."""

from __future__ import annotations

import random

import pytest
import torch
import torch.nn.functional as F
from sentence_transformers import util
from sentence_transformers.sentence_transformer import losses
from support import load_script

script = load_script("microembedding")
NAMES = ["ava", "elizabeth", "zoe", "christopher", "jo", "maximilian", "q", "anna"]
PARTNERS = ["eva", "elisabeth", "zoey", "kristofer", "joe", "maximilien", "qu", "ana"]


def tensors(encoder):
    return [
        torch.tensor(p.data, dtype=torch.float64, requires_grad=True) for p in encoder.parameters()
    ]


def torch_forward(table, weight, names):
    bags = [
        [script.crc32(g.encode()) % script.TABLE_SIZE for g in script.letter_groups(name)]
        for name in names
    ]
    offsets = torch.tensor([sum(map(len, bags[:i])) for i in range(len(bags))])
    flat = torch.tensor([i for bag in bags for i in bag])
    summed = F.embedding_bag(flat, table, offsets, mode="sum")
    return F.normalize(F.linear(torch.tanh(summed), weight))


def torch_info_nce(a, b, temperature):
    scores = a @ b.T / temperature
    partners = torch.arange(len(a))
    return (F.cross_entropy(scores, partners) + F.cross_entropy(scores.T, partners)) / 2


@pytest.mark.parametrize("temperature", [0.02, 0.2, 1.0])
def test_encoder_loss_and_every_gradient(temperature):
    encoder = script.Encoder(random.Random(1))
    table, weight = tensors(encoder)
    loss = script.info_nce(encoder.forward(NAMES), encoder.forward(PARTNERS), temperature)
    loss.backward()
    a, b = torch_forward(table, weight, NAMES), torch_forward(table, weight, PARTNERS)
    expected = torch_info_nce(a, b, temperature)
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-9)
    for ours, theirs in ((encoder.table, table), (encoder.weight, weight)):
        difference = (torch.tensor(ours.grad, dtype=torch.float64) - theirs.grad).abs().max()
        assert difference <= 1e-9 * theirs.grad.abs().max()


def test_attraction_is_the_mean_squared_distance():
    encoder = script.Encoder(random.Random(2))
    a, b = encoder.forward(NAMES), encoder.forward(PARTNERS)
    x, y = [torch.tensor(v.data, dtype=torch.float64) for v in (a, b)]
    expected = (x - y).pow(2).sum(1).mean()
    assert script.attraction(a, b).item() == pytest.approx(expected.item(), rel=1e-9)


def test_each_direction_is_the_ranking_loss_of_sentence_transformers():
    """MultipleNegativesRankingLoss looks one way; ours is the mean of both ways."""
    encoder = script.Encoder(random.Random(3))
    a, b = [
        torch.tensor(encoder.forward(names).data, dtype=torch.float64)
        for names in (NAMES, PARTNERS)
    ]
    library = losses.MultipleNegativesRankingLoss(
        model=None, scale=1 / 0.2, similarity_fct=util.cos_sim
    )
    both = [library.compute_loss_from_embeddings([*pair], None) for pair in ((a, b), (b, a))]
    ours = script.info_nce(script.Tensor(a.tolist()), script.Tensor(b.tolist()), 0.2).item()
    assert ours == pytest.approx((both[0].item() + both[1].item()) / 2, rel=1e-6)


def test_thirty_steps_of_training_with_torchs_sparse_adam():
    encoder = script.Encoder(random.Random(4))
    table = torch.nn.Parameter(torch.tensor(encoder.table.data, dtype=torch.float64))
    weight = torch.nn.Parameter(torch.tensor(encoder.weight.data, dtype=torch.float64))
    ours = script.SparseAdam(encoder.parameters(), eps=1e-16)
    sparse = torch.optim.SparseAdam([table], lr=0.03, eps=1e-16)
    dense = torch.optim.Adam([weight], lr=0.03, eps=1e-16)
    for _ in range(30):
        loss = script.info_nce(encoder.forward(NAMES), encoder.forward(PARTNERS), 0.2)
        loss.backward()
        ours.step(0.03)
        a, b = torch_forward(table, weight, NAMES), torch_forward(table, weight, PARTNERS)
        expected = torch_info_nce(a, b, 0.2)
        expected.backward()
        rows = table.grad.abs().sum(1).nonzero()[:, 0]
        table.grad = torch.sparse_coo_tensor(
            rows[None], table.grad[rows], table.shape, check_invariants=True
        ).coalesce()
        sparse.step()
        dense.step()
        table.grad = weight.grad = None
        assert loss.item() == pytest.approx(expected.item(), rel=1e-7)
