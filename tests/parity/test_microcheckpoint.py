"""microcheckpoint against PyTorch: the same gradients, and as many blocks computed again."""

from __future__ import annotations

import random
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from support import load_script
from torch.utils.checkpoint import checkpoint, checkpoint_sequential, set_checkpoint_early_stop

script = load_script("microcheckpoint")
DEPTH = 8
RNG = random.Random(5)
IMAGES = [[RNG.random() for _ in range(64)] for _ in range(6)]
LABELS = [RNG.randrange(10) for _ in IMAGES]


class TorchBlock(torch.nn.Module):
    """The same block, written with torch.nn.functional alone; counts how often it starts."""

    def __init__(self, weights):
        super().__init__()
        self.w_in, self.w_out = [torch.nn.Parameter(as_tensor(w.data)) for w in weights]
        self.count = 0
        self.register_forward_pre_hook(TorchBlock.count_one)

    def count_one(self, *_):
        self.count += 1

    def forward(self, x):
        normed = F.rms_norm(x, (x.shape[1],), eps=1e-5)
        return x + F.linear(F.relu(F.linear(normed, self.w_in)), self.w_out)


class TorchNetwork(torch.nn.Module):
    """The same network, with the numbers of ours."""

    def __init__(self, network):
        super().__init__()
        self.stem, self.head = [
            torch.nn.Parameter(as_tensor(w.data)) for w in (network.stem, network.head)
        ]
        self.blocks = torch.nn.ModuleList([TorchBlock(b.weights) for b in network.blocks])

    def forward(self, images, policy):
        x = policy(F.linear(images, self.stem), list(self.blocks))
        return F.linear(F.rms_norm(x, (x.shape[1],), eps=1e-5), self.head)

    def ordered(self):
        """The parameters in our order."""
        inner = [w for block in self.blocks for w in (block.w_in, block.w_out)]
        return [self.stem, *inner, self.head]


def as_tensor(rows):
    return torch.tensor(rows, dtype=torch.float64)


def torch_all(x, blocks):
    for block in blocks:
        x = block(x)
    return x


def torch_segments(x, blocks, length):
    for first in range(0, len(blocks), length):
        part = blocks[first : first + length]
        x = checkpoint(torch_all, x, part, use_reentrant=False)
    return x


def torch_bisect(x, blocks, use_reentrant=False):
    if len(blocks) == 1:
        return blocks[0](x)
    half = len(blocks) // 2
    x = checkpoint(torch_bisect, x, blocks[:half], use_reentrant, use_reentrant=use_reentrant)
    return torch_bisect(x, blocks[half:], use_reentrant)


def both_steps(ours, theirs):
    """One step of both -> (our network, theirs), with gradients and counts."""
    network = script.Network(DEPTH, random.Random(1))
    twin = TorchNetwork(network)
    loss = script.cross_entropy(network.forward(IMAGES, ours), LABELS)
    expected = F.cross_entropy(twin(as_tensor(IMAGES), theirs), torch.tensor(LABELS))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    loss.backward()
    expected.backward()
    return network, twin


PAIRS = {
    "store_all": (script.store_all, torch_all),
    "every": (partial(script.segments, length=1), partial(torch_segments, length=1)),
    "three": (partial(script.segments, length=3), partial(torch_segments, length=3)),
    "whole": (partial(script.segments, length=DEPTH), partial(torch_segments, length=DEPTH)),
    "bisect": (script.bisect, torch_bisect),
    "revolve": (partial(script.revolve, slots=2), torch_all),
}


@pytest.mark.parametrize("ours, theirs", PAIRS.values(), ids=PAIRS)
def test_every_gradient(ours, theirs):
    network, twin = both_steps(ours, theirs)
    for parameter, expected in zip(network.parameters(), twin.ordered(), strict=True):
        difference = (as_tensor(parameter.grad) - expected.grad).abs().max().item()
        assert difference <= 1e-12 * max(1e-3, expected.grad.abs().max().item())


@pytest.mark.parametrize("name", ["store_all", "every", "three", "whole", "bisect"])
def test_as_many_blocks_are_computed_again(name):
    """Block by block. PyTorch may stop a recomputation early; here it is told not to."""
    with set_checkpoint_early_stop(False):
        network, twin = both_steps(*PAIRS[name])
    assert [b.num_forwards for b in network.blocks] == [b.count for b in twin.blocks]


def test_checkpoint_sequential_runs_its_last_segment_only_once():
    """As the docstring of segments() says: L - k extra forwards."""

    def sequential(x, blocks):
        return checkpoint_sequential(blocks, 2, x, use_reentrant=False)

    network, twin = both_steps(partial(script.segments, length=DEPTH // 2), sequential)
    assert [b.count for b in twin.blocks] == [2] * 4 + [1] * 4
    assert [b.num_forwards for b in network.blocks] == [2] * 8


def test_the_reentrant_form_only_warns_where_ours_makes_a_leaf():
    network = script.Network(DEPTH, random.Random(1))
    blocks = list(TorchNetwork(network).blocks)
    x = [[RNG.gauss(0.0, 1.0) for _ in range(script.WIDTH)] for _ in range(2)]
    with pytest.warns(UserWarning, match="None of the inputs have requires_grad"):
        out = checkpoint(torch_all, as_tensor(x), blocks, use_reentrant=True)
    assert not out.requires_grad
    ours = script.checkpoint(
        script.store_all, script.Tensor(x, requires_grad=False), network.blocks
    )
    ours.backward(x)
    expected = torch_all(as_tensor(x), blocks)
    expected.backward(as_tensor(x))
    for block, theirs in zip(network.blocks, blocks):
        difference = (as_tensor(block.weights[0].grad) - theirs.w_in.grad).abs().max().item()
        assert difference <= 1e-12 * theirs.w_in.grad.abs().max().item()


@pytest.mark.parametrize("preserve", [True, False])
def test_dropout_needs_the_generator_put_back_there_too(preserve):
    block = TorchBlock(script.Network(1, random.Random(1)).blocks[0].weights)
    x = as_tensor([row[: script.WIDTH] for row in IMAGES])

    def noisy(x):
        return block(F.dropout(block(x), 0.5))

    gradients = []
    for run in (
        noisy,
        lambda x: checkpoint(noisy, x, use_reentrant=False, preserve_rng_state=preserve),
    ):
        torch.manual_seed(0)
        block.zero_grad()
        run(x.clone().requires_grad_()).square().sum().backward()
        gradients.append(block.w_in.grad.clone())
    assert torch.equal(*gradients) == preserve
