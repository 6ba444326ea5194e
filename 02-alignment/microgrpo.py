"""Compared with other answers to the same prompt, an answer does not profit from a mild grader.

A language model answers prompts, a grader gives every answer a number, its reward, and the model
should learn to give better answers. Policy gradient methods make an answer more likely, or less, in
proportion to its advantage: its reward minus a baseline, the reward that was to be expected. But a
prompt can be easy or hard, and its grader mild or strict. So what is to be expected of this prompt?
PPO trains a second network, the critic, to predict it. Group Relative Policy Optimization (GRPO)
asks the policy, the model in training, for several answers to the same prompt, and takes the mean
of their rewards. It drops the critic, not the baseline, and whatever a grader adds to all answers
to a prompt cancels.

Here a small model writes names, and a prompt is an instruction such as "a short name". A program
can check whether a name obeys (reinforcement learning with verifiable rewards, RLVR): 1 or 0. Then
every prompt gets a grader of its own, which adds a constant to this: +1, -1, +2, -2. The right
answers stay the best ones. Policies are trained with two baselines, the mean of the group and that
of the whole batch, on the same number of names. Look at three things: what the constants do to each
of them; how they differ where all graders agree, that is, add nothing; and how many groups agree,
that is, have only right answers or only wrong ones, and so teach nothing.

In the code         In the paper    Meaning
prompt              q               the instruction, a symbol in place of the start mark
text                q and o_i       prompt, then the answer o_i: letters (the name), end mark
reward              r_i             check (1 or 0) plus the offset, the prompt's grader's constant
advantage           A_i             (reward - baseline) / standard deviation, one for each answer
group               G answers       all answers to one prompt in one step
reference           pi_ref          the model at the start; it is never changed
policy              pi_theta        a copy of it that is trained
old                 log pi_old      each symbol's log-probability when the policy wrote it

What is left out: the critic (microppo has one), the relatives of the loss (Dr. GRPO divides neither
by the standard deviation nor by an answer's length, DAPO has a higher upper clip, GSPO takes one
ratio per answer), and answers that reason at length, for which the method became known.

A number marked [results: ...] is not from this run: it was recorded from a run with one thing
changed, and stands in results/microgrpo.json under that key.

Read first: microppo.

Papers: Williams, "Simple statistical gradient-following algorithms for connectionist reinforcement
learning", 1992. Schulman et al., "Proximal Policy Optimization Algorithms", 2017,
arXiv:1707.06347. Kool et al., "Buy 4 REINFORCE Samples, Get a Baseline for Free!", 2019. Schulman,
"Approximating KL Divergence", 2020 (blog). Shao et al., "DeepSeekMath", 2024, arXiv:2402.03300
(GRPO). Ahmadian et al., 2024, arXiv:2402.14740 (RLOO). Yu et al., 2025, arXiv:2503.14476 (DAPO).
Liu et al., 2025, arXiv:2503.20783 (Dr. GRPO). Zheng et al., 2025, arXiv:2507.18071 (GSPO). Tang &
Munos, 2025, arXiv:2506.09477 (KL terms).
"""

from __future__ import annotations

import copy
import hashlib
import http.client
import math
import os
import random
import time
import urllib.request
from collections.abc import Callable, Sequence
from math import exp, log
from operator import add, mul, sub
from pathlib import Path
from typing import Any

# === CONSTANTS ===

SEED = 42
CONTEXT = 16  # symbols that the model can read
WIDTH = 16  # entries of a vector in the model
NUM_HEADS = 2  # of its attention
BATCH_SIZE = 8  # names per step of pretraining
BETAS = (0.9, 0.99)  # Adam's: how slowly its two running means forget
PRETRAIN_STEPS = 300
PRETRAIN_RATE = 0.02  # learning rate at first; it falls to 0 in a straight line
# Share of names that pretraining pairs with an instruction they obey. The others get any.
FITTING = 0.6

VOWELS = "aeiouy"  # y too: at the end of a name it sounds like one
# What the four instructions ask for, in the order of their symbols.
PROMPTS = ("ends in a vowel", "ends in a consonant", "4 letters or less", "8 letters or more")
NO_OFFSETS = (0.0, 0.0, 0.0, 0.0)  # every grader gives 1 or 0
OFFSETS = (1.0, -1.0, 2.0, -2.0)  # what each prompt's own grader adds to this

GROUP_SIZE = 8  # answers to one prompt in one step (G; DeepSeekMath: 64)
STEPS = 18  # of 4 * 8 answers: 576 names
EPOCHS = 2  # updates on the same answers (DeepSeekMath: 1)
LEARNING_RATE = 0.007  # Adam's, constant
CLIP = 0.2  # moving a ratio beyond 1 -+ this earns nothing more
KL_WEIGHT = 0.04  # the price of a nat of distance from the reference, per symbol
NUM_SAMPLES = 100  # answers to each prompt by which a policy is judged

# === THE TASK ===

# Each instruction is one more symbol after the 27 of the alphabet: 27 to 30. It stands where a text
# of microgpt has its start mark. The check takes a few lines, which is the appeal of such tasks:
# the answers to mathematics and programming exercises can be checked by programs too. But a check
# sees only what it asks for: to "8 letters or more", "dyeeyeezil" is as good as "jonathan".


def check(text: Sequence[int]) -> float:
    """1.0 if the name obeys the instruction before it, else 0.0.

    A text without an end mark, without letters, or with an instruction among its letters gets 0.0.

    >>> [check([prompt, 1, 14, 14, 1, 0]) for prompt in (27, 28, 29, 30)]  # "anna"
    [1.0, 0.0, 1.0, 0.0]
    """
    prompt, *name, end = text
    if end != 0 or not name or max(name) >= len(ALPHABET):
        return 0.0
    ends_in_a_vowel = ALPHABET[name[-1]] in VOWELS
    obeyed = (ends_in_a_vowel, not ends_in_a_vowel, len(name) <= 4, len(name) >= 8)
    return float(obeyed[prompt - len(ALPHABET)])


def with_instruction(name: str, rng: random.Random) -> list[int]:
    """A name as a text to pretrain on: often with an instruction that it obeys, else with any."""
    texts = [[len(ALPHABET) + i, *encode(name)[1:]] for i in range(len(PROMPTS))]
    if rng.random() < FITTING:
        texts = [text for text in texts if check(text)]
    return rng.choice(texts)


def pretrain(names: Sequence[str], rng: random.Random) -> GPT:
    """A GPT that writes names and half understands the instructions: the reference, frozen."""
    model = GPT(len(ALPHABET) + len(PROMPTS), CONTEXT, WIDTH, rng)
    optimizer = Adam(model.parameters(), BETAS)
    recent_losses: list[float] = []
    for step in range(1, PRETRAIN_STEPS + 1):
        batch = [with_instruction(name, rng) for name in rng.sample(names, BATCH_SIZE)]
        loss = cross_entropy(*predict(model, batch))
        loss.backward()
        optimizer.step(PRETRAIN_RATE * (1.0 - (step - 1) / PRETRAIN_STEPS))
        recent_losses.append(loss.item())
        if step % 50 == 0:
            mean_loss = mean(recent_losses)
            print(f"step {step:4d}/{PRETRAIN_STEPS} | loss {mean_loss:.4f}", flush=True)
            recent_losses.clear()
    return copy_of(model, requires_grad=False)


def predict(model: GPT, texts: Sequence[Sequence[int]]) -> tuple[Tensor, list[int]]:
    """Read texts, all at once -> logits [N][31] for the N next symbols, and these symbols."""
    ids, positions, spans, targets = pack(texts)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return scaled_dot_product_attention(q, k, v, NUM_HEADS, spans)

    return model.forward(ids, positions, attend), targets


def copy_of(model: GPT, requires_grad: bool) -> GPT:
    """A second model with the same numbers: to be trained, or frozen (it then keeps no graph)."""
    twin = copy.copy(model)
    for name, matrix in vars(model).items():
        setattr(twin, name, Tensor(matrix.data, requires_grad=requires_grad))
    return twin


# === THE GROUP AS BASELINE ===

# The objective is the mean reward J = E[r(y)] over answers y that the policy pi writes to a prompt.
# No gradient passes through sampling, but log pi(y) can be differentiated (Williams, 1992):
#
#     grad J = sum_y grad pi(y) r(y) = sum_y pi(y) grad log pi(y) r(y) = E[r(y) grad log pi(y)]
#
# A baseline b may be subtracted from r if it depends on the prompt but not on the answer y: since
# probabilities sum to 1, E[b grad log pi(y)] = b grad sum_y pi(y) = b grad 1 = 0. So no such
# baseline changes the gradient's expectation. What it changes is the noise. If all answers to a
# prompt get about 2, then whatever was written is made much more likely, right or wrong; only in
# the mean over very many answers does this cancel. With b near the prompt's own mean reward, an
# answer counts by how much it is better than the policy's other answers.
#
# The group's mean is such a b, with a blemish: it contains the answer itself. This shrinks the
# expected gradient by the factor (G - 1) / G and leaves its direction. (Without the answer's own
# reward it would be exact: this is RLOO. The two differ by the factor only. So even two answers
# give the right direction on average. But a mean of G - 1 rewards is noisy itself: against the
# exact mean, the variance of r - b grows by the factor G / (G - 1).)
#
# The batch's mean is such a b too, shrunk less: with 32 answers by 31/32. Before the division by a
# standard deviation, which comes next, both baselines point the same way on average. What the
# batch's mean adds is noise: each grader's constant stays in the advantages of its prompt.


def group_advantages(rewards: Sequence[float], group_size: int) -> list[float]:
    """(reward - mean) / standard deviation, within each group of consecutive answers.

    Two prompts with four answers each. One answer to the first is right; the second prompt's grader
    adds 2, and there one is wrong. With the group's mean, right answers are above 0, wrong ones
    below, both times:
    >>> rewards = [1.0, 0.0, 0.0, 0.0, 3.0, 3.0, 3.0, 2.0]
    >>> [round(a, 1) for a in group_advantages(rewards, 4)]
    [1.5, -0.5, -0.5, -0.5, 0.5, 0.5, 0.5, -1.5]

    With all eight as one group, that is, one baseline for the batch, the first prompt's right
    answer is pushed down, and the second's wrong answer up:
    >>> [round(a, 1) for a in group_advantages(rewards, 8)]
    [-0.4, -1.1, -1.1, -1.1, 1.1, 1.1, 1.1, 0.4]
    """
    advantages: list[float] = []
    for first in range(0, len(rewards), group_size):
        group = rewards[first : first + group_size]
        baseline = mean(group)
        # Divided by G - 1, as torch.std does by default.
        variance = sum([(reward - baseline) ** 2 for reward in group]) / (len(group) - 1)
        # Where all rewards are equal, the small number (as in TRL) makes this 0 / 0.0001 = 0.
        spread = math.sqrt(variance) + 1e-4
        advantages += [(reward - baseline) / spread for reward in group]
    return advantages


# The division gives the advantages of every group that disagrees the same spread, whatever the unit
# of its grader. Unlike the baseline, it does change the expected gradient: it gives more weight to
# prompts whose answers are mostly right or mostly wrong. (With one right answer of eight the
# standard deviation is 0.35, so the weight is 2.8; with four of eight it is 0.53, and the weight
# 1.9.) Dr. GRPO leaves the division out.
#
# In a group that agrees, all right or all wrong, every advantage is 0. Such groups teach nothing
# about the instruction; DAPO discards them and samples others. Where all groups agree, as in the
# last two steps with the group mean, only the KL term below and Adam's momentum still move the
# policy. So watch this count in practice: prompts that are too easy or too hard waste answers.
#
# The rival, one mean and one standard deviation for the whole batch, is what much policy gradient
# code does with its advantages, though often after a critic. If all prompts are graded alike, it
# can work as well, as the run shows. It need not: prompts are not equally hard, so their means
# differ from the batch's without any constant. With SEED = 2, one of four seeds on record, it falls
# behind where the graders agree: 0.75 [results: seed_2.accuracy_batch_agree] of the answers are
# right, against 0.94 [results: seed_2.accuracy_group].

# === THE LOSS ===

# Writing answers is expensive, so the same ones are used EPOCHS times. After the first update the
# policy is no longer the one that wrote them. The ratio of probabilities, pi(symbol) /
# pi_old(symbol), corrects for that at this symbol. (It does not correct for the symbols before it,
# which have become more or less likely too: the policy must stay near the old one.) The clip of PPO
# takes away the reward for going far on old answers. In the first epoch all ratios are 1: there the
# gradient of the loss's first term is that of -advantage * log pi, and nothing is clipped.


def grpo_loss(
    log_probs: Tensor,
    old: Sequence[float],
    reference: Sequence[float],
    advantages: Sequence[float],
) -> Tensor:
    """The loss of a batch: log-probabilities [1][N] of the symbols of all answers -> [1][1].

    old and reference are the log-probabilities of the same N symbols under pi_old and pi_ref;
    advantages, too, has one entry per symbol: that of its answer.

    Shao et al., 2024, arXiv:2402.03300, eq. 3 and 4, with the sign turned: the mean over symbols of
    -min(ratio A, clip(ratio, 1 - CLIP, 1 + CLIP) A) + KL_WEIGHT (pi_ref/pi - log(pi_ref/pi) - 1).
    (The paper takes the mean over each answer's symbols first, so a symbol of a long wrong answer
    is punished less than one of a short wrong answer. Here every symbol of the batch counts alike,
    as with TRL's default, loss_type "dapo".)

    Two symbols of a right answer, with advantage 1. The first has become 1.1 times as likely since
    it was written: loss -1.1, and the gradient says go on. The second has become 1.5 times as
    likely, is clipped to 1.2, and has no gradient. Mean of -1.1 and -1.2:
    >>> log_probs = Tensor([[log(0.11), log(0.15)]])
    >>> old = [log(0.1), log(0.1)]
    >>> loss = grpo_loss(log_probs, old, log_probs.data[0], [1.0, 1.0])  # reference = policy: KL 0
    >>> loss.backward()
    >>> round(loss.item(), 3), [round(g, 3) for g in log_probs.grad[0]]
    (-1.15, [-0.55, 0.0])
    """
    count = len(old)
    loss = 0.0
    slopes: list[float] = []  # d loss / d log_prob
    for now, before, start, advantage in zip(log_probs.data[0], old, reference, advantages):
        ratio = exp(now - before)
        gain = ratio * advantage
        clipped_gain = min(max(ratio, 1.0 - CLIP), 1.0 + CLIP) * advantage
        # The minimum: too far in the wanted direction earns no more, too far in the wrong one is
        # felt in full. d ratio / d log_prob = ratio.
        gain_slope = gain if gain <= clipped_gain else 0.0

        # An estimate of KL(pi, pi_ref) that is never negative, and 0 where the two are equal
        # (Schulman's k3).
        inverse = exp(start - now)
        kl = inverse - (start - now) - 1.0

        loss += (KL_WEIGHT * kl - min(gain, clipped_gain)) / count
        slopes.append((KL_WEIGHT * (1.0 - inverse) - gain_slope) / count)

    def pass_back(d_out: list[list[float]]) -> tuple:
        return ([[slope * d_out[0][0] for slope in slopes]],)

    return Tensor([[loss]], (log_probs,), pass_back)


# The KL term is there to hold the policy near the reference, which writes what looks like names.
# (No run here is without it, so its effect is not shown.) KL(p, q) is the mean of log p - log q
# under p. In the form of most code, also ours, the term's value estimates KL(pi, pi_ref) on fresh
# answers, but its gradient there is on average, symbol by symbol, that of KL(pi_ref, pi), because
# the sampling is not differentiated (Tang & Munos, 2025). Nor does it count that a letter chosen
# now changes what comes after it. Many recipes of 2025 leave the term out (TRL's default is
# beta=0.0): where a program checks the answers, there is no learned reward model to be exploited.

# === TRAINING ===

# One step: write answers, check them, turn rewards into advantages, update EPOCHS times. Every
# symbol of an answer, end mark included, gets the answer's advantage: the check does not say which
# letter made it right. (clip_grad_norm_ limits the length of the whole gradient. It has nothing to
# do with the clip of the ratios.)


def train(
    reference: GPT, offsets: Sequence[float], group_size: int, rng: random.Random
) -> tuple[GPT, list[tuple[float, int]]]:
    """Train a copy of the reference -> the policy, and for each step the share of right answers
    and the number of prompts whose answers were all right or all wrong.

    group_size: how many answers share a baseline, those to one prompt or the whole batch. It sets
    the baseline only: GROUP_SIZE answers to each prompt are written either way.
    """
    policy = copy_of(reference, requires_grad=True)
    optimizer = Adam(policy.parameters(), BETAS)
    history: list[tuple[float, int]] = []
    for step in range(1, STEPS + 1):
        texts = write_answers(policy, GROUP_SIZE, rng)
        checks = [check(text) for text in texts]
        rewards = [passed + offsets[i // GROUP_SIZE] for i, passed in enumerate(checks)]
        by_answer = group_advantages(rewards, group_size)

        advantages = [a for a, text in zip(by_answer, texts) for _ in text[1:]]
        ref_log_probs = log_prob(*predict(reference, texts)).data[0]
        old: list[float] = []
        for _ in range(EPOCHS):
            log_probs = log_prob(*predict(policy, texts))
            old = old or log_probs.data[0]  # in the first epoch the policy is still the writer
            grpo_loss(log_probs, old, ref_log_probs, advantages).backward()
            clip_grad_norm_(policy.parameters(), 1.0)
            optimizer.step(LEARNING_RATE)

        groups = [checks[i : i + GROUP_SIZE] for i in range(0, len(checks), GROUP_SIZE)]
        agreeing = sum([sum(group) in (0, GROUP_SIZE) for group in groups])
        history.append((mean(checks), agreeing))
        if step % 6 == 0:
            right = mean([share for share, _ in history[-6:]])
            print(f"step {step:4d}/{STEPS} | right answers {right:.3f}", flush=True)
    return copy_of(policy, requires_grad=False), history


def write_answers(policy: GPT, how_many: int, rng: random.Random) -> list[list[int]]:
    """how_many answers to each prompt, prompt by prompt. All are written side by side."""
    starts = [len(ALPHABET) + i for i in range(len(PROMPTS)) for _ in range(how_many)]
    return sample(copy_of(policy, requires_grad=False), starts, NUM_HEADS, CONTEXT, rng)


# In production the writing is done by an inference engine (TRL's GRPOTrainer uses vLLM with
# use_vllm=True), and often takes most of the time. Its probabilities differ a little from the
# trainer's, even with the same weights, so careful trainers correct for that too. A critic as large
# as the policy has weights, gradients and Adam's two means of its own: it would about double the
# memory that these take. GRPO saves this, and pays with G answers to each prompt.

# === THE COMPARISON ===

# Two baselines, each with graders who agree and with graders who do not. All four trainings start
# from the same reference with the same random numbers, so their first 32 answers are the same.
# Policies are judged by the check alone, without constants. A perfect policy would have 1.0. The
# standard error of an accuracy over 400 answers is at most 0.025, and another seed can move it by
# more: the run's 0.958 and 0.965 cannot be told apart.
#
# With the group's mean, the constants must cancel. That they do so to the last bit is owed to whole
# constants and groups of 8: all these sums and quotients are exact. With constants such as 0.1,
# rounding could leave small differences.
#
# Does the batch's mean only need another learning rate, where the graders differ? With half of it
# 0.65 [results: half_rate.accuracy_batch] of the answers are right, with twice as much
# 0.49 [results: double_rate.accuracy_batch]. The group's mean copes with both:
# 0.90 [results: half_rate.accuracy_group] and
# 0.93 [results: double_rate.accuracy_group].


def evaluate(policy: GPT, rng: random.Random) -> dict[str, Any]:
    """The share of right answers, for each prompt and in all, and the answers."""
    texts = write_answers(policy, NUM_SAMPLES, rng)
    groups = [texts[i : i + NUM_SAMPLES] for i in range(0, len(texts), NUM_SAMPLES)]
    by_prompt = [mean([check(text) for text in group]) for group in groups]
    return {"accuracy": mean(by_prompt), "by_prompt": by_prompt, "groups": groups}


def largest_difference(a: GPT, b: GPT) -> float:
    """The largest difference between two models' weights."""
    rows = [
        zip(x, y) for p, q in zip(a.parameters(), b.parameters()) for x, y in zip(p.data, q.data)
    ]
    return max([abs(x - y) for row in rows for x, y in row])


def main() -> dict[str, object]:
    """Pretrain, train with two baselines and two kinds of graders, and compare."""
    rng = random.Random(SEED)
    start = time.perf_counter()
    print("Pretraining: a GPT learns to write names and half understands four instructions.")
    names = [name for name in load_names() if len(name) < CONTEXT - 1]
    reference = pretrain(names, rng)
    seed = rng.getrandbits(32)
    before = evaluate(reference, random.Random(seed + 1))

    whole_batch = GROUP_SIZE * len(PROMPTS)
    policies, results = {}, {}
    for title, group_size, offsets in (
        ("group mean, graders agree", GROUP_SIZE, NO_OFFSETS),
        ("group mean, graders differ", GROUP_SIZE, OFFSETS),
        ("batch mean, graders agree", whole_batch, NO_OFFSETS),
        ("batch mean, graders differ", whole_batch, OFFSETS),
    ):
        print(f"\nBaseline: {title}")
        policy, history = train(reference, offsets, group_size, random.Random(seed))
        policies[title] = policy
        results[title] = {**evaluate(policy, random.Random(seed + 1)), "history": history}
    print(f"time  all of this took {time.perf_counter() - start:.1f} s")

    group_agree, group_differ, batch_agree, batch_differ = results.values()
    agreeing = [count for _, count in group_differ["history"]]
    headline = {
        "accuracy_ref": before["accuracy"],
        "accuracy_group": group_differ["accuracy"],
        "accuracy_batch": batch_differ["accuracy"],
        "accuracy_batch_agree": batch_agree["accuracy"],
        "weight_difference": largest_difference(*list(policies.values())[:2]),
        "silent_share": mean(agreeing) / len(PROMPTS),
    }
    report_table({"reference": before, **results})
    report_curves(results, agreeing)
    report_answers(before["groups"], group_differ["groups"])
    report_conclusion(headline)
    return {**headline, "details": {"reference": before, **results}}


# === APPENDIX: REPORT AND HELPERS ===


def mean(values: Sequence[float]) -> float:
    """The mean of some numbers."""
    return sum(values) / len(values)


def report_table(results: dict[str, dict[str, Any]]) -> None:
    """Right answers of each policy, by prompt."""
    print(f"\nShare of right answers ({NUM_SAMPLES} to each prompt)")
    adds = " ".join([f"{offset:+10.0f}" for offset in OFFSETS])
    print(f"{'':<27}   all      vowel  consonant      short       long")
    for title, result in results.items():
        cells = " ".join([f"{share:10.2f}" for share in result["by_prompt"]])
        print(f"{title:<27}{result['accuracy']:6.3f} {cells}")
    print(f"{'graders who differ add':<33} {adds}")


def report_curves(results: dict[str, dict[str, Any]], agreeing: Sequence[int]) -> None:
    """Right answers while training, and how many groups taught nothing."""
    height = 8
    curves = [[share for share, _ in result["history"]] for result in results.values()]
    print("\nShare of right answers in each step: o group mean, x batch mean (graders differ)")
    for level in range(height, -1, -1):
        cells = []
        for group, batch in zip(curves[1], curves[3]):
            marks = [round(value * height) == level for value in (group, batch)]
            cells.append("*" if all(marks) else "o" if marks[0] else "x" if marks[1] else " ")
        print(f"{level / height:5.2f} |{'  '.join(cells)}".rstrip())
    print(f"      +{'-' * (3 * len(agreeing))}")
    print(f"       {'  '.join(map(str, agreeing))}")
    print(f"Below the line: how many of the {len(PROMPTS)} groups agreed (group mean).")


def report_answers(before: Sequence[Any], after: Sequence[Any]) -> None:
    """The first answers to each prompt before and after, with + for right ones."""
    print("\nAnswers (+ right, - wrong), and how many different ones were among them all")
    for prompt, *groups in zip(PROMPTS, before, after):
        print(f"  {prompt}")
        for label, group in zip(("before", "after"), groups):
            shown = [f"{'+' if check(text) else '-'}{to_name(text)}" for text in group[:5]]
            different = len({tuple(text) for text in group})
            line = f"    {label:<7}" + "".join([f"{name[:11]:<12}" for name in shown])
            print(f"{line}| {different}")


def to_name(text: Sequence[int]) -> str:
    """The letters of a text, without its marks."""
    return "".join([ALPHABET[symbol] for symbol in text if 0 < symbol < len(ALPHABET)])


def report_conclusion(numbers: dict[str, float]) -> None:
    """Say in words what the run has shown, whatever it has shown."""
    group, batch, agree = [numbers[f"accuracy_{key}"] for key in ("group", "batch", "batch_agree")]
    print()
    if numbers["weight_difference"] == 0.0:
        print("With the group mean, the graders' constants changed no weight of the policy, not")
        print(f"in the last bit: {group:.3f} of its answers are right either way.")
    print(
        f"With the batch mean, {agree:.3f} are right where the graders agree, and {batch:.3f} where"
    )
    print(f"they differ. Before training it was {numbers['accuracy_ref']:.3f}.")
    if abs(group - agree) < 0.1:
        print("Where the graders agree, the two baselines end close together in this run.")
    elif group > agree:
        print("In this run the group mean is ahead even where the graders agree.")
    share = numbers["silent_share"]
    print(
        f"{share:.0%} of the groups agreed: all their answers were right, or all were wrong. They"
    )
    print("taught nothing about the instructions.")


# === APPENDIX: ENGINE (common/engine.py; microautograd.py derives it) ===

# The inner product, the engine's one primitive: dot([1, 2], [3, 4]) = 1*3 + 2*4 = 11.
# From Python 3.12 on the standard library has it (math.sumprod); before, sum(map(mul, a, b))
# also loops in C. Beware: where lengths differ, sumprod raises but map stops at the shorter one.
dot = getattr(math, "sumprod", None) or (lambda a, b: sum(map(mul, a, b)))


def transpose(a: list[list[float]]) -> list[list[float]]:
    """[N][M] -> [M][N].

    >>> transpose([[1, 2, 3], [4, 5, 6]])
    [[1, 4], [2, 5], [3, 6]]
    """
    return list(map(list, zip(*a)))


def matmul(a: list[list[float]], b: list[list[float]]) -> list[list[float]]:
    """[N][K] times [K][M] -> [N][M]: entry (i, j) is the dot product of row i and column j.

    >>> matmul([[1, 2]], [[3, 4], [5, 6]])
    [[13, 16]]
    """
    columns = list(zip(*b))
    return [[dot(row, column) for column in columns] for row in a]


def softmax_row(scores: list[float]) -> list[float]:
    """Turn scores into positive weights that sum to 1: exp(s_i) / sum_j exp(s_j).

    The largest score is taken off first. It cancels in the fraction, and exp cannot overflow.

    >>> softmax_row([1000.0, 1000.0])
    [0.5, 0.5]
    """
    largest = max(scores)
    exponentials = [exp(score - largest) for score in scores]
    total = sum(exponentials)
    return [value / total for value in exponentials]


def log_sum_exp(scores: list[float]) -> float:
    """log(sum_j exp(s_j)), with the largest score taken out of the sum so that exp stays finite.

    >>> round(log_sum_exp([1000.0, 1000.0]) - 1000.0, 6)
    0.693147
    """
    largest = max(scores)
    return largest + log(sum([exp(score - largest) for score in scores]))


class Tensor:
    """A matrix that remembers how it was made, so that gradients can flow back through it.

    data       [N][M]: list of rows of floats
    grad       None until backward() reaches this tensor, then [N][M]: d(root) / d(data)
    parents    the tensors that it was computed from; empty for a leaf
    pass_back  takes this tensor's gradient and returns one gradient per parent (None: not
               wanted). It gets the gradient as an argument and never refers to its own tensor:
               so there is no reference cycle, and a graph is freed the moment it is dropped.
    """

    __slots__ = ("data", "grad", "parents", "pass_back", "requires_grad")

    def __init__(
        self,
        data: list[list[float]],
        parents: tuple[Tensor, ...] = (),
        pass_back: Callable | None = None,
        requires_grad: bool = True,
    ) -> None:
        self.data = data
        self.grad: list[list[float]] | None = None
        # A result needs a gradient if one of its parents does; otherwise it keeps no graph.
        self.requires_grad = any(p.requires_grad for p in parents) if parents else requires_grad
        self.parents = parents if self.requires_grad else ()
        self.pass_back = pass_back if self.requires_grad else None

    def item(self) -> float:
        """The one number of a [1][1] tensor, such as a loss."""
        ((value,),) = self.data
        return value

    def __add__(self, other: Tensor) -> Tensor:
        """[N][M] + [N][M]. Both parents receive the result's gradient as it is."""
        check_same_shape(self, other)
        data = [list(map(add, a, b)) for a, b in zip(self.data, other.data)]
        return Tensor(data, (self, other), lambda d_out: (d_out, d_out))

    def __sub__(self, other: Tensor) -> Tensor:
        """[N][M] - [N][M]."""
        check_same_shape(self, other)
        data = [list(map(sub, a, b)) for a, b in zip(self.data, other.data)]
        return Tensor(data, (self, other), lambda d: (d, [[-x for x in row] for row in d]))

    def __mul__(self, other: Tensor | float) -> Tensor:
        """Entry by entry: [N][M] * [N][M], or every entry times one constant number."""
        if not isinstance(other, Tensor):
            data = [[value * other for value in row] for row in self.data]
            return Tensor(
                data, (self,), lambda d_out: ([[d * other for d in row] for row in d_out],)
            )
        check_same_shape(self, other)
        a, b = self.data, other.data

        def times(x: list[list[float]], y: list[list[float]]) -> list[list[float]]:
            return [list(map(mul, row_x, row_y)) for row_x, row_y in zip(x, y)]

        # d(a * b) = b da + a db: each factor's gradient is the other factor times d_out.
        return Tensor(times(a, b), (self, other), lambda d: (times(d, b), times(d, a)))

    def backward(self, grad: list[list[float]] | None = None) -> None:
        """Add d(self)/d(tensor) to .grad of every tensor that self was made from.

        grad [N][M] is the gradient to start from; a [1][1] loss starts from 1. The graph is
        taken apart on the way, so that memory falls while gradients flow: a second backward()
        through it raises RuntimeError.
        """
        if grad is None:
            if len(self.data) != 1 or len(self.data[0]) != 1:
                raise ValueError("backward() without a gradient starts from a [1][1] tensor only")
            grad = [[1.0]]
        check_same_shape(self, Tensor(grad))
        # Topological order: every tensor stands after all of its parents. The list is built with
        # an explicit stack, since a long chain would overflow Python's call stack. A tensor goes
        # on the stack twice: on the first visit it is put back below its parents, and on the
        # second they are all in the list, so it follows them.
        order: list[Tensor] = []
        visited: set[Tensor] = set()
        stack = [(self, False)]
        while stack:
            tensor, parents_are_listed = stack.pop()
            if parents_are_listed:
                order.append(tensor)
            elif tensor not in visited:
                visited.add(tensor)
                stack.append((tensor, True))
                stack.extend([(p, False) for p in tensor.parents if p.requires_grad])
        visited.clear()
        self.grad = grad if self.grad is None else add_matrices(self.grad, grad)
        # Backwards through that order a tensor comes after everything made from it: its gradient
        # is complete, all uses added up, before it is passed on to its parents.
        while order:
            tensor = order.pop()
            if tensor.pass_back is None:
                continue
            for parent, part in zip(tensor.parents, tensor.pass_back(tensor.grad)):
                if part is not None and parent.requires_grad:
                    parent.grad = part if parent.grad is None else add_matrices(parent.grad, part)
            tensor.parents, tensor.pass_back = (), raise_graph_is_gone


def add_matrices(a: list[list[float]], b: list[list[float]]) -> list[list[float]]:
    """[N][M] + [N][M] as a new matrix: a gradient may be shared, so it is never changed in place.

    >>> add_matrices([[1.0, 2.0]], [[10.0, 20.0]])
    [[11.0, 22.0]]
    """
    return [list(map(add, row_a, row_b)) for row_a, row_b in zip(a, b)]


def check_same_shape(a: Tensor, b: Tensor) -> None:
    """Raise ValueError unless both are [N][M]. Nothing is ever stretched to fit."""
    shapes = [(len(tensor.data), len(tensor.data[0])) for tensor in (a, b)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"shapes differ: {shapes[0]} and {shapes[1]}")


def check_is_row(tensor: Tensor, width: int) -> None:
    """Raise ValueError unless the tensor is [1][width], as a bias must be."""
    shape = (len(tensor.data), len(tensor.data[0]))
    if shape != (1, width):
        raise ValueError(f"shapes differ: {shape} and {(1, width)}")


def raise_graph_is_gone(d_out: list[list[float]]) -> None:
    """Stand where a graph has been taken apart by backward()."""
    raise RuntimeError("backward() has already taken this graph apart: run the forward again")


def embedding(weight: Tensor, ids: Sequence[int]) -> Tensor:
    """Pick rows: weight [V][D], ids N whole numbers -> [N][D].

    A row that was picked several times receives the sum of its gradients.
    """
    if not all(0 <= i < len(weight.data) for i in ids):
        raise ValueError(f"an id is not one of the rows 0..{len(weight.data) - 1}")

    def pass_back(d_out: list[list[float]]) -> tuple:
        d_weight = [[0.0] * len(weight.data[0])] * len(weight.data)
        for i, d_row in zip(ids, d_out):
            d_weight[i] = list(map(add, d_weight[i], d_row))
        return (d_weight,)

    return Tensor([weight.data[i] for i in ids], (weight,), pass_back)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [N][in] times the transpose of weight [out][in], plus bias [1][out] -> [N][out].

    Row n of the result holds the dot products of row n of x with every row of weight.
    """
    if len(x.data[0]) != len(weight.data[0]):
        raise ValueError(f"x has {len(x.data[0])} columns, weight {len(weight.data[0])}")
    out = [[dot(row, w) for w in weight.data] for row in x.data]
    if bias is not None:
        check_is_row(bias, len(weight.data))
        out = [list(map(add, row, bias.data[0])) for row in out]

    # y[n][o] = sum_i x[n][i] w[o][i]. So dy/dx = w and dy/dw = x, and with all paths added up
    #   d_x[n][i] = sum_o d_out[n][o] w[o][i]       d_x      = d_out @ weight
    #   d_w[o][i] = sum_n d_out[n][o] x[n][i]       d_weight = transpose(d_out) @ x
    def pass_back(d_out: list[list[float]]) -> tuple:
        columns = transpose(d_out)
        d_x = matmul(d_out, weight.data) if x.requires_grad else None
        d_weight = matmul(columns, x.data) if weight.requires_grad else None
        if bias is None:
            return d_x, d_weight
        return d_x, d_weight, [[sum(column) for column in columns]]

    return Tensor(out, (x, weight) if bias is None else (x, weight, bias), pass_back)


def relu(x: Tensor) -> Tensor:
    """max(0, x), entry by entry. The slope is 1 above zero and 0 elsewhere, at zero too."""
    data = [[value if value > 0.0 else 0.0 for value in row] for row in x.data]

    def pass_back(d_out: list[list[float]]) -> tuple:
        # An output above zero had an input above zero.
        return ([[d if y > 0.0 else 0.0 for d, y in zip(*rows)] for rows in zip(d_out, data)],)

    return Tensor(data, (x,), pass_back)


def rms_norm(x: Tensor, weight: Tensor | None = None, eps: float = 1e-5) -> Tensor:
    """Scale every row of x [N][D] to a root mean square of 1; weight [1][D] multiplies after.

    Zhang & Sennrich, "Root Mean Square Layer Normalization", 2019, arXiv:1910.07467, eq. 4.
    """
    width = len(x.data[0])
    if weight is not None:
        check_is_row(weight, width)
    scales = [(dot(row, row) / width + eps) ** -0.5 for row in x.data]
    normed = [[value * scale for value in row] for row, scale in zip(x.data, scales)]
    gains = weight.data[0] if weight is not None else None
    out = normed if gains is None else [list(map(mul, row, gains)) for row in normed]

    # n_i = x_i s with s = (mean(x^2) + eps)^(-1/2), hence ds/dx_j = -s^3 x_j / D and
    # d_x_j = s d_j - s^3 x_j / D sum_i d_i x_i = s (d_j - n_j mean(d n)).
    def pass_back(d_out: list[list[float]]) -> tuple:
        d_normed = d_out if gains is None else [list(map(mul, row, gains)) for row in d_out]
        d_x = []
        for d_row, n_row, scale in zip(d_normed, normed, scales):
            mean = dot(d_row, n_row) / width
            d_x.append([(d - n * mean) * scale for d, n in zip(d_row, n_row)])
        if gains is None:
            return (d_x,)
        columns = zip(transpose(d_out), transpose(normed))
        return d_x, [[dot(d_column, n_column) for d_column, n_column in columns]]

    return Tensor(out, (x,) if weight is None else (x, weight), pass_back)


def attention_head(
    q: list[list[float]],
    k: list[list[float]],
    v: list[list[float]],
    spans: Sequence[tuple[int, int]],
) -> tuple[list[list[float]], list[list[float]]]:
    """One head: q [N][d], k [M][d], v [M][e] -> output [N][e], and the weights of each row.

    Row i reads rows first..stop-1 of k and v, with (first, stop) = spans[i]:
        weights = softmax(q_i . k_j / sqrt(d) for these j)      output_i = sum_j weights_j v_j
    Vaswani et al., "Attention Is All You Need", 2017, arXiv:1706.03762, eq. 1.

    A query that fits the first of two keys: scores 1/sqrt(2) and 0, weights 0.67 and 0.33, so
    the output lies a third of the way from the first value to the second.
    >>> output, weights = attention_head([[1, 0]], [[1, 0], [0, 1]], [[10], [40]], [(0, 2)])
    >>> [round(w, 3) for w in weights[0]], round(output[0][0], 1)
    ([0.67, 0.33], 19.9)
    """
    scale = len(q[0]) ** -0.5
    value_columns = list(zip(*v))
    output, weights = [], []
    for query, (first, stop) in zip(q, spans):
        scores = [dot(query, key) * scale for key in k[first:stop]]
        weights.append(softmax_row(scores))
        output.append([dot(weights[-1], column[first:stop]) for column in value_columns])
    return output, weights


def scaled_dot_product_attention(
    q: Tensor, k: Tensor, v: Tensor, num_heads: int, spans: Sequence[tuple[int, int]]
) -> Tensor:
    """Attention in num_heads heads, each on its own columns: q [N][H*d], k [M][H*d], v [M][H*e]
    -> [N][H*e]. Row i reads rows first..stop-1 of k and v, with (first, stop) = spans[i].
    """
    if len(q.data[0]) != len(k.data[0]) or len(k.data) != len(v.data):
        shapes = [(len(x.data), len(x.data[0])) for x in (q, k, v)]
        raise ValueError(f"q, k and v do not fit together: {shapes}")
    if len(spans) != len(q.data):
        raise ValueError(f"{len(q.data)} queries but {len(spans)} spans")
    if any(not 0 <= first < stop <= len(k.data) for first, stop in spans):
        raise ValueError(f"a span is empty or reaches outside of the {len(k.data)} keys")
    q_heads, k_heads, v_heads = [split_heads(t.data, num_heads) for t in (q, k, v)]
    heads = [attention_head(*head, spans) for head in zip(q_heads, k_heads, v_heads)]

    def pass_back(d_out: list[list[float]]) -> tuple:
        # readers[j]: which rows read row j
        readers: list[list[int]] = [[] for _ in k.data]
        for i, (first, stop) in enumerate(spans):
            for j in range(first, stop):
                readers[j].append(i)
        gradients = [
            attention_head_backward(q_h, k_h, v_h, spans, readers, weights, d_h)
            for q_h, k_h, v_h, (_, weights), d_h in zip(
                q_heads, k_heads, v_heads, heads, split_heads(d_out, num_heads)
            )
        ]
        return tuple(map(join_heads, zip(*gradients)))

    return Tensor(join_heads([output for output, _ in heads]), (q, k, v), pass_back)


def attention_head_backward(
    q: list[list[float]],
    k: list[list[float]],
    v: list[list[float]],
    spans: Sequence[tuple[int, int]],
    readers: list[list[int]],
    weights: list[list[float]],
    d_output: list[list[float]],
) -> tuple[list[list[float]], list[list[float]], list[list[float]]]:
    """The gradients (d_q, d_k, d_v) of one attention_head, from d_output [N][e].

    output_i = sum_j w_ij v_j         d_v_j  = sum_i w_ij d_output_i     d_w_ij = d_output_i . v_j
    w_i = softmax(s_i)                d_s_ij = w_ij (d_w_ij - sum_m w_im d_w_im)
    s_ij = q_i . k_j / sqrt(d)        d_q_i  = sum_j d_s_ij k_j / sqrt(d)      d_k_j alike
    """
    scale = len(q[0]) ** -0.5
    key_columns = list(zip(*k))
    d_q, d_scores = [], []
    for row, d_row, (first, stop) in zip(weights, d_output, spans):
        d_weights = [dot(d_row, value) for value in v[first:stop]]
        mean = dot(row, d_weights)
        d_scores.append([w * (d - mean) * scale for w, d in zip(row, d_weights)])
        d_q.append([dot(d_scores[-1], column[first:stop]) for column in key_columns])
    d_k, d_v = [], []
    for j, rows in enumerate(readers):
        places = [(i, j - spans[i][0]) for i in rows]
        d_score_column = [d_scores[i][place] for i, place in places]
        weight_column = [weights[i][place] for i, place in places]
        # A row that nobody reads has no columns to run over: its gradient is zero.
        q_columns = zip(*[q[i] for i in rows]) if rows else [()] * len(q[0])
        d_columns = zip(*[d_output[i] for i in rows]) if rows else [()] * len(v[0])
        d_k.append([float(dot(d_score_column, column)) for column in q_columns])
        d_v.append([float(dot(weight_column, column)) for column in d_columns])
    return d_q, d_k, d_v


def split_heads(x: list[list[float]], num_heads: int) -> list[list[list[float]]]:
    """[N][H*d] -> H matrices [N][d], each a block of neighbouring columns.

    >>> split_heads([[1, 2, 3, 4]], 2)
    [[[1, 2]], [[3, 4]]]
    """
    width, rest = divmod(len(x[0]), num_heads)
    if rest:
        raise ValueError(f"{len(x[0])} columns do not split into {num_heads} heads")
    return [[row[h * width : (h + 1) * width] for row in x] for h in range(num_heads)]


def join_heads(heads: Sequence[list[list[float]]]) -> list[list[float]]:
    """H matrices [N][d] -> [N][H*d], side by side: the inverse of split_heads.

    >>> join_heads([[[1, 2]], [[3, 4]]])
    [[1, 2, 3, 4]]
    """
    return [sum(rows, []) for rows in zip(*heads)]


def cross_entropy(logits: Tensor, targets: Sequence[int]) -> Tensor:
    """Mean over rows of -log softmax(logits)[target]: logits [N][C], targets N -> [1][1], in nats.

    Softmax and logarithm are one operation: -log softmax(z)[t] = log_sum_exp(z) - z[t], which
    never takes the logarithm of a number that was rounded to zero.
    """
    check_targets(logits, targets)
    totals = [log_sum_exp(row) for row in logits.data]
    count = len(targets)
    loss = sum([total - row[t] for total, row, t in zip(totals, logits.data, targets)]) / count

    # d(log_sum_exp(z))/dz_c = exp(z_c) / sum_j exp(z_j) = p_c, hence d_z = (p - onehot) / N: each
    # logit is pushed by the probability that it got, and the target's by that minus 1.
    def pass_back(d_out: list[list[float]]) -> tuple:
        factor = d_out[0][0] / count
        d_logits = []
        for row, total, target in zip(logits.data, totals, targets):
            d_row = [factor * exp(z - total) for z in row]
            d_row[target] -= factor
            d_logits.append(d_row)
        return (d_logits,)

    return Tensor([[loss]], (logits,), pass_back)


def log_prob(logits: Tensor, targets: Sequence[int]) -> Tensor:
    """log softmax(logits)[target] of every row: logits [N][C], targets N -> [1][N], in nats."""
    check_targets(logits, targets)
    totals = [log_sum_exp(row) for row in logits.data]
    data = [[row[t] - total for total, row, t in zip(totals, logits.data, targets)]]

    # The same derivative as in cross_entropy, with the opposite sign: d_z = d (onehot - p).
    def pass_back(d_out: list[list[float]]) -> tuple:
        d_logits = []
        for row, total, target, d in zip(logits.data, totals, targets, d_out[0]):
            d_row = [-d * exp(z - total) for z in row]
            d_row[target] += d
            d_logits.append(d_row)
        return (d_logits,)

    return Tensor(data, (logits,), pass_back)


def check_targets(logits: Tensor, targets: Sequence[int]) -> None:
    """Raise ValueError unless there is one class number for every row of logits [N][C]."""
    if len(targets) != len(logits.data):
        raise ValueError(f"{len(logits.data)} rows of logits but {len(targets)} targets")
    if not all(0 <= target < len(logits.data[0]) for target in targets):
        raise ValueError(f"a target is not one of the classes 0..{len(logits.data[0]) - 1}")


# === APPENDIX: OPTIMISER (common/optim.py; microoptimizer.py explains it) ===


class Adam:
    """Adam: a step for each parameter, scaled by its own gradient's recent size.

    Kingma & Ba, "Adam: A Method for Stochastic Optimization", 2015, arXiv:1412.6980, algorithm 1.
    Two running means per number, of the gradient and of its square, start at zero; dividing by
    1 - beta^t makes up for that start (bias correction).
    """

    def __init__(
        self,
        parameters: list[Tensor],
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        self.parameters = parameters
        self.betas = betas
        self.eps = eps
        zeros = [[[0.0] * len(p.data[0])] * len(p.data) for p in parameters]
        self.means = list(zeros)
        self.squares = list(zeros)
        self.num_steps = [0] * len(parameters)

    def step(self, lr: float) -> None:
        """Take one step with learning rate lr, and clear the gradients."""
        beta1, beta2 = self.betas
        for index, parameter in enumerate(self.parameters):
            grad = parameter.grad
            if grad is None:
                continue
            self.num_steps[index] += 1
            mean = self.means[index] = [
                [beta1 * m + (1.0 - beta1) * g for m, g in zip(m_row, g_row)]
                for m_row, g_row in zip(self.means[index], grad)
            ]
            square = self.squares[index] = [
                [beta2 * s + (1.0 - beta2) * g * g for s, g in zip(s_row, g_row)]
                for s_row, g_row in zip(self.squares[index], grad)
            ]
            rate = lr / (1.0 - beta1 ** self.num_steps[index])
            scale = (1.0 - beta2 ** self.num_steps[index]) ** -0.5
            parameter.data = [
                [
                    x - rate * m / (scale * math.sqrt(s) + self.eps)
                    for x, m, s in zip(x_row, m_row, s_row)
                ]
                for x_row, m_row, s_row in zip(parameter.data, mean, square)
            ]
            parameter.grad = None


def clip_grad_norm_(parameters: list[Tensor], max_norm: float) -> float:
    """Scale all gradients down together if their joint length exceeds max_norm; return the length
    that they had.
    """
    rows = [row for p in parameters if p.grad is not None for row in p.grad]
    norm = math.sqrt(sum([g * g for row in rows for g in row]))
    if norm > max_norm:
        factor = max_norm / norm
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad = [[g * factor for g in row] for row in parameter.grad]
    return norm


# === APPENDIX: LANGUAGE MODEL (common/language_model.py; microgpt.py explains it) ===

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


# === APPENDIX: DATA (common/data.py) ===

# Where a script finds its data when it was copied out of the repository.
DATA_URL = "https://raw.githubusercontent.com/Mathews-Tom/no-magic/main/data/"
NAMES_SHA256 = "bd02dfd33179e23ec2dd093cbd4de619834f75d660ef1ae04d3127e7a0110053"


def load_data(filename: str, sha256: str) -> bytes:
    """Return the data file's bytes; end the program with one clear sentence if they are not to be
    had or not the right ones (their sha256 differs).
    """
    here = Path(__file__).resolve().parent
    for path in (here.parent / "data" / filename, here / filename):
        if path.exists():
            content = path.read_bytes()
            if hashlib.sha256(content).hexdigest() != sha256:
                raise SystemExit(f"{path} is damaged (wrong sha256): restore it, or delete it.")
            return content
    partial = here / f"{filename}.{os.getpid()}.part"
    try:
        with urllib.request.urlopen(DATA_URL + filename, timeout=20) as response:
            content = response.read()
        if hashlib.sha256(content).hexdigest() != sha256:
            raise OSError("the download is damaged (wrong sha256)")
        partial.write_bytes(content)
        partial.replace(here / filename)
    except (OSError, http.client.HTTPException) as problem:
        where = f"from {DATA_URL} and put it beside the script"
        raise SystemExit(f"No {filename}: {problem}. Get it {where}.") from None
    finally:
        partial.unlink(missing_ok=True)
    return content


def load_names() -> list[str]:
    """29,693 different first names, a to z only, in alphabetical order.

    The file has 32,257 lines, since names given to girls and to boys stand in it twice. They must
    become one before anything is held out, or names from training would return in the test.
    """
    return sorted(set(load_data("names.txt", NAMES_SHA256).decode("ascii").split()))


if __name__ == "__main__":
    main()
