"""microbeam against transformers: the same filters, beams and speculative steps."""

from __future__ import annotations

import math
import random

import pytest
import torch
from support import load_script
from transformers import GenerationConfig, PretrainedConfig, PreTrainedModel
from transformers.generation import GenerationMixin
from transformers.generation import utils as generation
from transformers.generation.logits_process import (
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.modeling_outputs import CausalLMOutput

script = load_script("microbeam")

WARPERS = {
    "temperature": TemperatureLogitsWarper,
    "top_k": TopKLogitsWarper,
    "top_p": TopPLogitsWarper,
    "min_p": MinPLogitsWarper,
}
RECIPES = [
    *[(("temperature", t),) for t in (0.1, 0.5, 1.0, 3.0)],
    *[(("top_k", k),) for k in (1, 5, 27, 50)],
    *[(("top_p", mass),) for mass in (0.1, 0.5, 0.9, 0.999)],
    *[(("min_p", share),) for share in (0.01, 0.1, 0.5, 1.0)],
    (("temperature", 1.5), ("top_p", 0.9)),
    (("top_p", 0.9), ("temperature", 1.5)),
    (("temperature", 0.7), ("top_k", 10), ("top_p", 0.8), ("min_p", 0.05)),
]


def random_row(rng, spread=2.0, size=27):
    return script.softmax_row([rng.gauss(0.0, spread) for _ in range(size)])


def warped(p, recipe):
    """What transformers makes of these probabilities."""
    warpers = LogitsProcessorList([WARPERS[name](number) for name, number in recipe])
    logits = torch.log(torch.tensor([p], dtype=torch.float64))
    return torch.softmax(warpers(None, logits), dim=-1)[0].tolist()


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
def test_filters(recipe):
    rng = random.Random(str(recipe))
    for spread in (0.1, 1.0, 3.0):
        for _ in range(20):
            p = random_row(rng, spread)
            ours, theirs = script.apply_recipe(p, recipe), warped(p, recipe)
            assert [x > 0.0 for x in ours] == [x > 0.0 for x in theirs]
            assert ours == pytest.approx(theirs, rel=1e-9, abs=1e-15)


@pytest.mark.parametrize(("k", "kept"), [(1, 1), (2, 3), (3, 3), (4, 4)])
def test_top_k_keeps_ties(k, kept):
    p = [0.25, 0.375, 0.25, 0.125]
    ours = script.top_k(p, k)
    assert ours == pytest.approx(warped(p, (("top_k", k),)), rel=1e-9)
    assert sum([x > 0.0 for x in ours]) == kept


def test_top_p_with_ties_keeps_equally_many():
    p = [0.25, 0.25, 0.25, 0.25]
    for mass in (0.2, 0.4, 0.7, 0.9):
        ours, theirs = script.top_p(p, mass), warped(p, (("top_p", mass),))
        assert sorted(ours) == pytest.approx(sorted(theirs), rel=1e-9)


# === BEAMS ===


class TinyConfig(PretrainedConfig):
    model_type = "tiny"

    def __init__(self, **options):
        super().__init__(**{"vocab_size": 27, "hidden_size": 16, "num_hidden_layers": 1} | options)


class Tiny(PreTrainedModel, GenerationMixin):
    """A model of transformers whose forward pass is torch's, with the script's weights."""

    config_class = TinyConfig
    main_input_name = "input_ids"
    _supports_cache_class = False

    def __init__(self, config, reader=None):
        super().__init__(config)
        self.num_heads = reader.num_heads
        for name, parameter in vars(reader.model).items():
            weight = torch.nn.Parameter(torch.tensor(parameter.data, dtype=torch.float64))
            self.register_parameter(name, weight)

    def _init_weights(self, module):
        pass

    def prepare_inputs_for_generation(self, input_ids, **_):
        return {"input_ids": input_ids}

    def forward(self, input_ids, **_):
        functional = torch.nn.functional
        batch, length = input_ids.shape

        def norm(x):
            return functional.rms_norm(x, (x.shape[-1],), eps=1e-5)

        x = norm(self.token_embedding[input_ids] + self.position_embedding[:length])
        heads = [
            functional.linear(norm(x), weight).view(batch, length, self.num_heads, -1)
            for weight in (self.query, self.key, self.value)
        ]
        heads = [head.transpose(1, 2) for head in heads]
        found = functional.scaled_dot_product_attention(*heads, is_causal=True)
        found = found.transpose(1, 2).reshape(batch, length, -1)
        x = x + functional.linear(found, self.attention_out)
        hidden = functional.relu(functional.linear(norm(x), self.mlp_in))
        x = x + functional.linear(hidden, self.mlp_out)
        return CausalLMOutput(logits=functional.linear(x, self.head))


def new_reader(seed):
    rng = random.Random(seed)
    reader = script.CachedReader(script.GPT(27, script.CONTEXT, 16, rng), 4)
    for parameter in reader.model.parameters():
        parameter.data = [[4.0 * x for x in row] for row in parameter.data]
    # End marks that are likely enough for beams to end in the middle.
    reader.model.head.data[0] = [2.0 * x for x in reader.model.head.data[0]]
    return reader


def test_probabilities():
    reader = new_reader(0)
    model = Tiny(TinyConfig(), reader)
    text = script.encode("christopherson")[:-1]
    theirs = torch.softmax(model(torch.tensor([text])).logits, dim=-1)[0]
    for ours, expected in zip(reader.read(text), theirs.tolist()):
        assert ours == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("width", [1, 2, 3, 5, 10])
def test_beam_search(width, seed):
    reader = new_reader(seed)
    model, chain = Tiny(TinyConfig(), reader).eval(), script.Chain(reader)
    # Token 0 both starts and ends a name; only generated ones end it.
    options = GenerationConfig(
        num_beams=width,
        do_sample=False,
        length_penalty=0.0,
        early_stopping=False,
        max_length=script.CONTEXT + 1,
        eos_token_id=0,
        pad_token_id=26,
        use_cache=False,
        return_dict_in_generate=True,
        output_scores=True,
    )
    for letter in ("", "a", "e", "m", "z"):
        prompt = tuple(script.encode(letter)[:-1])
        found = model.generate(torch.tensor([prompt]), generation_config=options)
        theirs = found.sequences[0].tolist()
        ours, log_p, _ = script.beam_search(chain, prompt, width)
        assert list(ours) == theirs[: len(ours)]
        assert set(theirs[len(ours) :]) <= {26}
        if width > 1:
            assert log_p == pytest.approx(found.sequences_scores[0].item(), rel=1e-6)
        exact = [math.log(chain.next(ours[:n])[ours[n]]) for n in range(len(prompt), len(ours))]
        assert log_p == pytest.approx(sum(exact), rel=1e-12)


# === SPECULATIVE STEPS ===


class FixedChance(random.Random):
    """random() gives the numbers of a list, one after the other."""

    def __init__(self, numbers):
        super().__init__(0)
        self.numbers = iter(numbers)

    def random(self):
        return next(self.numbers)


@pytest.mark.parametrize("seed", range(60))
def test_speculative_steps_on_fixed_uniforms(seed, monkeypatch):
    rng = random.Random(seed)
    k = rng.randint(1, 5)
    p_rows = [random_row(rng, 1.0, 6) for _ in range(k + 1)]
    q_rows = [random_row(rng, 1.0, 6) for _ in range(k)]
    guesses = [script.draw(q, rng) for q in q_rows]
    uniforms, last = [rng.random() for _ in range(k)], rng.random()

    def by_inversion(probabilities, num_samples):
        """torch.multinomial from the last uniform number."""
        cumulative = torch.cumsum(probabilities[0] / probabilities[0].sum(), dim=0)
        return torch.searchsorted(cumulative, torch.tensor([last], dtype=torch.float64))[None]

    monkeypatch.setattr(torch, "rand_like", lambda x: torch.tensor([uniforms], dtype=x.dtype))
    monkeypatch.setattr(torch, "multinomial", by_inversion)
    text = torch.tensor([[0, *guesses]])
    theirs, kept = generation._speculative_sampling(
        text,
        torch.log(torch.tensor([q_rows], dtype=torch.float64)),
        k,
        torch.log(torch.tensor([p_rows], dtype=torch.float64)),
    )
    # Ours draws a uniform number for each guess that it tests, then one for the last symbol.
    num_tests = min(int(kept) + 1, k)
    chance = FixedChance([*uniforms[:num_tests], last])
    ours_kept, gained = script.speculative_step(p_rows, q_rows, guesses, chance)
    assert ours_kept == int(kept)
    assert [0, *gained] == [0, *theirs[0].tolist()][-len(gained) - 1 :]
    assert len(gained) == len(theirs[0])
