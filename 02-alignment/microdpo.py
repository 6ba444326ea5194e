"""A loss on winners and losers takes a language model further than copying the winners can.

A language model has learned to write. Now it should write what people like. People find it hard to
say how good a text is on a scale, but of two texts they can say which one they like better. The
classical way is RLHF (reinforcement learning from human feedback). It first fits a reward model,
which scores texts, to such comparisons. Then the language model writes, the reward model scores,
and reinforcement learning makes texts with high scores more likely. Direct Preference Optimization
(DPO) needs neither a separate reward model nor reinforcement learning: it is ordinary training on
the pairs. Its loss asks that the log-probability of the winner should rise more (or fall less) than
that of the loser, both counted from the model at the start.

Here the model writes names. The person who compares them is simulated: a hidden formula likes soft
letters, and chance makes the person err sometimes. As the formula is known, we can also estimate
the best that anybody could do: for each distance from the model at the start, the highest reward
that is possible there. These best points are the frontier. Look at four things: how far along the
frontier DPO gets, and how far below it; how far training on the winners alone (SFT, supervised
fine-tuning) can get; what beta does; and what happens to the probability of the winners.

The distance is the KL divergence, KL(pi, pi_ref): the mean of log pi(y) - log pi_ref(y) over names
y that pi itself writes, in nats (natural logarithm). It is 0 if nothing has changed. At 1, a name
that the policy writes is, in the geometric mean, e = 2.7 times as likely as it was at the start.
The order matters: KL(pi_ref, pi), the mean over names that pi_ref writes, is another number.

In the code         In the paper   Meaning                                            Shape
reference           pi_ref         the model at the start; it is never changed
policy              pi, pi_theta   a copy of it that is trained
text                y              a name as symbols, with a mark at start and end     symbols
winner, loser       y_w, y_l       the two texts of a pair (TRL: chosen, rejected)    symbols
gold_reward(name)   r* (here r)    what the person likes; training never sees it      a number
..._ratio(s)        log pi/pi_ref  log-ratio: by how much a text became likelier      one per text
margin                             beta * (winner's log-ratio - loser's log-ratio)    one per pair
beta                beta           the price of distance: if high, pi stays near      a number
(TRL is a widely used library for such training; it logs beta * log-ratio as the "reward".)

What is left out: prompts (with them, every probability is conditioned on the prompt, and only the
answer's symbols are summed), the reward model and PPO (microppo has them, with the same
comparisons), and relatives of the loss: IPO for labels with little noise, KTO for texts that were
judged one by one, SimPO with mean log-probabilities per symbol and without a reference.

A number marked [results: ...] is not from this run: it was recorded from a run with one thing
changed, and stands in results/microdpo.json under that key.

Read first: microgpt.

Papers: Bradley & Terry, "Rank Analysis of Incomplete Block Designs: I", 1952. Christiano et al.,
"Deep Reinforcement Learning from Human Preferences", 2017, arXiv:1706.03741. Rafailov et al.,
"Direct Preference Optimization: Your Language Model is Secretly a Reward Model", 2023,
arXiv:2305.18290. Azar et al., 2023, arXiv:2310.12036 (IPO). Ethayarajh et al., 2024,
arXiv:2402.01306 (KTO). Meng et al., 2024, arXiv:2405.14734 (SimPO). Pang et al., 2024,
arXiv:2404.19733 (an added SFT term). Park et al., 2024, arXiv:2403.19159 (length). Razin et al.,
"Unintentional Unalignment: Likelihood Displacement in Direct Preference Optimization", 2024,
arXiv:2410.08847.
"""

from __future__ import annotations

import copy
import hashlib
import http.client
import itertools
import math
import os
import random
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from math import exp, log
from operator import add, mul, sub
from pathlib import Path
from typing import Any, NamedTuple

# === CONSTANTS ===

SEED = 42
CONTEXT = 16  # symbols that the model can read; a name of 16 letters gets no end mark
WIDTH = 16  # entries of a vector in the model
NUM_HEADS = 2  # of the model's attention
BATCH_SIZE = 8  # names, or pairs, per step
BETAS = (0.9, 0.99)  # Adam's: how slowly its two running means forget
PRETRAIN_STEPS = 250
PRETRAIN_RATE = 0.02  # first learning rate; every training's falls linearly to 0

SOFT_LETTERS = "aeioulmnr"  # what the person likes to hear
NUM_PAIRS = 512  # comparisons to train on
NUM_HELD_OUT = 256  # comparisons to test on

BETA = 0.5  # the main policy's; in units of reward per nat
HIGH_BETA = 2.0  # for a second policy that is to stay nearer to the reference
DPO_STEPS = 80  # 1.25 passes over the pairs
SFT_STEPS = 80
LEARNING_RATE = 0.004  # the first one, for DPO and SFT alike
OPTIMUM_BETA = 1.0  # of the optimum in the table: its KL is not far from DPO's
NUM_SAMPLES = 800  # names that each policy writes to be measured

# === THE REFERENCE MODEL ===

# A small GPT, the one of microgpt, learns to write names. This is the model before alignment. It
# is kept unchanged as the reference, and every policy begins as its copy.


def predict(model: GPT, texts: Sequence[Sequence[int]]) -> tuple[Tensor, list[int]]:
    """Read texts, all at once -> logits [N][27] for the N symbols that follow, and these symbols.

    A text is a list of symbols: 0 for the start, 1 to 26 for letters, 0 for the end.
    """
    ids, positions, spans, targets = pack(texts)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return scaled_dot_product_attention(q, k, v, NUM_HEADS, spans)

    return model.forward(ids, positions, attend), targets


def pretrain(names: Sequence[str], rng: random.Random) -> GPT:
    """A GPT that has learned to write names: the reference, frozen."""
    model = GPT(len(ALPHABET), CONTEXT, WIDTH, rng)
    optimizer = Adam(model.parameters(), BETAS)
    recent_losses: list[float] = []
    for step in range(1, PRETRAIN_STEPS + 1):
        batch = [encode(name) for name in rng.sample(names, BATCH_SIZE)]
        loss = cross_entropy(*predict(model, batch))
        loss.backward()
        optimizer.step(PRETRAIN_RATE * (1.0 - (step - 1) / PRETRAIN_STEPS))
        recent_losses.append(loss.item())
        if step % 50 == 0:
            mean = sum(recent_losses) / len(recent_losses)
            print(f"step {step:4d}/{PRETRAIN_STEPS} | loss {mean:.4f}", flush=True)
            recent_losses.clear()
    return copy_of(model, requires_grad=False)


def copy_of(model: GPT, requires_grad: bool) -> GPT:
    """A second model with the same numbers: to be trained, or frozen (it then keeps no graph)."""
    twin = copy.copy(model)
    for name, matrix in vars(model).items():
        setattr(twin, name, Tensor(matrix.data, requires_grad=requires_grad))
    return twin


def sequence_log_probs(model: GPT, texts: Sequence[Sequence[int]]) -> Tensor:
    """log p(text) of each whole text: [1][number of texts], in nats.

    A text's log-probability is the sum of those of its symbols, each given the ones before. The
    end mark is one of them: left out, a text could become longer at no cost.
    """
    by_symbol = log_prob(*predict(model, texts))
    lengths = [len(text) - 1 for text in texts]
    stops = list(itertools.accumulate(lengths))
    sums = [sum(by_symbol.data[0][stop - n : stop]) for n, stop in zip(lengths, stops)]

    # Every symbol of a text moves the text's sum by as much as itself.
    def pass_back(d_out: list[list[float]]) -> tuple:
        return ([[d for d, n in zip(d_out[0], lengths) for _ in range(n)]],)

    return Tensor([sums], (by_symbol,), pass_back)


# === THE COMPARISONS ===

# In this experiment the person's taste is a formula, so that the truth is known. Training sees only
# which of two names won. The reference itself writes the names. (If the pairs come from elsewhere,
# the paper's advice is to train on the winners first and to take that model as the reference.)


def gold_reward(name: str) -> float:
    """How much the person likes a name: 10 times the mean over its letters, from -10 to 10.

    A soft letter earns 1, another 0; a letter that repeats the one before it, or comes for the
    third time or more, earns -1, so that "aaaa" is no way out.

    >>> gold_reward("marina"), gold_reward("jack"), gold_reward("anna"), gold_reward("")
    (10.0, 2.5, 5.0, 0.0)
    """
    points = 0
    for i, letter in enumerate(name):
        stutters = name[:i].endswith(letter) or name[:i].count(letter) >= 2
        points += -1 if stutters else int(letter in SOFT_LETTERS)
    return 10.0 * points / max(1, len(name))


def to_name(text: Sequence[int]) -> str:
    """The letters of a text, without its marks."""
    return "".join([ALPHABET[symbol] for symbol in text if symbol != 0])


def draw_comparisons(
    reference: GPT, num_pairs: int, rng: random.Random
) -> list[tuple[list[int], list[int]]]:
    """Let the reference write pairs of names and the person judge them -> (winner, loser) each.

    The person errs: a wins over b with probability sigmoid(r(a) - r(b)). This is the model of
    Bradley and Terry, 1952: equals win half of the time, one point more wins 73%, three points 95%.
    """
    texts = sample(reference, [0] * (2 * num_pairs), NUM_HEADS, CONTEXT, rng)
    pairs = []
    for a, b in zip(texts[::2], texts[1::2]):
        gap = gold_reward(to_name(a)) - gold_reward(to_name(b))
        pairs.append((a, b) if rng.random() < sigmoid_of(gap) else (b, a))
    return pairs


# === DIRECT PREFERENCE OPTIMIZATION ===

# What should the policy become? The answer of RLHF: collect reward, but pay beta for every nat of
# distance from the reference. Without this price, nothing would keep the policy from writing a
# single name of the highest reward over and over.
#
#     J(pi) = E[r(y)] - beta KL(pi, pi_ref) = sum_y pi(y) (r(y) - beta log(pi(y) / pi_ref(y)))
#
# The best policy can be written down. It is the reference, tilted towards reward:
#
#     pi*(y) = pi_ref(y) exp(r(y) / beta) / Z           Z = sum_y pi_ref(y) exp(r(y) / beta)
#
# To see that it is the best, solve this line for the reward, and put the result into J:
#
#     r(y) = beta log(pi*(y) / pi_ref(y)) + beta log Z
#     J(pi) = beta log Z - beta sum_y pi(y) log(pi(y) / pi*(y)) = beta log Z - beta KL(pi, pi*)
#
# A KL divergence is never negative and is 0 for equal distributions only: J is largest at pi = pi*.
#
# Why then does anybody use reinforcement learning? Because Z is a sum over all possible texts, and
# the formula does not say how to write pi*'s texts symbol by symbol. (Further below, names of the
# reference are given new weights to estimate what pi* collects. With long texts this fails: too few
# texts carry all the weight.) DPO uses the line for r instead. Read backwards, it says that every
# policy is the best one for some reward: beta times its log-ratio, log(pi(y) / pi_ref(y)), plus a
# constant. Bradley and Terry's model needs only a difference of two rewards, and there the constant
# cancels:
#
#     P(winner beats loser) = sigmoid(r(winner) - r(loser))
#                           = sigmoid(beta log_ratio(winner) - beta log_ratio(loser))
#
# Now everything can be computed, and the policy is fitted like any classifier, by maximum
# likelihood: give a high probability to the outcomes that were seen. "DPO has no reward model" is
# therefore only half of the truth: the policy is one. And "DPO is RLHF" holds only where the fit is
# exact, the pairs cover all texts, and people choose as the model of Bradley and Terry says. 512
# pairs do not cover all names, and 80 steps of a small model are no exact fit. The run will show
# how far below the frontier the policy stays; it does not tell these causes apart.


def dpo_loss(
    policy_winners: Tensor,
    policy_losers: Tensor,
    ref_winners: Sequence[float],
    ref_losers: Sequence[float],
    beta: float,
) -> Tensor:
    """Mean over pairs of -log sigmoid(margin): log-probabilities [1][n] of whole texts -> [1][1].

    Rafailov et al., 2023, arXiv:2305.18290, eq. 7. In PyTorch it is
    -F.logsigmoid(beta * (winner_ratios - loser_ratios)).mean(), the default of TRL's DPOTrainer.

    One pair: training has made the winner a little less likely than under the reference (-20.2
    against -20.0) and the loser much less likely (-16.2 against -15.0). The log-ratios are -0.2 and
    -1.2, the margin is 0.5 * (-0.2 + 1.2) = 0.5, and the loss is 0.474; it was ln 2 = 0.693 when
    policy and reference were equal. The gradient is -0.5 * sigmoid(-0.5) = -0.189 for the winner
    and +0.189 for the loser (0.25 when the models were equal). If the winner's log-probability
    rises by 0.1 and the loser's falls by 0.1, the margin is 0.6 and the loss falls by 0.037.
    That the winner is the rarer name of the two, under both models, does not matter.

    >>> winner, loser = Tensor([[-20.2]]), Tensor([[-16.2]])
    >>> loss = dpo_loss(winner, loser, [-20.0], [-15.0], beta=0.5)
    >>> loss.backward()
    >>> round(loss.item(), 3), round(winner.grad[0][0], 3), round(loser.grad[0][0], 3)
    (0.474, -0.189, 0.189)
    """
    count = len(ref_winners)
    winner_ratios = map(sub, policy_winners.data[0], ref_winners)
    loser_ratios = map(sub, policy_losers.data[0], ref_losers)
    margins = [beta * (winner - loser) for winner, loser in zip(winner_ratios, loser_ratios)]
    # -log sigmoid(m) = log(1 + exp(-m)), which is softplus(-m): no logarithm of a rounded 0.
    loss = sum([softplus(-margin) for margin in margins]) / count

    # For one pair, d loss / d margin = -sigmoid(-margin). This weight is the probability that the
    # policy, as a reward model, gives to the outcome that was not seen. A pair that the policy
    # orders clearly wrongly pulls with almost full weight, one that it orders clearly rightly
    # hardly at all. So a pair in which the person erred can go on pulling hard the wrong way.
    def pass_back(d_out: list[list[float]]) -> tuple:
        weights = [beta * sigmoid_of(-margin) * d_out[0][0] / count for margin in margins]
        return [[-weight for weight in weights]], [weights]

    return Tensor([[loss]], (policy_winners, policy_losers), pass_back)


# What each part is for:
#
#   - The sigmoid lets go of a pair once its margin is well above 1, that is, once its log-ratios
#     differ by well over 1 / beta. In a short training this is how beta acts: with a low beta the
#     policy goes far. After 80 steps with beta 0.5 its KL is still below that of the optimum for
#     beta 1. (The role of beta is often told the wrong way round. In pi*, 1 / beta acts on rewards
#     as 1 / temperature acts on logits. The constant factor beta in the gradient matters little:
#     Adam divides it out. But a margin of the wrong sign is enlarged by beta too, so with beta 2
#     the loss can rise above ln 2 at first, as it does in the run.) If the loss is simply -margin,
#     nothing lets go: it has no minimum, and only the number of steps and the learning rate set the
#     distance. The same 80 steps then end at a KL of 3.54 [results: no_sigmoid.kl_dpo], with a
#     reward of 8.58 [results: no_sigmoid.reward_dpo]. That is more than the run's DPO gets, but
#     less than the optimum in the table, whose KL is much lower.
#   - The reference tells how likely the names were to begin with. Without it a pair whose winner is
#     the rarer name begins with a wrong order and a larger weight, though nothing is wrong, and
#     frequent names that lose are pushed down harder for being frequent. The policy then ends at a
#     KL of 3.25 [results: no_reference.kl_dpo], with a reward of only
#     6.67 [results: no_reference.reward_dpo].
#
# In production beta is often 0.1, the default of TRL, and the learning rate is small: often 1e-6
# when all weights are trained. The log-probabilities of the reference are constants, so they are
# computed once, here and in TRL with precompute_ref_log_probs=True. Otherwise TRL runs the
# reference in every step, as a second model in memory, or as the same model with its LoRA adapter
# switched off. Watch the length of what the policy writes: DPO is known to make answers longer
# (Park et al., 2024). A log-ratio is a sum over symbols, so a longer text can move it further.


class Pairs(NamedTuple):
    """Comparisons, column by column: texts, and their log-probabilities under the reference."""

    winners: list[list[int]]
    losers: list[list[int]]
    ref_winners: list[float]
    ref_losers: list[float]


def with_reference(reference: GPT, comparisons: Sequence[tuple[list[int], list[int]]]) -> Pairs:
    """Add the log-probabilities that the reference gives to the texts: once, before training."""
    winners, losers = map(list, zip(*comparisons))
    ref_winners, ref_losers = [
        sequence_log_probs(reference, texts).data[0] for texts in (winners, losers)
    ]
    return Pairs(winners, losers, ref_winners, ref_losers)


def dpo_step(policy: GPT, batch: Pairs, beta: float) -> tuple[Tensor, list[float]]:
    """The loss of a batch, and the mean log-ratios of its winners and of its losers."""
    policy_winners = sequence_log_probs(policy, batch.winners)
    policy_losers = sequence_log_probs(policy, batch.losers)
    loss = dpo_loss(policy_winners, policy_losers, batch.ref_winners, batch.ref_losers, beta)
    log_ratios = [
        mean(map(sub, policy_winners.data[0], batch.ref_winners)),
        mean(map(sub, policy_losers.data[0], batch.ref_losers)),
    ]
    return loss, log_ratios


# Does a winner become likelier, then? The loss does not ask for it: it sees the difference only,
# and both log-ratios may fall. The probability then goes to other texts. In fact the expected
# log-ratio of a name that the reference writes, be it winner or loser, is below 0 for every policy
# that differs from the reference: it is -KL(pi_ref, pi). So the mean log-ratios of fresh winners
# and of fresh losers cannot both rise. The run shows where the held-out winners end, and what pi*
# does with them. (That winners fall is known as likelihood displacement; Razin et al., 2024, show
# when it does harm. A common remedy is to add an SFT loss on the winners, the loss of the next
# function: Pang et al., 2024; loss_type=["sigmoid", "sft"] in TRL.)


def sft_step(policy: GPT, batch: Pairs) -> tuple[Tensor, list[float]]:
    """The rival, supervised fine-tuning: pretraining's loss, but on the winners; no log-ratios."""
    return cross_entropy(*predict(policy, batch.winners)), []


def fine_tune(
    reference: GPT, pairs: Pairs, num_steps: int, loss_of: Callable
) -> tuple[GPT, list[list[float]]]:
    """Train a copy of the reference -> the policy and the history of its training.

    The history has one row for every ten steps: the means of [loss, winners' log-ratio, losers'
    log-ratio] (for SFT only [loss]), each taken before the step's update. What is printed is the
    mean loss of the last ten steps. The pairs were drawn at random, so nothing is shuffled.
    """
    policy = copy_of(reference, requires_grad=True)
    optimizer = Adam(policy.parameters(), BETAS)
    recent: list[list[float]] = []
    history: list[list[float]] = []
    for step in range(1, num_steps + 1):
        first = (step - 1) * BATCH_SIZE % len(pairs.winners)
        batch = Pairs(*[column[first : first + BATCH_SIZE] for column in pairs])
        loss, log_ratios = loss_of(policy, batch)
        loss.backward()
        optimizer.step(LEARNING_RATE * (1.0 - (step - 1) / num_steps))

        recent.append([loss.item(), *log_ratios])
        if step % 10 == 0:
            history.append([mean(column) for column in zip(*recent)])
            recent.clear()
        if step % 20 == 0:
            print(f"step {step:4d}/{num_steps} | loss {history[-1][0]:.4f}", flush=True)
    return copy_of(policy, requires_grad=False), history


# === WHAT IS POSSIBLE ===

# The policies pi*, one for each beta, are the frontier: no policy at the same KL has more reward,
# or it would have a larger J. What they would collect can be estimated without training, by
# importance sampling. Take names that the reference wrote, and give each the weight exp(r / beta).
# Z is the mean of the weights, and a weighted mean over the names estimates E*, the mean over names
# that pi* would write. "Exact" in the table means the formula of pi*; its numbers are estimates.


def optimal_policy(rewards: Sequence[float], beta: float) -> tuple[float, float, float]:
    """(reward, KL, effective sample size) of pi* for this beta, from the rewards of names that
    the reference wrote. KL = E*[log(pi* / pi_ref)] = E*[r] / beta - log Z.

    Two names, with rewards 0 and 1, equally likely; exp(r / beta) is 1 and 3:
    >>> [round(value, 3) for value in optimal_policy([0.0, 1.0], 1.0 / log(3.0))]
    [0.75, 0.131, 1.6]
    """
    exponents = [reward / beta for reward in rewards]
    log_z = log_sum_exp(exponents) - log(len(rewards))
    weights = softmax_row(exponents)
    reward = dot(weights, rewards)
    # If few names carry all the weight, the estimate is worth no more than so few names.
    return reward, reward / beta - log_z, 1.0 / dot(weights, weights)


def frontier_reward(rewards: Sequence[float], kl: float) -> float:
    """The highest reward that a policy at this KL can have: bisection for the beta of its pi*."""
    low, high = -4.0, 7.0  # of log beta; KL falls as beta rises
    for _ in range(30):
        middle = 0.5 * (low + high)
        if optimal_policy(rewards, exp(middle))[1] > kl:
            low = middle
        else:
            high = middle
    return optimal_policy(rewards, exp(high))[0]


# What can imitation reach? SFT learns to write as the winners are distributed. A name can come to a
# comparison as the first or as the second, and it wins with some probability. So the winners are
# distributed as 2 pi_ref(y) P(y beats a name of pi_ref), and no name is more than twice as frequent
# among them as it was. Hence their KL is at most ln 2 = 0.69; here it is far less. With endless
# pairs and steps, and a model that can express it, SFT ends at this distribution; 512 pairs are
# only a sample of it. In four times the steps SFT comes to a reward of
# 6.77 [results: long_sft.reward_sft], at a KL of 0.31 [results: long_sft.kl_sft]: further away than
# the winners' distribution, but with less reward. (To write n names and imitate the best of them
# lifts the bound from 2 to n, but needs somebody who judges n names.)


def imitation_limit(rewards: Sequence[float]) -> tuple[float, float]:
    """(reward, KL) of the winners' distribution, from the rewards of names of the reference."""
    count = len(rewards)
    how_many = Counter(rewards)  # rewards take few different values
    reward = kl = 0.0
    for own, times in how_many.items():
        wins = sum([n * sigmoid_of(own - other) for other, n in how_many.items()]) / count
        ratio = 2.0 * wins
        reward += times / count * ratio * own
        kl += times / count * ratio * log(ratio)
    return reward, kl


# === MEASURING ===

# Policies are measured by what they write, at temperature 1: a policy that is sampled in another
# way is not the one that was trained. How they order held-out pairs is printed too, but cannot
# replace this: those names were written by the reference, and a policy comes to write others. (So
# pairs grow stale; online DPO has the policy write new ones.) If the rewards of single names have a
# standard deviation of 2, a mean over 800 names has a standard error of 2 / sqrt(800) = 0.07.


def evaluate(policy: GPT, reference: GPT, held_out: Pairs, rng: random.Random) -> dict[str, Any]:
    """What the policy writes: mean reward, KL, names. For the held-out pairs: the share in which
    the winner has the higher log-ratio (accuracy), and the mean log-ratios.
    """
    texts = sample(policy, [0] * NUM_SAMPLES, NUM_HEADS, CONTEXT, rng)
    own, ref = [sequence_log_probs(model, texts).data[0] for model in (policy, reference)]
    names = [to_name(text) for text in texts]
    winner_ratios, loser_ratios = [
        list(map(sub, sequence_log_probs(policy, side).data[0], ref_side))
        for side, ref_side in zip(held_out[:2], held_out[2:])
    ]
    return {
        "reward": mean(map(gold_reward, names)),
        "kl": mean(map(sub, own, ref)),
        "accuracy": mean([won > lost for won, lost in zip(winner_ratios, loser_ratios)]),
        "winner_ratio": mean(winner_ratios),
        "loser_ratio": mean(loser_ratios),
        "names": names,
    }


def optimum_on(pairs: Pairs, reward: float, kl: float, beta: float) -> dict[str, float]:
    """The same numbers for pi* with this reward and KL: its log-ratios are r / beta - log Z."""
    won, lost = [[gold_reward(to_name(text)) for text in side] for side in pairs[:2]]
    log_z = reward / beta - kl
    return {
        # Pairs with equal rewards are a toss-up: they count one half.
        "accuracy": mean([0.5 * ((w > v) + (w >= v)) for w, v in zip(won, lost)]),
        "winner_ratio": mean(won) / beta - log_z,
        "loser_ratio": mean(lost) / beta - log_z,
    }


def train_all(
    reference: GPT, pairs: Pairs, held_out: Pairs, rng: random.Random
) -> dict[str, dict[str, Any]]:
    """Train the three policies, each from the reference and on the same pairs, and measure them."""
    results = {}
    for title, num_steps, loss_of in (
        ("SFT on winners", SFT_STEPS, sft_step),
        (f"DPO, beta {HIGH_BETA:g}", DPO_STEPS, partial(dpo_step, beta=HIGH_BETA)),
        (f"DPO, beta {BETA:g}", DPO_STEPS, partial(dpo_step, beta=BETA)),
    ):
        print(f"\n{title}: {num_steps} steps")
        policy, history = fine_tune(reference, pairs, num_steps, loss_of)
        results[title] = {**evaluate(policy, reference, held_out, rng), "history": history}
    return results


def main() -> dict[str, object]:
    """Pretrain, compare, train on the comparisons, and set the results beside what is possible."""
    rng = random.Random(SEED)
    start = time.perf_counter()
    print("Pretraining: a GPT learns to write names. It will be the reference.")
    reference = pretrain(load_names(), rng)
    comparisons = draw_comparisons(reference, NUM_PAIRS + NUM_HELD_OUT, rng)
    pairs = with_reference(reference, comparisons[:NUM_PAIRS])
    held_out = with_reference(reference, comparisons[NUM_PAIRS:])
    report_comparisons(pairs)
    results = train_all(reference, pairs, held_out, rng)
    print(f"time  all of this took {time.perf_counter() - start:.1f} s")

    # All names of the comparisons were written by the reference: they say what is possible.
    ref_names = [to_name(text) for pair in comparisons for text in pair]
    rewards = list(map(gold_reward, ref_names))
    limit = imitation_limit(rewards)
    *optimum, effective = optimal_policy(rewards, OPTIMUM_BETA)
    perfect = optimum_on(held_out, *optimum, OPTIMUM_BETA)
    table = {"reference": (mean(rewards), 0.0), "winners themselves": limit}
    table |= {title: (result["reward"], result["kl"]) for title, result in results.items()}
    table[f"exact optimum, beta {OPTIMUM_BETA:g}"] = tuple(optimum)
    sft, high, dpo = results.values()
    report_table(table, [None, None, *results.values(), perfect], rewards)
    report_plane(table, rewards, effective)
    report_log_ratios(high["history"], dpo["history"])
    report_names(ref_names, dpo["names"])
    headline = {
        "reward_ref": mean(rewards),
        "reward_winners": limit[0],
        "reward_sft": sft["reward"],
        "kl_sft": sft["kl"],
        "reward_dpo": dpo["reward"],
        "kl_dpo": dpo["kl"],
    }
    report_conclusion(headline, frontier_reward(rewards, dpo["kl"]), dpo, perfect)
    return {**headline, "details": {"table": table_rows(table, rewards), "results": results}}


# === APPENDIX: REPORT AND HELPERS ===


def mean(values: Iterable[float]) -> float:
    """The mean of some numbers."""
    numbers = list(values)
    return sum(numbers) / len(numbers)


def report_comparisons(pairs: Pairs) -> None:
    """A few pairs."""
    print(f"\n{NUM_PAIRS} comparisons to train on, {NUM_HELD_OUT} held out. A few (reward):")
    for winner, loser in list(zip(pairs.winners, pairs.losers))[:4]:
        won, lost = [f"{n} ({gold_reward(n):.1f})" for n in map(to_name, (winner, loser))]
        print(f"  {won:<22} won over {lost}")


def report_table(
    table: dict[str, tuple[float, float]],
    on_pairs: Sequence[dict[str, Any] | None],
    rewards: Sequence[float],
) -> None:
    """One line per policy, with the highest reward that is possible at its KL."""
    base = mean(rewards)
    print("\nWhat a policy writes: mean reward, KL, the most that is possible at this KL, its")
    print("share of that gain. How it sees the held-out pairs: ordered rightly, and mean")
    print("log-ratios. (The person errs, so even the optimum does not order all rightly.)")
    print("policy                  reward    KL  possible  share | right  winners  losers")
    for (title, (reward, kl)), seen in zip(table.items(), on_pairs):
        possible = frontier_reward(rewards, kl)
        share = f"{(reward - base) / (possible - base):7.2f}" if kl > 0.0 else " " * 7
        line = f"{title:<22}{reward:8.2f}{kl:6.2f}{possible:10.2f}{share} |"
        if seen is not None:
            line += f"{seen['accuracy']:6.2f}{seen['winner_ratio']:9.2f}{seen['loser_ratio']:8.2f}"
        print(line)


def table_rows(
    table: dict[str, tuple[float, float]], rewards: Sequence[float]
) -> dict[str, dict[str, Any]]:
    """The table as the tier's README joins it with that of microppo."""
    given = {
        "reference": "-",
        "winners themselves": "endless pairs",
        f"exact optimum, beta {OPTIMUM_BETA:g}": "the gold reward itself",
    }
    return {
        title: {
            "given": given.get(title, f"{NUM_PAIRS} pairs"),
            "sampled": 0,  # names that the policy wrote in training
            "reward": reward,
            "kl": kl,
            "frontier": frontier_reward(rewards, kl),
        }
        for title, (reward, kl) in table.items()
    }


def report_plane(
    table: dict[str, tuple[float, float]], rewards: Sequence[float], effective: float
) -> None:
    """Reward (up) against KL (right): the frontier as dots, the policies as letters."""
    marks = dict(zip(table, "RWSdDO"))
    columns, lines = 64, 16
    width = 1.05 * max(kl for _, kl in table.values())
    low = math.floor(min(reward for reward, _ in table.values()))
    high = math.ceil(max(frontier_reward(rewards, width), max(r for r, _ in table.values())))
    grid = [[" "] * columns for _ in range(lines)]

    def put(reward: float, kl: float, mark: str) -> None:
        line = round((high - reward) / (high - low) * (lines - 1))
        column = round(max(kl, 0.0) / width * (columns - 1))
        grid[min(max(line, 0), lines - 1)][min(column, columns - 1)] = mark

    for i in range(columns):
        kl = width * i / (columns - 1)
        put(frontier_reward(rewards, kl), kl, ".")
    for title, (reward, kl) in table.items():
        put(reward, kl, marks[title])
    print("\nReward against KL: what is possible (dots), and what was reached. The dots are")
    print(f"computed from {len(rewards):,} names (effective sample size at O: {effective:.0f}).")
    for i, row in enumerate(grid):
        value = high - (high - low) * i / (lines - 1)
        label = f"{value:6.1f}" if i % 5 == 0 else " " * 6
        print(f"{label} |{''.join(row)}".rstrip())
    print(f"{'':6} +{'-' * columns}")
    print(f"{'':8}KL 0{'':{columns - 9}}{width:.2f}")
    print("  " + ", ".join([f"{mark} {title}" for title, mark in list(marks.items())[:3]]))
    print("  " + ", ".join([f"{mark} {title}" for title, mark in list(marks.items())[3:]]))


def report_log_ratios(high: Sequence[Sequence[float]], low: Sequence[Sequence[float]]) -> None:
    """Where the log-ratios of winners and losers are, every ten steps."""
    columns = 32
    left = math.floor(min(min(row[1:]) for row in [*high, *low]))
    right = math.ceil(max(max(row[1:]) for row in [*high, *low]) + 0.01)

    def line(row: Sequence[float]) -> str:
        places = [round((v - left) / (right - left) * (columns - 1)) for v in (0.0, *row[1:])]
        text = [" "] * columns
        for place, mark in zip(places, "|WL"):
            text[place] = mark
        return "".join(text)

    print("\nMean log-ratios in training, of pairs about to be used: W winners, L losers, | 0")
    print(f"steps   {f'beta {HIGH_BETA:g}':<{columns}}    beta {BETA:g}")
    for i, (row_high, row_low) in enumerate(zip(high, low)):
        print(f"{10 * i + 1:2d}-{10 * i + 10:<2d}   {line(row_high)}    {line(row_low)}".rstrip())
    scale = f"{left:<{columns // 2}d}{right:>{columns - columns // 2}d}"
    print(f"        {scale}    {scale}")


def report_names(before: Sequence[str], after: Sequence[str]) -> None:
    """Nine names each, as they came."""
    print("\nNames, and what the person thinks of them")
    for label, names in (("reference", before), (f"DPO, beta {BETA:g}", after)):
        for i in (0, 3, 6):
            shown = [f"{f'{name} {gold_reward(name):.1f}':<22}" for name in names[i : i + 3]]
            print(f"{label if i == 0 else '':<14}{''.join(shown)}".rstrip())


def report_conclusion(
    numbers: dict[str, float], possible: float, dpo: dict[str, Any], perfect: dict[str, float]
) -> None:
    """Say in words what the run has shown, whatever it has shown."""
    base, limit, reward = [numbers[f"reward_{key}"] for key in ("ref", "winners", "dpo")]
    print(f"\nSomebody who wrote exactly as the winners are distributed would get {limit:.2f}.")
    print(
        f"SFT on them gets {numbers['reward_sft']:.2f}. From the same pairs DPO gets {reward:.2f}."
    )
    verdict = "more" if reward > limit else "not more"
    share = (reward - base) / (possible - base)
    print(f"This is {verdict} than imitation can, and {share:.0%} of the gain possible at its KL.")
    if dpo["loser_ratio"] < dpo["winner_ratio"] < 0.0:
        print("It made the winners of the held-out pairs *less* likely, and their losers still")
        print("less: the loss asks for the difference only.")
        if perfect["winner_ratio"] < 0.0:
            print("The exact optimum does so too: it writes better names than the average winner.")


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


def sigmoid_of(value: float) -> float:
    """1 / (1 + exp(-value)), written so that exp never sees a large positive number.

    >>> sigmoid_of(0.0), sigmoid_of(-800.0), sigmoid_of(800.0)
    (0.5, 0.0, 1.0)
    """
    if value >= 0.0:
        return 1.0 / (1.0 + exp(-value))
    small = exp(value)
    return small / (1.0 + small)


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


def softplus(value: float) -> float:
    """log(1 + exp(value)) of one number, written so that exp never sees a large positive one.

    >>> round(softplus(0.0), 6), softplus(-800.0), softplus(800.0)
    (0.693147, 0.0, 800.0)
    """
    return max(value, 0.0) + math.log1p(exp(-abs(value)))


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
