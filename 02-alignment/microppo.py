"""A model trained to please a learned judge learns to fool it, unless it is held near its start.

People can say which of two texts they like better. RLHF (reinforcement learning from human
feedback) uses such comparisons to make a language model write what people like. First a reward
model, the judge, is fitted to the comparisons. Then the language model, now called the policy,
writes, the judge scores what it wrote, and reinforcement learning makes high scores more frequent.

But the policy is trained to please the judge, not the people. The judge has seen only texts of the
old model. Elsewhere it guesses, and optimisation searches for just those places where its guesses
are too high. (Goodhart's law: a measure that becomes a target ceases to be a good measure.) RLHF
therefore charges the policy for its distance from the old model.

Here the model writes names, and the person who compares them is a formula that training never
sees. So we can check what she thinks of names that the judge scores highly. Look at four things:
how the score and the person's reward rise together under PPO (Proximal Policy Optimization) while
distance has a price; how they part without it; what plain REINFORCE gets from as many names; and
how much was possible, from this judge and from the person.

The distance is the KL divergence, KL(pi, pi_ref): the mean of log pi(y) - log pi_ref(y) over names
y that pi itself writes, in nats (natural logarithm). It is 0 if nothing has changed, and never less
(an estimate from a few names can be).

In the code          In the papers   Meaning                                           Shape
reference            pi_ref          the model at the start; it is never changed
policy               pi, pi_theta    a copy of it that is trained
gold_reward(name)    gold            what the person likes; training never sees it     a number
judge, score(...)    r_phi, proxy    the learned reward: a weight for each symbol      27; a number
values               V               the critic: the reward that is still to come      one a symbol
advantages           A               by how much it went better than expected          one a symbol
ratio                r_t(theta)      pi(symbol) now / when the name was written        one a symbol
rewards              r_t             what a symbol earns: price and score, not gold    one a symbol
beta                 beta            the price of one nat of distance                  a number

What is left out: prompts, a judge that is a language model itself (with one number as its output,
as in InstructGPT), ensembles of judges, and control of beta while training.

A number marked [results: ...] is not from this run: it was recorded from a run with some constants
or one function changed, and stands in results/microppo.json under that key.

Read first: microreinforce, microdpo.

Papers: Williams, "Simple Statistical Gradient-Following Algorithms for Connectionist Reinforcement
Learning", 1992. Schulman et al., 2015, arXiv:1506.02438 (GAE). Schulman et al., "Proximal Policy
Optimization Algorithms", 2017, arXiv:1707.06347. Stiennon et al., "Learning to Summarize from Human
Feedback", 2020, arXiv:2009.01325. Ouyang et al., 2022, arXiv:2203.02155 (InstructGPT). Gao et al.,
"Scaling Laws for Reward Model Overoptimization", 2022, arXiv:2210.10760 (the words gold and proxy;
there a large reward model plays the person). Ahmadian et al., "Back to Basics", 2024,
arXiv:2402.14740 (REINFORCE instead of PPO).
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
from collections.abc import Callable, Iterable, Sequence
from math import exp, log
from operator import add, mul, sub
from pathlib import Path
from typing import Any, NamedTuple

# === CONSTANTS ===

SEED = 42
CONTEXT = 16  # symbols that the model can read; longer names are cut
WIDTH = 16  # entries of a vector in the model
NUM_HEADS = 2  # of its attention
BATCH_SIZE = 8  # names, or pairs, per step
BETAS = (0.9, 0.99)  # Adam's: how slowly its two running means forget
PRETRAIN_STEPS = 250
PRETRAIN_RATE = 0.02  # learning rate at first; it falls to 0 in a straight line

SOFT_LETTERS = "aeioulmnr"  # what the person likes to hear
NUM_PAIRS = 512  # comparisons to fit the judge to: the same ones as in microdpo.py
NUM_HELD_OUT = 256  # comparisons to test it on
JUDGE_STEPS = 200
JUDGE_RATE = 0.1

BETA = 0.5  # price of distance, in units of score per nat
FREE_BETA = 0.0  # of the policy that is not tied to the reference
NUM_NAMES = 16  # that the policy writes in each iteration
ITERATIONS = 20  # of PPO and of REINFORCE: 320 names each
FREE_ITERATIONS = 24  # of the free policy
NUM_EPOCHS = 4  # passes of PPO over the names of an iteration
CLIP = 0.2  # a ratio that moves further from 1, the way A wants, earns nothing more
GAMMA = 1.0  # no discount: a name is short
LAMBDA = 1.0  # of GAE: 1 trusts what happened, 0 the critic (0.95 is usual)
VALUE_WEIGHT = 0.1  # of the critic's loss, since it shares the policy's layers
LEARNING_RATE = 0.002  # PPO's; in a trial, better than 0.004
FREE_RATE = 0.004  # of the free policy: it should go far in few iterations
REINFORCE_RATE = 0.004  # in a trial, better than 0.01 and 0.02
NUM_SAMPLES = 400  # names that each policy writes to be measured

# === THE PERSON AND THE COMPARISONS ===

# The reference is a small GPT that has learned to write names (the appendix THE REFERENCE MODEL
# trains it, as microdpo.py does). It writes pairs, and a person says which name of two is better.
# Her taste is a formula here, so that the truth is known; training sees only which name won.


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


# === THE JUDGE ===

# The reward model gives every symbol a weight, and a text the mean weight of its symbols. It is
# fitted so that winners score higher, with Bradley and Terry's formula turned round: the
# probability of what the person said is sigmoid(score(winner) - score(loser)).
#
# Such a judge can learn which letters the person likes, which is most of her taste for names as the
# reference writes them. It cannot express that she dislikes repetition: it does not see the order,
# and more of the heaviest symbol always raises a mean of weights. So the text that has nothing else
# has the highest score of all. Every learned judge errs somewhere; a small one shows where.


def shares(text: Sequence[int]) -> list[float]:
    """How often each symbol comes after the start, as a share: [27].

    >>> [(ALPHABET[i], share) for i, share in enumerate(shares(encode("ava"))) if share]
    [('.', 0.25), ('a', 0.5), ('v', 0.25)]
    """
    symbols = text[1:]
    return [symbols.count(i) / len(symbols) for i in range(len(ALPHABET))]


def score(text: Sequence[int], judge: Sequence[float]) -> float:
    """What the judge thinks of a text: the mean weight of its symbols, the end mark included."""
    return sum([judge[symbol] for symbol in text[1:]]) / (len(text) - 1)


def fit_judge(comparisons: Sequence[tuple[list[int], list[int]]]) -> list[float]:
    """Logistic regression on the comparisons -> the judge: one weight for each of 27 symbols."""
    winners, losers = [[shares(text) for text in side] for side in zip(*comparisons)]
    weight = Tensor([[0.0] * len(ALPHABET)])
    optimizer = Adam([weight], BETAS)
    for step in range(JUDGE_STEPS):
        first = step * BATCH_SIZE % len(winners)
        won, lost = [side[first : first + BATCH_SIZE] for side in (winners, losers)]
        margins = linear(Tensor(won), weight) - linear(Tensor(lost), weight)
        # This is the mean of -log sigmoid(margin): "the winner won" is the label 1.
        loss = binary_cross_entropy_with_logits(margins, [[1.0]] * len(won))
        loss.backward()
        optimizer.step(JUDGE_RATE * (1.0 - step / JUDGE_STEPS))
    # Comparisons say nothing of the zero point. Shares sum to 1, so taking a constant off all
    # weights takes it off every score: the mean over these texts becomes 0.
    weights = weight.data[0]
    middle = mean([score(text, weights) for pair in comparisons for text in pair])
    return [w - middle for w in weights]


# === WHAT THE POLICY IS PAID ===

# The policy is to maximise the score, minus a price for every nat of distance:
#
#     J(pi) = E[score(y)] - beta KL(pi, pi_ref) = E[score(y) - beta log(pi(y) / pi_ref(y))]
#
# where E is the mean over names y that pi writes. A name is written symbol by symbol, and
# log(pi(y) / pi_ref(y)) is a sum over its symbols. So each symbol can be charged its own part, as
# it is written; the score is paid with the last one. The rewards of a name sum to what stands in
# the expectation. They are plain numbers: log pi depends on the policy too, but the gradient of
# log pi(y) has mean 0 over the names that pi writes, so J's gradient is right without it.


class Batch(NamedTuple):
    """Names that a policy wrote, and what judge, policy and reference gave them at that time."""

    texts: list[list[int]]
    scores: list[float]  # one for each text
    log_probs: list[float]  # one for each symbol of all texts, in order
    ref_log_probs: list[float]


def write_names(policy: GPT, reference: GPT, judge: Sequence[float], rng: random.Random) -> Batch:
    """Let the policy write names, and note what Batch holds of them; no graph is kept."""
    writer = copy_of(policy, requires_grad=False)
    texts = sample(writer, [0] * NUM_NAMES, NUM_HEADS, CONTEXT, rng)
    own, ref = [log_prob(*predict(model, texts)).data[0] for model in (writer, reference)]
    return Batch(texts, [score(text, judge) for text in texts], own, ref)


def by_text(values: Sequence[float], texts: Sequence[Sequence[int]]) -> list[list[float]]:
    """Cut a list with one value for each symbol into one list for each text."""
    rest = iter(values)
    return [[next(rest) for _ in text[1:]] for text in texts]


def compute_rewards(batch: Batch, beta: float) -> list[list[float]]:
    """For each text the rewards of its symbols: -beta times the log-ratio; the last adds the score.

    A text of 16 letters has no end mark; its score is paid with its last letter all the same.
    """
    log_ratios = list(map(sub, batch.log_probs, batch.ref_log_probs))
    rewards = [[-beta * ratio for ratio in row] for row in by_text(log_ratios, batch.texts)]
    for row, its_score in zip(rewards, batch.scores):
        row[-1] += its_score
    return rewards


# === PROXIMAL POLICY OPTIMIZATION ===

# Which symbols deserve the credit? The critic predicts, before each symbol is written, the sum of
# rewards that is still to come. The advantage of a symbol is by how much things went better than
# predicted. With gamma 1 and lambda 1 it is the sum of the rewards from there on, minus the
# prediction. With lambda 0 it waits only for one step, and the next prediction stands for the rest.
# So a large lambda lets in the luck of what was written later, a small one the critic's errors.
#
# The critic may look only at what was written before the symbol. If it saw the symbol itself, it
# would predict away just the credit that the symbol deserves.


def gae(
    rewards: Sequence[float], values: Sequence[float], gamma: float, lam: float
) -> tuple[list[float], list[float]]:
    """Generalised advantage estimation for one text -> advantages, and returns for the critic.

    delta_t = r_t + gamma V_(t+1) - V_t        A_t = delta_t + gamma lambda A_(t+1)

    Two symbols; the critic expected 0.5, then 0.7; only the last is paid, with 1:
    >>> [[round(x, 2) for x in part] for part in gae([0.0, 1.0], [0.5, 0.7], 1.0, 1.0)]
    [[0.5, 0.3], [1.0, 1.0]]
    >>> [round(x, 2) for x in gae([0.0, 1.0], [0.5, 0.7], 1.0, 0.0)[0]]
    [0.2, 0.3]
    """
    advantages = []
    next_value = advantage = 0.0  # nothing comes after the last symbol
    for reward, value in zip(reversed(rewards), reversed(values)):
        delta = reward + gamma * next_value - value
        advantage = delta + gamma * lam * advantage
        advantages.append(advantage)
        next_value = value
    advantages.reverse()
    return advantages, list(map(add, advantages, values))


def ppo_loss(
    log_probs: Tensor, old_log_probs: Sequence[float], advantages: Sequence[float], clip: float
) -> tuple[Tensor, float]:
    """-mean of min(ratio A, clipped ratio A): log-probabilities [1][N] -> loss [1][1], and the
    share of symbols that the clip leaves without a gradient.

    Schulman et al., 2017, arXiv:1707.06347, eq. 7. The first time that names are used, every ratio
    is 1, and the gradient is that of REINFORCE: -A / N for each log-probability. Each further time
    the policy has moved, and the ratio corrects for it: a symbol counts by how much more likely it
    is now. (The symbols before it remain those of the old policy; nothing corrects for them.) The
    minimum takes away the reason to go on once the ratio has moved by more than the clip in the
    direction that A wants. It does not hold the ratio there: other symbols' gradients move it too.

    Two symbols that became e^0.3 = 1.35 times as likely. The first, with A = 1, has moved enough,
    and gets no gradient; the second, with A = -1, moved the wrong way, and gets all of it.
    >>> log_probs = Tensor([[-1.0, -1.0]])
    >>> loss, share = ppo_loss(log_probs, [-1.3, -1.3], [1.0, -1.0], clip=0.2)
    >>> loss.backward()
    >>> round(loss.item(), 3), [round(d, 3) for d in log_probs.grad[0]], share
    (0.075, [0.0, 0.675], 0.5)
    """
    count = len(advantages)
    ratios = [exp(new - old) for new, old in zip(log_probs.data[0], old_log_probs)]
    limits = [min(max(ratio, 1.0 - clip), 1.0 + clip) for ratio in ratios]
    terms = list(map(mul, ratios, advantages))
    clipped_terms = list(map(mul, limits, advantages))
    loss = -sum(map(min, terms, clipped_terms)) / count
    held_back = [term > clipped for term, clipped in zip(terms, clipped_terms)]

    # d ratio / d log_prob = ratio. The clipped term is a constant: its derivative is 0.
    def pass_back(d_out: list[list[float]]) -> tuple:
        factor = -d_out[0][0] / count
        return ([[0.0 if held else factor * term for held, term in zip(held_back, terms)]],)

    return Tensor([[loss]], (log_probs,), pass_back), mean(held_back)


def actor_and_critic(
    policy: GPT, value_head: Tensor, texts: Sequence[Sequence[int]]
) -> tuple[Tensor, Tensor]:
    """Log-probabilities [1][N] and values [N][1] of the N symbols, from the same layers."""
    trunk = copy.copy(policy)
    trunk.head = identity(WIDTH)  # what comes out is then what the head reads
    x, targets = predict(trunk, texts)
    return log_prob(linear(x, policy.head), targets), linear(x, value_head)


def ppo(
    reference: GPT,
    judge: Sequence[float],
    beta: float,
    num_iterations: int,
    lr: float,
    rng: random.Random,
) -> tuple[GPT, list[dict[str, Any]]]:
    """Train a copy of the reference -> the policy, and what it wrote on the way."""
    policy = copy_of(reference, requires_grad=True)
    value_head = Tensor([[0.0] * WIDTH])  # at first it expects nothing
    parameters = [*policy.parameters(), value_head]
    optimizer = Adam(parameters, BETAS)
    history = []
    for _ in range(num_iterations):
        batch = write_names(policy, reference, judge, rng)
        column = actor_and_critic(policy, value_head, batch.texts)[1].data
        values = by_text([value for (value,) in column], batch.texts)
        estimates = [
            gae(rewards, row, GAMMA, LAMBDA)
            for rewards, row in zip(compute_rewards(batch, beta), values)
        ]
        # Whitened advantages are as large late in training as early, and for any judge. They and
        # the returns stay as they are for all passes: the policy moves, the batch does not.
        advantages = whiten([a for row, _ in estimates for a in row])
        returns = [[r] for _, row in estimates for r in row]

        shares_held_back = []
        for _ in range(NUM_EPOCHS):
            log_probs, predicted = actor_and_critic(policy, value_head, batch.texts)
            loss, held_back = ppo_loss(log_probs, batch.log_probs, advantages, CLIP)
            (loss + mse_loss(predicted, returns) * VALUE_WEIGHT).backward()
            clip_grad_norm_(parameters, 1.0)
            optimizer.step(lr)
            shares_held_back.append(held_back)
        record(history, batch, num_iterations, mean(shares_held_back))
    return copy_of(policy, requires_grad=False), history


# The clip is often taken for the whole of PPO, and for a bound on the distance. It is neither. It
# takes away a reason to go on and pulls nothing back. At LEARNING_RATE it hardly acts: the progress
# lines say how often (a mean over all passes; in the first it cannot). It matters when steps are
# large. At ten times the rate, 10 iterations end at a reward of 7.30 [results: fast.reward_ppo]
# with it, and without it at -5.95 [results: fast_unclipped.reward_ppo].
#
# In production (TRL's PPOTrainer) this loop holds four models in memory: policy, reference, judge
# and critic, of which policy and critic are trained. Here the critic is one row of weights on the
# policy's own layers. The reference needs only forward passes; if the policy is a LoRA adapter, the
# reference is the same model without it.


# === THE RIVAL ===

# REINFORCE needs no critic, no ratio and no clip. It uses each name once: one step where PPO takes
# four. All symbols of a name get the same weight: the sum of the name's rewards, minus the mean of
# the batch, in units of the batch's standard deviation. PPO was first tried on simulated robots and
# Atari games, many of which pay along the way. In RLHF the score comes at the end, and Ahmadian et
# al., 2024, found methods like REINFORCE at least as good there. GRPO, which many now use, has no
# critic either (microgrpo.py).


def reinforce(
    reference: GPT,
    judge: Sequence[float],
    beta: float,
    num_iterations: int,
    lr: float,
    rng: random.Random,
) -> tuple[GPT, list[dict[str, Any]]]:
    """Like ppo(), with the plain policy gradient of Williams, 1992."""
    policy = copy_of(reference, requires_grad=True)
    optimizer = Adam(policy.parameters(), BETAS)
    history = []
    for _ in range(num_iterations):
        batch = write_names(policy, reference, judge, rng)
        weights = whiten([sum(rewards) for rewards in compute_rewards(batch, beta)])
        # The loss is -mean(weight * log pi(y)): its gradient is all that is needed.
        log_probs = sequence_log_probs(policy, batch.texts)
        log_probs.backward([[-weight / len(weights) for weight in weights]])
        clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step(lr)
        record(history, batch, num_iterations)
    return copy_of(policy, requires_grad=False), history


# === WHAT IS POSSIBLE ===

# The policy that maximises J can be written down: pi*(y) = pi_ref(y) exp(r(y) / beta) / Z, for any
# reward r (microdpo.py derives it). Names that the reference wrote, weighted by exp(r / beta), can
# stand for names of pi*: the formula is exact, the numbers are estimates. With the judge's score
# for r they give the highest J that any training could reach; with the person's own reward they
# give the frontier, the most reward that is possible at a KL.


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


# The cheapest way to please a judge trains nothing: let the reference write n names and take the
# one with the highest score. Its KL is at most log n - (n - 1) / n, and the table shows this bound,
# so its J is at least what stands there. But each name that is kept costs n. (The row is
# computed from the names of all comparisons. The judge was fitted to two thirds of them, which may
# flatter best-of-n a little.)


def best_of_n(scores: Sequence[float], rewards: Sequence[float], n: int) -> float:
    """Mean reward of the name with the best score of n, over all ways to draw n of these names.

    >>> best_of_n([1.0, 2.0, 3.0], [10.0, 20.0, 60.0], 2)  # best: 2nd, 3rd, 3rd
    46.666666666666664
    """
    order = sorted(range(len(scores)), key=lambda i: scores[i])
    ways = [math.comb(rank, n - 1) for rank in range(len(order))]  # the others score lower
    return sum([way * rewards[i] for way, i in zip(ways, order)]) / sum(ways)


# === MEASURING ===

# Policies are measured on fresh names, at temperature 1. The rewards of single names have a
# standard deviation of about 2, so a mean over 400 names has a standard error of about 0.1. And
# each policy is trained once: a small difference between two of them may be luck.
#
# If the free policy ends badly, what is to blame: the missing price, or the judge? Put the price
# back and change nothing else, and the third policy ends at a reward of
# 7.30 [results: tied.reward_free]. Leave it out, but let the person herself be the judge, and it
# ends at 8.88 [results: true_judge.reward_free]. It takes both: a judge that errs where it has seen
# nothing, and a policy that may go there. (Even with a true judge only the price rewards variety:
# without it, a policy that always writes one name of the highest reward is an optimum.)
#
# Stopping early limits the distance too. But to know when, one must measure the person's reward,
# and in practice each such measurement costs new judgements by people. The score gives no sign.


def evaluate(
    policy: GPT, reference: GPT, judge: Sequence[float], rng: random.Random
) -> dict[str, Any]:
    """What the policy writes: mean score, gold reward, KL, share of different names, the names."""
    texts = sample(policy, [0] * NUM_SAMPLES, NUM_HEADS, CONTEXT, rng)
    own, ref = [sequence_log_probs(model, texts).data[0] for model in (policy, reference)]
    names = [to_name(text) for text in texts]
    return {
        "score": mean([score(text, judge) for text in texts]),
        "reward": mean(map(gold_reward, names)),
        "kl": mean(map(sub, own, ref)),
        "distinct": len(set(names)) / len(names),
        "names": names,
    }


def main() -> dict[str, object]:
    """Pretrain, compare, fit the judge, train three policies on its scores, and ask the person."""
    rng = random.Random(SEED)
    start = time.perf_counter()
    print("Pretraining: a GPT learns to write names. It will be the reference.")
    reference = pretrain(load_names(), rng)
    comparisons = draw_comparisons(reference, NUM_PAIRS + NUM_HELD_OUT, rng)
    judge = fit_judge(comparisons[:NUM_PAIRS])
    report_judge(judge, comparisons[NUM_PAIRS:])

    results = {}
    for title, train, *settings in (
        (f"REINFORCE, beta {BETA:g}", reinforce, BETA, ITERATIONS, REINFORCE_RATE),
        (f"PPO, beta {BETA:g}", ppo, BETA, ITERATIONS, LEARNING_RATE),
        (f"PPO, beta {FREE_BETA:g}", ppo, FREE_BETA, FREE_ITERATIONS, FREE_RATE),
    ):
        print(f"\n{title}: {settings[1]} iterations of {NUM_NAMES} names")
        policy, history = train(reference, judge, *settings, rng)
        # (A title may occur twice if a reader makes both betas equal.)
        title = title if title not in results else title + " again"
        results[title] = {**evaluate(policy, reference, judge, rng), "history": history}
    print(f"time  all of this took {time.perf_counter() - start:.1f} s")

    # Names of the reference say what it gets, and what is possible.
    ref_texts = [text for pair in comparisons for text in pair]
    scores = [score(text, judge) for text in ref_texts]
    rewards = [gold_reward(to_name(text)) for text in ref_texts]
    best_score, best_kl, _ = optimal_policy(scores, BETA)
    weights = softmax_row([value / BETA for value in scores])
    rival, tied, free = results.values()
    table = {
        "reference": (mean(scores), mean(rewards), 0.0),
        "best of 4": (best_of_n(scores, scores, 4), best_of_n(scores, rewards, 4), log(4) - 3 / 4),
        **{title: (run["score"], run["reward"], run["kl"]) for title, run in results.items()},
        f"exact optimum, beta {BETA:g}": (best_score, dot(weights, rewards), best_kl),
    }
    report_table(table, rewards)
    report_parting(tied["history"], free["history"])
    headline = {
        "reward_ref": mean(rewards),
        "reward_reinforce": rival["reward"],
        "reward_ppo": tied["reward"],
        "score_ppo": tied["score"],
        "reward_free": free["reward"],
        "score_free": free["score"],
    }
    report_conclusion(headline, table, free)
    details = {"table": table_rows(table, rewards), "results": results, "judge": judge}
    return {**headline, "details": details}


# === APPENDIX: THE REFERENCE MODEL (as in microdpo.py) ===


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


# === APPENDIX: REPORT AND HELPERS ===


def identity(size: int) -> Tensor:
    """The matrix [size][size] that changes nothing, not to be trained."""
    rows = [[float(i == j) for j in range(size)] for i in range(size)]
    return Tensor(rows, requires_grad=False)


def mean(values: Iterable[float]) -> float:
    """The mean of some numbers."""
    numbers = list(values)
    return sum(numbers) / len(numbers)


def whiten(values: Sequence[float]) -> list[float]:
    """Shift and scale to mean 0 and standard deviation 1 (equal values become 0).

    >>> whiten([1.0, 3.0])
    [-0.9999999900000002, 0.9999999900000002]
    """
    middle = mean(values)
    deviation = math.sqrt(mean([(value - middle) ** 2 for value in values]))
    return [(value - middle) / (deviation + 1e-8) for value in values]


def record(
    history: list[dict[str, Any]],
    batch: Batch,
    num_iterations: int,
    held_back: float | None = None,
) -> None:
    """Note what the names of an iteration were like; print the mean of every four iterations."""
    names = list(map(to_name, batch.texts))
    history.append(
        {
            "score": mean(batch.scores),
            "reward": mean(map(gold_reward, names)),
            "kl": (sum(batch.log_probs) - sum(batch.ref_log_probs)) / len(names),
            "held_back": held_back,
            "name": names[0],
        }
    )
    if len(history) % 4 == 0:
        keys = {"score": "score", "reward": "reward", "kl": "kl"}
        if held_back is not None:
            keys["held_back"] = "clipped"
        parts = [f"{shown} {mean([e[k] for e in history[-4:]]):.2f}" for k, shown in keys.items()]
        print(f"step {len(history):3d}/{num_iterations} | {' | '.join(parts)}", flush=True)


def report_judge(judge: Sequence[float], held_out: Sequence[tuple[list[int], list[int]]]) -> None:
    """The judge's 27 weights as bars, and how often it agrees with the person."""
    print(f"\nThe judge, fitted to {NUM_PAIRS} comparisons: its weights, best first.")
    print("Symbols with * are what the person likes; the dot is the end of a name.")
    order = sorted(range(len(judge)), key=lambda i: -judge[i])
    lines = (len(order) + 2) // 3
    unit = 12.0 / max(map(abs, judge))
    for line in range(lines):
        cells = []
        for i in order[line::lines]:
            mark = "*" if ALPHABET[i] in SOFT_LETTERS else " "
            bar = ("+" if judge[i] > 0.0 else "-") * round(abs(judge[i]) * unit)
            cells.append(f"{f'{ALPHABET[i]}{mark}{judge[i]:6.2f} {bar}':<25}")
        print(f"  {''.join(cells)}".rstrip())
    gaps = [score(won, judge) - score(lost, judge) for won, lost in held_out]
    gold_gaps = [gold_reward(to_name(won)) - gold_reward(to_name(lost)) for won, lost in held_out]
    right, gold_right = [mean([0.5 * ((g > 0) + (g >= 0)) for g in x]) for x in (gaps, gold_gaps)]
    print(f"It orders {right:.0%} of {NUM_HELD_OUT} held-out comparisons as the person did.")
    print(f"Her own formula orders {gold_right:.0%} so, since she errs.")


def objective(row: Sequence[float]) -> float:
    """J at beta BETA, from (score, reward, KL)."""
    return row[0] - BETA * row[2]


def report_table(table: dict[str, tuple[float, float, float]], rewards: Sequence[float]) -> None:
    """One line per policy."""
    print(f"\nscore: the judge's. J: score - {BETA:g} KL. possible: the most reward at this KL.")
    print("                           score       KL        J |  reward  possible")
    for title, row in table.items():
        print(
            f"{title:<24}{row[0]:8.2f} {row[2]:8.2f} {objective(row):8.2f} |"
            f"{row[1]:8.2f} {frontier_reward(rewards, row[2]):9.2f}"
        )


def table_rows(
    table: dict[str, tuple[float, float, float]], rewards: Sequence[float]
) -> dict[str, dict[str, Any]]:
    """The table as the tier's README joins it with that of microdpo."""
    rows = {}
    sampled = [0, 0, *[NUM_NAMES * n for n in (ITERATIONS, ITERATIONS, FREE_ITERATIONS)]]
    for (title, (_, reward, kl)), count in zip(table.items(), sampled):
        given = "-" if title == "reference" else f"{NUM_PAIRS} pairs"
        rows[title] = {
            "given": given + ("; 4 names for each kept" if title == "best of 4" else ""),
            "sampled": count,  # names that the policy wrote in training
            "reward": reward,
            "kl": kl,
            "frontier": frontier_reward(rewards, kl),
        }
    return rows


def report_parting(tied: Sequence[dict[str, Any]], free: Sequence[dict[str, Any]]) -> None:
    """The judge's score and the person's reward side by side, every four iterations."""
    print("\nWhile training: the judge's score as a bar, the person's reward as o between -10")
    print("and 10 (: is 0), and one of the names")
    most = max([entry["score"] for entry in [*tied, *free]] + [0.1])
    for beta, history in ((BETA, tied), (FREE_BETA, free)):
        print(f"PPO, beta {beta:g}")
        print(f"{'steps':>6}{'KL':>7}{'score':>7} {'':14}{'reward':>7}")
        for first in range(0, len(history), 4):
            rows = history[first : first + 4]
            score, reward, kl = [mean([r[key] for r in rows]) for key in ("score", "reward", "kl")]
            bar = "=" * round(max(score, 0.0) / most * 13)
            track = [" "] * 17
            track[8] = ":"
            track[round((reward + 10.0) / 20.0 * 16)] = "o"
            steps = f"{first + 1}-{first + len(rows)}"
            print(
                f"{steps:>6}{kl:7.2f}{score:7.2f} {bar:<14}{reward:7.2f} {''.join(track)}"
                f" {rows[-1]['name']}".rstrip()
            )


def report_conclusion(
    numbers: dict[str, float], table: dict[str, tuple[float, float, float]], free: dict[str, Any]
) -> None:
    """Say in words what the run has shown, whatever it has shown."""
    base, reward, free_reward = [numbers[f"reward_{key}"] for key in ("ref", "ppo", "free")]
    verb = "rose" if reward > base else "did not rise"
    print(f"\nTied to the reference, the person's reward {verb}: {base:.2f} -> {reward:.2f}.")
    if numbers["score_free"] > numbers["score_ppo"] and free_reward < base:
        print(f"Free, the score rose higher ({numbers['score_free']:.2f} against", end=" ")
        print(f"{numbers['score_ppo']:.2f}), and the reward fell to {free_reward:.2f}.")
        rewards = [entry["reward"] for entry in free["history"]]
        best = max([mean(rewards[i : i + 4]) for i in range(0, len(rewards), 4)])
        if best > base + 0.5:
            print(f"On the way its mean over 4 iterations had been as high as {best:.2f}.")
    else:
        print(f"Free, the score became {numbers['score_free']:.2f}, the reward {free_reward:.2f}.")
    rows = list(table.values())
    start, rival, tied, limit = [objective(rows[i]) for i in (0, 2, 3, 5)]
    shares_of_limit = [(value - start) / (limit - start) for value in (rival, tied)]
    best_of_4 = (objective(rows[1]) - start) / (limit - start)
    print("Of the gain in J that was possible from this judge, from equally many names and")
    print("in one run each, REINFORCE got {:.0%} and PPO {:.0%}.".format(*shares_of_limit), end=" ")
    print(f"Best of 4, untrained: {best_of_4:.0%}.")


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


def binary_cross_entropy_with_logits(logits: Tensor, targets: list[list[float]]) -> Tensor:
    """Mean over all entries of -(t log s + (1 - t) log(1 - s)) with s = sigmoid(logit): logits
    [N][M], plain targets [N][M] between 0 and 1 -> [1][1], in nats.

    -log s = softplus(-z) and -log(1 - s) = softplus(z) = softplus(-z) + z, hence
    softplus(z) - t z: no logarithm of a number that was rounded to zero.
    """
    if len(logits.data) != len(targets) or len(logits.data[0]) != len(targets[0]):
        raise ValueError(
            f"logits are {len(logits.data)} x {len(logits.data[0])}, "
            f"targets {len(targets)} x {len(targets[0])}"
        )
    count = len(targets) * len(targets[0])
    pairs = [(z, goal) for row, goals in zip(logits.data, targets) for z, goal in zip(row, goals)]
    loss = sum([softplus(z) - goal * z for z, goal in pairs]) / count

    # The slope of softplus is the sigmoid, so d_z = (s - t) / count.
    def pass_back(d_out: list[list[float]]) -> tuple:
        factor = d_out[0][0] / count
        return (
            [
                [factor * (sigmoid_of(z) - goal) for z, goal in zip(row, goals)]
                for row, goals in zip(logits.data, targets)
            ],
        )

    return Tensor([[loss]], (logits,), pass_back)


def mse_loss(x: Tensor, target: list[list[float]]) -> Tensor:
    """Mean of (x - target)^2 over all entries: x [N][M], plain target [N][M] -> [1][1]."""
    if len(x.data) != len(target) or len(x.data[0]) != len(target[0]):
        raise ValueError(
            f"x is {len(x.data)} x {len(x.data[0])}, target {len(target)} x {len(target[0])}"
        )
    errors = [list(map(sub, row, goal)) for row, goal in zip(x.data, target)]
    count = len(errors) * len(errors[0])
    loss = sum([dot(row, row) for row in errors]) / count

    def pass_back(d_out: list[list[float]]) -> tuple:
        factor = 2.0 * d_out[0][0] / count
        return ([[factor * error for error in row] for row in errors],)

    return Tensor([[loss]], (x,), pass_back)


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
