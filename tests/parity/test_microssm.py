"""microssm against PyTorch and transformers: the same weights and inputs, the same numbers."""

from __future__ import annotations

import random

import pytest
import torch
import torch.nn.functional as F
from support import load_script

script = load_script("microssm")


def as_torch(rows, grad=False):
    return torch.tensor(rows, dtype=torch.float64, requires_grad=grad)


def close(rows, expected: torch.Tensor, tolerance: float = 1e-9) -> None:
    """Assert that every entry agrees to `tolerance` of the largest."""
    ours = as_torch(rows)
    assert ours.shape == expected.shape
    difference = (ours - expected).abs().max().item()
    assert difference <= tolerance * max(1e-3, expected.abs().max().item())


def recurrence(u, delta, A, B, C, firsts):
    """The two lines of the paper, left to torch's autograd."""
    h, y = torch.zeros_like(A), []
    for t in range(len(u)):
        if firsts[t] == t:
            h = torch.zeros_like(A)
        h = torch.exp(delta[t] * A) * h + torch.outer(B[t], delta[t] * u[t])
        y.append(C[t] @ h)
    return torch.stack(y)


def scan_inputs(seed, num_rows, channels=5, states=3):
    rng = random.Random(seed)

    def draw(rows, columns, change=lambda value: value):
        return [[change(rng.gauss(0.0, 1.0)) for _ in range(columns)] for _ in range(rows)]

    def positive(value):
        return float(torch.tensor(value).exp())

    return (
        draw(num_rows, channels),
        draw(num_rows, channels, positive),
        draw(states, channels, lambda value: -positive(value)),
        draw(num_rows, states),
        draw(num_rows, states),
    )


@pytest.mark.parametrize("firsts", [[0], [0] * 17, [0] * 4 + [4] * 9 + [13]])
def test_the_scan_and_all_its_gradients(firsts):
    inputs = scan_inputs(len(firsts), len(firsts))
    ours = [script.Tensor(rows) for rows in inputs]
    theirs = [as_torch(rows, grad=True) for rows in inputs]
    y, expected = script.selective_scan(*ours, firsts), recurrence(*theirs, firsts)
    close(y.data, expected.detach(), 1e-12)
    seed = torch.randn(expected.shape, dtype=torch.float64, generator=torch.manual_seed(0))
    y.backward(seed.tolist())
    expected.backward(seed)
    for mine, reference in zip(ours, theirs):
        close(mine.grad, reference.grad)


def test_the_scan_of_transformers(monkeypatch):
    """mamba_selective_scan casts to float32 by .float(); without that it agrees to the end."""
    from transformers.models.mamba import modeling_mamba

    u, delta, A, B, C = scan_inputs(3, 20)
    ours = script.selective_scan(*map(script.Tensor, (u, delta, A, B, C)), [0] * 20).data
    monkeypatch.setattr(torch.Tensor, "float", lambda self: self)
    u, delta, A, B, C = [as_torch(rows).T for rows in (u, delta, A, B, C)]
    theirs = modeling_mamba.mamba_selective_scan(u[None], delta[None], A, B[None], C[None])
    close(ours, theirs[0].T)


def test_the_layer_is_the_mixer_of_transformers_without_its_other_parts(monkeypatch):
    """MambaMixer with the convolution as identity, no SiLU behind it, D = 0, a gate of 1."""
    from transformers import MambaConfig
    from transformers.models.mamba.modeling_mamba import MambaMixer

    monkeypatch.setattr(torch.Tensor, "float", lambda self: self)
    config = MambaConfig(
        hidden_size=script.WIDTH,
        intermediate_size=script.CHANNELS,
        state_size=script.STATES,
        time_step_rank=1,
        conv_kernel=2,
        expand=script.CHANNELS // script.WIDTH,
        num_hidden_layers=1,
        use_bias=True,
        use_conv_bias=False,
    )
    mixer = MambaMixer(config, layer_idx=0).to(torch.float64).eval()
    mixer.activation = None  # no SiLU behind the convolution
    layer = script.StateSpaceLayer(True, random.Random(1))
    silu_is_1 = 1.2784645427610738
    channels = script.CHANNELS
    assert F.silu(as_torch(silu_is_1)).item() == pytest.approx(1.0, abs=1e-12)
    with torch.no_grad():
        mixer.in_proj.weight.copy_(as_torch(layer.w_u.data + [[0.0] * script.WIDTH] * channels))
        mixer.in_proj.bias.copy_(as_torch([0.0] * channels + [silu_is_1] * channels))
        mixer.conv1d.weight.copy_(as_torch([[[0.0, 1.0]]] * channels))
        chosen = layer.w_importance.data + layer.w_B.data + layer.w_C.data
        mixer.x_proj.weight.copy_(as_torch(chosen))
        mixer.dt_proj.weight.copy_(as_torch(layer.w_delta.data))
        mixer.dt_proj.bias.copy_(as_torch(layer.delta_bias.data[0]))
        mixer.A_log.copy_(as_torch(layer.A_log.data).T)
        mixer.D.zero_()
        mixer.out_proj.weight.copy_(as_torch(layer.w_out.data))
        mixer.out_proj.bias.zero_()
        rng = random.Random(2)
        x = [[rng.gauss(0.0, 1.0) for _ in range(script.WIDTH)] for _ in range(15)]
        ours = layer.forward(script.Tensor(x), [0] * 15).data
        x = as_torch(x)
        theirs = x + mixer(F.rms_norm(x, (script.WIDTH,), eps=1e-5)[None])[0]
    close(ours, theirs)


def torch_layer(layer, w, x, firsts):
    """One layer, written with torch alone; w: the layer's matrices by name."""
    normed = F.rms_norm(x, (script.WIDTH,), eps=1e-5)
    if isinstance(layer, script.StateSpaceLayer):
        u = normed @ w["w_u"].T
        chooser = u if layer.selective else torch.ones_like(u)
        delta = F.softplus(chooser @ w["w_importance"].T @ w["w_delta"].T + w["delta_bias"])
        B, C = chooser @ w["w_B"].T, chooser @ w["w_C"].T
        return x + recurrence(u, delta, -w["A_log"].exp(), B, C, firsts) @ w["w_out"].T
    rows = torch.arange(len(x))
    first = torch.tensor(firsts)
    place = rows - first
    q, k, v = [
        (normed @ w[name].T).view(len(x), len(layer.slopes), -1).transpose(0, 1)
        for name in ("query", "key", "value")
    ]
    # ALiBi as in the paper: minus slope times distance; -inf for the future and other sequences.
    distance = (place[:, None] - place[None, :]).to(torch.float64)
    bias = -as_torch(layer.slopes)[:, None, None] * distance
    seen = (rows[None, :] <= rows[:, None]) & (first[None, :] == first[:, None])
    bias = bias.masked_fill(~seen, float("-inf"))
    scale = (q.shape[-1] + 1) ** -0.5  # the script's head has one column more
    found = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale)
    return x + found.transpose(0, 1).reshape(len(x), -1) @ w["out"].T


@pytest.mark.parametrize("kind", ["selective", "LTI", "attention", "hybrid"])
def test_whole_networks_with_loss_and_every_gradient(kind):
    rng = random.Random(5)
    network = script.Network(3, script.make_layers(kind, script.ALIBI_SLOPES, rng), 5, rng)
    batch = script.counter_batch(3, 20, rng)
    logits = network.forward(batch)
    loss = script.cross_entropy(logits, batch.answers)
    loss.backward()

    table, head = [as_torch(p.data, grad=True) for p in (network.table, network.head)]
    x = table[torch.tensor(batch.bags).flatten()]
    pairs = [(network.table, table), (network.head, head)]
    for layer in network.layers:
        named = {k: v for k, v in vars(layer).items() if isinstance(v, script.Tensor)}
        weights = {key: as_torch(value.data, grad=True) for key, value in named.items()}
        pairs += [(named[key], weights[key]) for key in named]
        x = torch_layer(layer, weights, x, batch.firsts)
    expected = x[torch.tensor(batch.scored)] @ head.T
    expected_loss = F.cross_entropy(expected, torch.tensor(batch.answers))
    expected_loss.backward()
    close(logits.data, expected.detach())
    assert loss.item() == pytest.approx(expected_loss.item(), rel=1e-12)
    for ours, theirs in pairs:
        close(ours.grad, theirs.grad)
