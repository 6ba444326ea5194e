"""micromoe: what its run must reach, which changes must break it, and the properties behind it."""

from __future__ import annotations

import random
from math import log

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import check_gradients, load_script, twin

SEEDS = (42, 1, 2, 3)

BARS = (
    # Experts buy memory: at equal multiply-adds, against the best of three learning rates.
    "router_accuracy - dense_accuracy >= 0.2",
    # The router divides the facts no better than chance does.
    "table_accuracy - router_accuracy >= 0.02",
    # The balancing loss takes a head start's load off the busiest expert. (No bar on accuracy: the
    # gain is 0.21, 0.04, 0.02 and 0.10 on the four seeds.)
    "load_gap >= 1.0",
)

script = load_script("micromoe")


def without_gradient(probs, groups):
    """The balancing loss as a plain number: it is the same in the log and trains nothing."""
    return script.load_balancing_loss(script.Tensor(probs.data, requires_grad=False), groups)


def by_subject(num_facts, rng):
    """A table in equal numbers, but each expert answers all facts about three subjects."""
    subjects = list(range(script.NUM_SUBJECTS))
    rng.shuffle(subjects)
    place = [subjects.index(fact // script.NUM_RELATIONS) for fact in range(num_facts)]
    return [p * script.NUM_EXPERTS // script.NUM_SUBJECTS for p in place]


VARIANTS = {
    "wide_dense": {"DENSE_HIDDEN": 64},
    "by_subject": {"random_table": by_subject},
    "no_aux_gradient": {"load_balancing_loss": without_gradient},
}

TWINS = {
    "wide_dense": "router_accuracy - dense_accuracy >= 0.2",
    "by_subject": "table_accuracy - router_accuracy >= 0.02",
    "no_aux_gradient": "load_gap >= 1.0",
}

SMALL = {"NUM_STEPS": 40, "DENSE_RATES": (0.08,)}


def test_a_start_without_skew_is_noticed():
    twin("micromoe", BARS[2], {"SKEW": 0.0}, SMALL)


# === DISPATCH AND COMBINE ===

CHOICES = st.lists(st.integers(0, 3), min_size=1, max_size=12)


@given(CHOICES)
def test_every_row_goes_to_its_expert_once_and_in_order(chosen):
    groups = script.dispatch(chosen, 4)
    assert len(groups) == 4
    assert all(rows == sorted(rows) for rows in groups)
    assert sorted(row for rows in groups for row in rows) == list(range(len(chosen)))
    assert all(chosen[row] == e for e, rows in enumerate(groups) for row in rows)


@given(CHOICES)
def test_there_and_back_keeps_the_order_of_the_rows(chosen):
    x = script.Tensor([[float(i), float(-i)] for i in range(len(chosen))])
    groups = script.dispatch(chosen, 4)
    outputs = [script.embedding(x, rows) if rows else None for rows in groups]
    assert script.combine(outputs, groups, None).data == x.data


@pytest.mark.parametrize("chosen", [[0, 2, 0, 1, 2], [1, 1, 1, 1, 1]])
def test_the_gradients_of_combine(chosen):
    rng = random.Random(0)
    groups = script.dispatch(chosen, 3)
    used = [rows for rows in groups if rows]
    outputs = [[[rng.gauss(0, 1) for _ in range(2)] for _ in rows] for rows in used]
    probs = [script.softmax_row([rng.gauss(0, 1) for _ in range(3)]) for _ in chosen]

    def gated(p, *ys):
        rest = iter(ys)
        return script.combine([next(rest) if rows else None for rows in groups], groups, p)

    def ungated(*ys):
        rest = iter(ys)
        return script.combine([next(rest) if rows else None for rows in groups], groups, None)

    check_gradients(gated, probs, *outputs, tensor=script.Tensor)
    check_gradients(ungated, *outputs, tensor=script.Tensor)


def test_the_gradients_of_the_other_operations():
    rng = random.Random(0)
    a, b = [[[rng.gauss(0, 1) for _ in range(n)] for _ in range(4)] for n in (2, 3)]
    check_gradients(script.side_by_side, a, b, tensor=script.Tensor)
    groups = [[0, 2, 3], [], [1]]

    def loss(probs):
        return script.load_balancing_loss(probs, groups)

    check_gradients(loss, b, tensor=script.Tensor)


# === THE LAYER ===


def new_model(table=None, skew=0.0):
    return script.Model(4, 3, table, skew)


FACTS = [0, 575, 24, 25, 300, 7, 131]


def gradients(model, facts, balance=0.0):
    logits, probs, groups = model.forward(facts)
    loss = script.cross_entropy(logits, [fact % script.NUM_VALUES for fact in facts])
    if balance:
        loss = loss + script.load_balancing_loss(probs, groups) * balance
    loss.backward()
    return groups


@settings(deadline=None, max_examples=20)
@given(st.lists(st.integers(0, 575), min_size=1, max_size=6))
def test_facts_side_by_side_are_facts_one_by_one(facts):
    model = new_model()
    together = model.forward(facts).logits.data
    assert together == [model.forward([fact]).logits.data[0] for fact in facts]


@settings(deadline=None, max_examples=10)
@given(st.permutations(range(4)))
def test_the_order_of_the_experts_does_not_matter(order):
    model, other = new_model(), new_model()
    for name in ("up", "down"):
        setattr(other, name, [getattr(model, name)[i] for i in order])
    for name in ("router", "router_bias"):
        rows = getattr(model, name).data
        moved = [rows[i] for i in order] if name == "router" else [[rows[0][i] for i in order]]
        setattr(other, name, script.Tensor(moved))
    theirs = model.forward(FACTS).logits.data  # a softmax sums in another order
    for row, other_row in zip(other.forward(FACTS).logits.data, theirs):
        assert row == pytest.approx(other_row, rel=1e-12, abs=1e-12)
    for place, rows in enumerate(other.forward(FACTS).groups):
        assert rows == model.forward(FACTS).groups[order[place]]


def test_an_expert_without_rows_gets_no_gradient_and_the_router_gets_one():
    model = new_model(skew=50.0)
    groups = gradients(model, FACTS)
    assert [len(rows) for rows in groups] == [len(FACTS), 0, 0, 0]
    assert [p.grad is None for p in model.up] == [False, True, True, True]
    assert [p.grad is None for p in model.down] == [False, True, True, True]
    assert model.router.grad is not None


def test_without_the_gate_the_router_would_learn_nothing(monkeypatch):
    broken = load_script("micromoe")
    combine = broken.combine
    monkeypatch.setattr(
        broken, "combine", lambda outputs, groups, _: combine(outputs, groups, None)
    )
    model = broken.Model(4, 3, None)
    logits, _, _ = model.forward(FACTS)
    broken.cross_entropy(logits, [0] * len(FACTS)).backward()
    assert model.router.grad is None


def test_the_balancing_loss_reaches_the_router():
    plain, balanced = new_model(skew=1.0), new_model(skew=1.0)
    gradients(plain, FACTS)
    gradients(balanced, FACTS, balance=1.0)
    difference = [b - p for b, p in zip(balanced.router_bias.grad[0], plain.router_bias.grad[0])]
    assert difference[0] > 1e-3  # a step down this slope makes the busy expert less likely
    assert balanced.head.grad == plain.head.grad


def test_the_balancing_bias_changes_the_choice_and_never_the_gate():
    model = new_model()
    before = model.forward(FACTS)
    model.balance_bias = [0.0, 0.0, 2.0, 0.0]
    after = model.forward(FACTS)
    assert after.probs.data == before.probs.data
    assert [len(rows) for rows in after.groups] == [0, 0, len(FACTS), 0]


def test_a_table_decides_alone():
    table = [fact % 4 for fact in range(576)]
    model = new_model(table)
    routed = model.forward(FACTS)
    assert routed.probs is None
    assert all(FACTS[row] % 4 == e for e, rows in enumerate(routed.groups) for row in rows)
    assert model.router not in model.parameters()
    assert len(new_model().parameters()) == len(model.parameters()) + 2


def test_all_arms_start_from_the_same_embeddings_and_head():
    dense, experts = script.Model(1, 12, [0] * 576), script.Model(8, 8, None)
    for name in ("subjects", "relations", "head"):
        assert getattr(dense, name).data == getattr(experts, name).data


def test_dense_and_routed_layer_cost_the_same():
    """Multiply-adds per row, counted as every dot product that the layer takes."""
    count = 0

    def counting_dot(a, b):
        nonlocal count
        count += len(a)
        return sum(x * y for x, y in zip(a, b))

    costs = []
    for experts, hidden, table in (
        (1, script.DENSE_HIDDEN, [0] * 576),
        (script.NUM_EXPERTS, script.EXPERT_HIDDEN, None),
    ):
        counted = load_script("micromoe")
        counted.dot = counting_dot
        count = 0
        counted.Model(experts, hidden, table).forward([3])
        costs.append(count)
    assert costs[0] == costs[1]


# === BALANCING ===


@given(st.integers(2, 6), st.integers(1, 4))
def test_an_even_load_costs_exactly_one(num_experts, each):
    rows = num_experts * each
    probs = script.Tensor([[1.0 / num_experts] * num_experts] * rows)
    groups = script.dispatch([i % num_experts for i in range(rows)], num_experts)
    assert script.load_balancing_loss(probs, groups).item() == pytest.approx(1.0, rel=1e-12)
    certain = script.Tensor([[1.0] + [0.0] * (num_experts - 1)] * rows)
    all_to_one = script.dispatch([0] * rows, num_experts)
    assert script.load_balancing_loss(certain, all_to_one).item() == num_experts


@given(CHOICES)
def test_the_balancing_bias_moves_against_the_load(chosen):
    groups = script.dispatch(chosen, 4)
    even = len(chosen) / 4
    for rows, moved in zip(groups, script.update_bias([0.0] * 4, groups)):
        assert abs(moved) in (0.0, script.BIAS_STEP)
        assert (len(rows) - even) * moved <= 0.0 and (moved == 0.0) == (len(rows) == even)


# === MEASURING ===


@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 3)), min_size=1, max_size=40))
def test_mutual_information_lies_between_zero_and_both_entropies(pairs):
    a, b = map(list, zip(*pairs))
    value = script.mutual_information(a, b)
    assert value == pytest.approx(script.mutual_information(b, a), abs=1e-12)
    both = script.mutual_information(a, a), script.mutual_information(b, b)
    assert -1e-12 <= value <= min(both) + 1e-12
    assert value <= log(8.0) + 1e-12


def test_a_random_table_gives_equal_numbers_and_tells_little():
    table = script.random_table(576, random.Random(0))
    assert [table.count(e) for e in range(8)] == [72] * 8
    assert script.mutual_information(table, [fact // 24 for fact in range(576)]) < 0.3


def test_measuring():
    model = script.Model(8, 8, None)
    values = script.draw_facts(random.Random(0))
    seen = script.measure(model, values)
    assert seen.accuracy == sum(seen.right) / 576 < 0.2
    counts = [seen.experts.count(e) for e in range(8)]
    assert seen.load == max(counts) * 8 / 576
    everything = [script.argmax(row) for row in model.forward(range(576)).logits.data]
    assert script.measure(model, everything).accuracy == 1.0


def test_ties_go_to_the_first():
    assert script.argmax([1.0, 3.0, 3.0]) == 1
