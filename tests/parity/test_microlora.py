"""microlora against PEFT and NumPy: the same weights and names give the same numbers."""

from __future__ import annotations

import random

import numpy
import peft
import pytest
import torch
import torch.nn.functional as F
from support import load_script

script = load_script("microlora")
NAMES = ["ava", "elizabeth", "jon", "christopher", "q", "abcdefghijklmno"]
LAYERS = ("query", "key", "value", "attention_out", "mlp_in", "mlp_out", "head")


class TorchTransformer(torch.nn.Module):
    """The same network, of torch.nn modules, with the weights of ours."""

    def __init__(self, model) -> None:
        super().__init__()
        self.token_embedding = torch.tensor(model.token_embedding.data)
        self.position_embedding = torch.tensor(model.position_embedding.data)
        for name in LAYERS:
            weight = torch.tensor(model.layers[name].weight.data, dtype=torch.float64)
            layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
            layer.weight = torch.nn.Parameter(weight)
            setattr(self, name, layer)

    def forward(self, name: str) -> torch.Tensor:
        ids = torch.tensor(script.encode(name)[:-1])
        x = self.token_embedding[ids] + self.position_embedding[: len(ids)]
        x = F.rms_norm(x, (script.WIDTH,), eps=1e-5)
        h = F.rms_norm(x, (script.WIDTH,), eps=1e-5)
        q, k, v = [
            layer(h).view(len(ids), script.NUM_HEADS, -1).transpose(0, 1)
            for layer in (self.query, self.key, self.value)
        ]
        found = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.attention_out(found.transpose(0, 1).reshape(len(ids), -1))
        h = F.rms_norm(x, (script.WIDTH,), eps=1e-5)
        return self.head(x + self.mlp_out(F.relu(self.mlp_in(h))))


def both_models(seed: int, targets=LAYERS, rank: int = 2, scaling: float = 1.0):
    """An adapted model with random A and B, and PEFT's with the same numbers."""
    torch.set_default_dtype(torch.float64)
    rng = random.Random(seed)
    base = script.new_transformer(rng)
    for parameter in base.parameters():
        parameter.data = [[x * 4.0 for x in row] for row in parameter.data]
    script.freeze(base)
    config = peft.LoraConfig(
        r=rank, lora_alpha=scaling * rank, target_modules=list(targets), lora_dropout=0.0
    )
    theirs = peft.get_peft_model(TorchTransformer(base), config).double()
    ours = script.add_adapters(base, targets, rank, rng)
    for name in targets:
        layer = ours.layers[name]
        layer.scaling = scaling
        layer.lora_B.data = [[rng.gauss(0.0, 0.3) for _ in row] for row in layer.lora_B.data]
        module = getattr(theirs.base_model.model, name)
        with torch.no_grad():
            module.lora_A["default"].weight.copy_(torch.tensor(layer.lora_A.data))
            module.lora_B["default"].weight.copy_(torch.tensor(layer.lora_B.data))
    return ours, theirs


def torch_loss(model) -> torch.Tensor:
    targets = torch.tensor([symbol for name in NAMES for symbol in script.encode(name)[1:]])
    return F.cross_entropy(torch.cat([model(name) for name in NAMES]), targets)


@pytest.fixture(autouse=True)
def default_dtype():
    before = torch.get_default_dtype()
    yield
    torch.set_default_dtype(before)


CASES = [(0, LAYERS, 2, 1.0), (1, ("query", "value"), 5, 1.0), (2, LAYERS, 1, 2.0)]


@pytest.mark.parametrize(("seed", "targets", "rank", "scaling"), CASES)
def test_logits_and_gradients_of_the_adapters(seed, targets, rank, scaling):
    ours, theirs = both_models(seed, targets, rank, scaling)
    close(script.predict(ours, NAMES)[0].data, torch.cat([theirs(name) for name in NAMES]))
    loss, expected = script.cross_entropy(*script.predict(ours, NAMES)), torch_loss(theirs)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    loss.backward()
    expected.backward()
    for name in targets:
        module, layer = getattr(theirs.base_model.model, name), ours.layers[name]
        close(layer.lora_A.grad, module.lora_A["default"].weight.grad)
        close(layer.lora_B.grad, module.lora_B["default"].weight.grad)
        assert layer.base.weight.grad is None and module.base_layer.weight.grad is None


def test_the_same_numbers_are_trained():
    ours, theirs = both_models(0)
    trained, _ = theirs.get_nb_trainable_parameters()
    assert script.count(script.trainable_parameters(ours)) == trained == 662


def test_a_fresh_adapter_has_peft_s_zeros():
    config = peft.LoraConfig(r=2, lora_alpha=2, target_modules=list(LAYERS))
    base = script.new_transformer(random.Random(0))
    theirs = peft.get_peft_model(TorchTransformer(base), config)
    ours = script.add_adapters(base, LAYERS, 2, random.Random(0))
    for name in LAYERS:
        module, layer = getattr(theirs.base_model.model, name), ours.layers[name]
        assert module.scaling["default"] == layer.scaling == 1.0
        assert not module.lora_B["default"].weight.any()
        assert module.lora_A["default"].weight.shape == numpy.shape(layer.lora_A.data)
        assert module.lora_B["default"].weight.shape == numpy.shape(layer.lora_B.data)


@pytest.mark.parametrize(("seed", "targets", "rank", "scaling"), CASES)
def test_merged_weights(seed, targets, rank, scaling):
    ours, theirs = both_models(seed, targets, rank, scaling)
    merged, expected = script.merge(ours), theirs.merge_and_unload()
    for name in LAYERS:
        close(merged.layers[name].weight.data, getattr(expected, name).weight)


def test_ten_steps_of_training_the_adapters():
    ours, theirs = both_models(0)
    optimizer = script.Adam(script.trainable_parameters(ours), script.BETAS)
    parameters = [p for p in theirs.parameters() if p.requires_grad]
    their_optimizer = torch.optim.Adam(parameters, lr=0.03, betas=script.BETAS)
    for _ in range(10):
        loss = script.cross_entropy(*script.predict(ours, NAMES))
        loss.backward()
        optimizer.step(0.03)
        their_optimizer.zero_grad()
        expected = torch_loss(theirs)
        expected.backward()
        their_optimizer.step()
        assert loss.item() == pytest.approx(expected.item(), rel=1e-9)


@pytest.mark.parametrize("shape", [(16, 16), (64, 16), (16, 64), (27, 16), (5, 1), (1, 5)])
def test_svd(shape):
    rng = random.Random(sum(shape))
    matrix = [[rng.gauss(0.0, 1.0) for _ in range(shape[1])] for _ in range(shape[0])]
    sigmas = [sigma for sigma, _, _ in script.svd(matrix)]
    u, s, vh = numpy.linalg.svd(numpy.array(matrix), full_matrices=False)
    assert sigmas == pytest.approx(list(s), rel=1e-10)
    for rank in (1, 2, 4):
        close(script.truncate(matrix, rank), torch.tensor((u[:, :rank] * s[:rank]) @ vh[:rank]))


def test_svd_of_a_product_of_low_rank():
    rng = numpy.random.default_rng(0)
    matrix = rng.normal(size=(64, 2)) @ rng.normal(size=(2, 16))
    sigmas = [sigma for sigma, _, _ in script.svd(matrix.tolist())]
    expected = numpy.linalg.svd(matrix, compute_uv=False)
    assert sigmas == pytest.approx(list(expected), rel=1e-10, abs=1e-12)


def test_a_forgotten_factor_is_noticed(monkeypatch):
    ours, theirs = both_models(2, LAYERS, 1, 2.0)

    def call(self, x):
        return self.base(x) + script.linear(script.linear(x, self.lora_A), self.lora_B)

    monkeypatch.setattr(script.LoRALinear, "__call__", call)
    with pytest.raises(AssertionError):
        close(script.predict(ours, NAMES)[0].data, torch.cat([theirs(name) for name in NAMES]))


def close(rows: list[list[float]], expected: torch.Tensor) -> None:
    """Assert that every entry agrees to 1e-12 of the largest."""
    ours = torch.tensor(rows, dtype=torch.float64)
    assert ours.shape == expected.shape
    difference = (ours - expected).abs().max().item()
    assert difference <= 1e-12 * max(1e-3, expected.abs().max().item())
