"""Taking the mean off the returns decides how far a network gets in balancing a pole.

A cart moves on a track, with a pole on top that tips over if nobody acts. Fifty times a second a
network chooses to push the cart to the left or to the right. Nobody knows the right answer, so
there is nothing to imitate. All that comes back is a reward of 1 for every step, up to the one in
which the pole falls. REINFORCE learns from this alone. It draws actions at random, as the network's
probabilities say, sees what came of them, and makes every action more likely in proportion to a
weight (less likely, if the weight is negative). The simplest weight is the return: the sum of all
rewards of the episode. The network's own numbers are called parameters here.

On average this moves the network the right way, but each episode is mostly noise. Two changes to
the weight leave the average update as it is. One is to leave out the rewards that came before the
action; what remains is the reward-to-go. The other is to subtract a baseline: what could be
expected anyway, here a mean. The run trains with four weights: the total return, the same minus
its mean, the reward-to-go minus its mean, and the reward-to-go minus the mean of each step. Look
at three things: how noisy the weights are at a fixed policy, and how near the mean comes to the
best constant that could be subtracted; whether only noise was taken away; and which of the four
learns to hold the pole in every training, all from the same starts and with about the same number
of steps.

In the code    In the papers      Meaning                                          Shape
states         s_t                position, velocity, angle, turning speed         [T][4], T steps
actions        a_t                0: push left, 1: push right                      T
rewards        r_t                1 for every step                                 T
policy         pi_theta(a | s)    the network: from states to logits of actions    [T][2]
total_return   R                  sum of all rewards of the episode                T, all equal
reward_to_go   G_t, R_t           sum of the rewards from step t on                T
expected       b, b_t             the baseline: what is subtracted at each step    500
weights        R - b, Psi_t, A_t  the factor of each grad log pi(a_t | s_t)        T
score          sum of e(t)        sum over the episode of grad log pi(a_t | s_t)   114 numbers

What is left out: discounting (less noise again, but another goal); a baseline that is learned by a
second network, a critic, and the clip that lets one batch be used several times (both: microppo);
the mean over several answers to one question as the baseline (microgrpo). The reward-to-go without
a baseline stands in the table of noise, but no training uses it.

A number marked [results: ...] was recorded, from this run (seed_42) or from one with one thing
changed (another seed, or one constant or function), and stands in results/microreinforce.json
under that key.

Read first: microautograd.

Papers: Barto, Sutton & Anderson, "Neuronlike Adaptive Elements That Can Solve Difficult Learning
Control Problems", 1983 (the cart and the pole). Williams, "Simple Statistical Gradient-Following
Algorithms for Connectionist Reinforcement Learning", 1992 (REINFORCE). Sutton et al., "Policy
Gradient Methods for Reinforcement Learning with Function Approximation", 2000 (the policy
gradient theorem). Weaver & Tao, "The Optimal Reward Baseline for Gradient-Based Reinforcement
Learning", 2001, arXiv:1301.2315. Greensmith et al., "Variance Reduction Techniques for Gradient
Estimates in Reinforcement Learning", 2004. Schulman et al., "High-Dimensional Continuous Control
Using Generalized Advantage Estimation", 2015, arXiv:1506.02438 (lists possible weights, Psi_t).
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from itertools import accumulate
from math import exp, log
from operator import add, mul, sub
from typing import NamedTuple

# === CONSTANTS ===

SEED = 42
MAX_STEPS = 500  # an episode ends here at the latest, after 10 seconds
HIDDEN = 16  # hidden units: 16 x 4 + 16 + 2 x 16 + 2 = 114 parameters
BATCH_EPISODES = 8  # episodes for each update
TRAINING_STEPS = 30_000  # of the cart in one training; the batch then running is finished
LEARNING_RATE = 0.03
BETAS = (0.9, 0.99)  # Adam's; 0.999 would average over more updates than there are
HALF_STEPS = 4000  # of the cart; after these a policy counts as half trained
NUM_RUNS = 4  # trainings for each of the four weights, each from a different network
NUM_TEST = 20  # fresh episodes after each training
NUM_SAMPLES = 400  # episodes to measure the noise with, and as many for the means
NUM_HALF_SAMPLES = 150  # the same at the half-trained policy, whose episodes are longer

# === THE TASK: A CART WITH A POLE ===

# The equations of motion, as in CartPole-v1 of the library Gymnasium. Learning never looks inside
# this function, so neither the world nor the reward needs to be differentiable. A policy that
# always pushes to the right holds the pole for some 9 steps (tested); none can exceed 500.

GRAVITY = 9.8  # m/s^2
TOTAL_MASS = 1.1  # kg; of this the pole has
POLE_MASS = 0.1
HALF_LENGTH = 0.5  # m, from the pole's foot to its middle
FORCE = 10.0  # N, to the left or to the right: no third choice
SECONDS = 0.02  # between two steps
MAX_POSITION = 2.4  # m, from the middle of the track to its ends
MAX_ANGLE = math.radians(12.0)  # beyond it the pole counts as fallen

# Position (m), velocity (m/s), angle (radians), turning speed (radians/s); to the right is +.
State = tuple[float, float, float, float]


def cartpole_step(state: State, action: int) -> tuple[State, bool]:
    """The state after one push, and whether the pole has fallen or the cart left the track."""
    position, velocity, angle, turning = state
    force = FORCE if action == 1 else -FORCE
    sine, cosine = math.sin(angle), math.cos(angle)
    # moment and pushed are called polemass_length and temp in Gymnasium.
    moment = POLE_MASS * HALF_LENGTH
    pushed = (force + moment * turning * turning * sine) / TOTAL_MASS
    angular_acceleration = (GRAVITY * sine - cosine * pushed) / (
        HALF_LENGTH * (4.0 / 3.0 - POLE_MASS * cosine * cosine / TOTAL_MASS)
    )
    acceleration = pushed - moment * angular_acceleration * cosine / TOTAL_MASS
    # Euler's method: position and angle still move at the speeds from before the push.
    position += SECONDS * velocity
    velocity += SECONDS * acceleration
    angle += SECONDS * turning
    turning += SECONDS * angular_acceleration
    fallen = abs(position) > MAX_POSITION or abs(angle) > MAX_ANGLE
    return (position, velocity, angle, turning), fallen


# === THE POLICY, AND PLAYING WITH IT ===

# From here to the end of TRAINING the whole algorithm can be read without a break. The policy is a
# network, 4 -> 16 -> 2. Its two outputs are logits; softmax makes them the probabilities of left
# and right. It must draw its actions: a policy that always took the likelier one would never find
# out what the other is good for. (linear and tanh, in the appendix, do what F.linear and torch.tanh
# do in PyTorch.)


class Policy:
    """From states to logits."""

    def __init__(self, rng: random.Random) -> None:
        def matrix(rows: int, columns: int, spread: float) -> Tensor:
            return Tensor([[rng.gauss(0.0, spread) for _ in range(columns)] for _ in range(rows)])

        self.weight_in = matrix(HIDDEN, 4, 0.5)
        self.bias_in = Tensor([[0.0] * HIDDEN])
        # A small weight_out gives logits near 0: at first both actions are about equally likely.
        self.weight_out = matrix(2, HIDDEN, 0.1)
        self.bias_out = Tensor([[0.0, 0.0]])

    def parameters(self) -> list[Tensor]:
        """All that training may change."""
        return list(vars(self).values())

    def forward(self, states: Sequence[State]) -> Tensor:
        """N states -> logits [N][2]."""
        # The angle stays below 0.21 radians (12 degrees). Times 5 it can reach 1, as others do.
        rows = [[position, v, 5.0 * angle, turning] for position, v, angle, turning in states]
        hidden = tanh(linear(Tensor(rows, requires_grad=False), self.weight_in, self.bias_in))
        return linear(hidden, self.weight_out, self.bias_out)


class Episode(NamedTuple):
    """What happened, step by step: T entries each. The state is the one before the action."""

    states: list[State]
    actions: list[int]
    rewards: list[float]


def play(policy: Policy, num_episodes: int, rng: random.Random) -> list[Episode]:
    """Play episodes side by side, so that one matrix product serves all that are still running.

    (In production: gymnasium.vector; simulators on a GPU run thousands of copies of the world.)
    """
    episodes = [Episode([], [], []) for _ in range(num_episodes)]
    running = [(e, tuple([rng.uniform(-0.05, 0.05) for _ in range(4)])) for e in episodes]
    while running:
        logits = policy.forward([state for _, state in running]).data
        still_running = []
        for (episode, state), row in zip(running, logits):
            action = int(rng.random() < softmax_row(row)[1])
            next_state, fallen = cartpole_step(state, action)
            episode.states.append(state)
            episode.actions.append(action)
            episode.rewards.append(1.0)
            # The time limit ends an episode as a fall does. Our goal is the return of 500 steps at
            # most, so nothing is missing. For a longer goal it only cuts the episode, and a critic
            # should guess the rest. Libraries tell the two apart (terminated, truncated).
            if not fallen and len(episode.rewards) < MAX_STEPS:
                still_running.append((episode, next_state))
        running = still_running
    return episodes


# === THE GRADIENT, FROM ACTIONS THAT WERE DRAWN ===

# We want a higher return R on average: J = E[R]. To climb, we need the gradient of J in the
# network's parameters. It seems to ask for the slope of the world, which nobody knows. But the
# parameters only decide how likely an episode is, and an episode's probability p is a product:
#
#     p(episode) = p(s_0) * product over t of pi(a_t | s_t) * P(s_t+1 | s_t, a_t)
#     grad J = sum over all episodes of R grad p = sum of p R grad log p = E[R grad log p]
#            = E[R * sum over t of grad log pi(a_t | s_t)]
#
# (Sums stand for integrals where states are continuous.) The second step is grad p = p grad log p,
# the log-derivative trick. In the last one, log p is a sum, and of its terms only log pi depends on
# the parameters: the world drops out. An expectation can be estimated: play, and average. Williams
# (1992) writes the update as alpha (r - b) * sum of e(t), where r is what is R here, and e(t) is
# grad log pi at step t. So the paper that named REINFORCE already has a baseline b.
#
# Why may one subtract something? Because grad log pi has expectation zero, at every state:
#
#     E[grad log pi(a | s)] = sum over a of pi(a | s) grad log pi(a | s)
#                           = sum over a of grad pi(a | s) = grad 1 = 0
#
# A number that is fixed before the action is drawn is a constant in this sum. It may be added to
# the action's weight or taken away: in expectation it is multiplied by zero. So we may do this:
#
#     reward-to-go   the rewards of the past are fixed before the action: leave them out (causality)
#     baseline       subtract a constant, or any function of the state and of the time
#
# The rewards from the action on must stay. Trainings that take the rewards so far instead end at
# 27 [results: wrong_way.return_to_go_mean] steps minus one mean, and at
# 20 [results: wrong_way.return_to_go_step] minus the mean of each step: nothing is learned.
#
# What this is good for can be seen in numbers. One decision; left returns 10 and right returns 12.
# The policy has one logit z and chooses right with probability sigmoid(z) = 0.5. The slope of
# log pi in z is then +0.5 for right and -0.5 for left.
#
#     weight          if left was drawn       if right was drawn       mean     variance
#     return           10 * -0.5 = -5          12 * 0.5 = +6            0.5      30.25
#     return - 11      -1 * -0.5 = +0.5         1 * 0.5 = +0.5          0.5       0
#
# In the first row, whatever was drawn becomes more likely. Right wins only because it is pushed a
# little harder, and only after many draws. In the second row each single draw points the right way.
# With the pole it is the same: all returns are positive, and only their differences teach.


def total_return(rewards: Sequence[float]) -> list[float]:
    """The sum of all rewards, once for every step.

    >>> total_return([1.0, 1.0, 1.0])
    [3.0, 3.0, 3.0]
    """
    return [sum(rewards)] * len(rewards)


def reward_to_go(rewards: Sequence[float]) -> list[float]:
    """For every step the sum of its own reward and all later ones.

    >>> reward_to_go([1.0, 1.0, 1.0])
    [3.0, 2.0, 1.0]
    """
    return list(accumulate(rewards[::-1]))[::-1]


def policy_gradient_loss(
    policy: Policy, episodes: Sequence[Episode], weights: Sequence[float]
) -> Tensor:
    """-sum over all steps of weight * log pi(action | state): [1][1].

    It is cross-entropy with the drawn actions as the targets, each counted by its weight. Only its
    gradient means something, at the policy that played. Its value need not fall while the policy
    gets better. In PyTorch: -(Categorical(logits=logits).log_prob(actions) * weights).sum(), with
    weights that carry no gradient (detach them, if a network computed them).
    """
    states = [state for episode in episodes for state in episode.states]
    actions = [action for episode in episodes for action in episode.actions]
    log_probs = log_prob(policy.forward(states), actions)  # [1][N]
    minus_weights = Tensor([[-weight for weight in weights]], requires_grad=False)
    return linear(log_probs, minus_weights)  # the dot product of two rows


# === TRAINING ===

# Play eight episodes, make one update along the gradient, throw the episodes away, and play the
# next eight with the changed policy. They cannot be used twice as they are: the expectation above
# is over actions that the policy draws as it is now (on-policy). microppo uses a batch several
# times. The baselines below take each episode's returns (rows) and give one number per step.

Rows = list[list[float]]  # a list of numbers for each episode, one number for each of its steps


def no_baseline(rows: Rows) -> list[float]:
    """The baseline 0: nothing is subtracted."""
    return [0.0] * MAX_STEPS


def mean_of_all(rows: Rows) -> list[float]:
    """One constant for every step: the mean over all steps of all episodes.

    Long episodes count more, as with a.mean() over one flat batch.
    """
    return [sum(map(sum, rows)) / sum(map(len, rows))] * MAX_STEPS


def mean_of_each_step(rows: Rows) -> list[float]:
    """For each step the mean over the episodes that got that far; 0 where none did.

    >>> mean_of_each_step([[4.0, 2.0], [2.0]])[:3]
    [3.0, 2.0, 0.0]
    """
    columns = [[row[step] for row in rows if len(row) > step] for step in range(MAX_STEPS)]
    return [sum(column) / len(column) if column else 0.0 for column in columns]


# The arms that are compared. The first function is called credit below: how much of the rewards an
# action is given. The second is the baseline.
ARMS: dict[str, tuple[Callable, Callable]] = {
    "total return": (total_return, no_baseline),
    "total return - mean": (total_return, mean_of_all),
    "reward-to-go - mean": (reward_to_go, mean_of_all),
    "reward-to-go - step's mean": (reward_to_go, mean_of_each_step),
}


def step_weights(episodes: Sequence[Episode], credit: Callable, baseline: Callable) -> list[float]:
    """One weight for every step of the batch, with a root mean square of 1.

    The means are the batch's own, as in most code: (a - a.mean()) / a.std(). They contain the
    return of the very episode that they judge, so they are not quite fixed before its actions. If
    all n episodes count alike, the expected gradient keeps its direction and is 1 - 1/n as long;
    here long episodes count more and batches are scaled, so this holds only roughly. (RLOO, in
    microgrpo, leaves the episode itself out of its mean.) In a batch of one, the total return is
    its own mean: every weight is 0, the policy never changes, and it holds the pole for
    22 [results: one_episode.return_total_mean] steps.
    """
    rows = [credit(episode.rewards) for episode in episodes]
    expected = baseline(rows)
    weights = [weight - b for row in rows for weight, b in zip(row, expected)]
    # Returns grow up to 500 in a training. Adam cancels the size of its gradients only while this
    # size stays the same, so every batch is scaled, in all arms alike. After subtracting the mean,
    # this is dividing by the standard deviation. It has a price: nearly equal returns are blown up
    # to full size. If all eight episodes reach the time limit, the total return minus its mean is 0
    # everywhere: the batch teaches nothing, and there is nothing to divide by. (Adam's running mean
    # still moves the policy a little.)
    size = math.sqrt(dot(weights, weights) / len(weights))
    return [weight / size for weight in weights] if size > 0.0 else weights


def train(policy: Policy, arm: str, max_steps: int, rng: random.Random) -> list[tuple[int, float]]:
    """Train until at least max_steps have been played; the last batch is finished.

    Returns (steps so far, mean return of the batch) for every batch.
    """
    optimizer = Adam(policy.parameters(), BETAS)
    history: list[tuple[int, float]] = []
    num_steps = 0
    while num_steps < max_steps:
        episodes = play(policy, BATCH_EPISODES, rng)
        weights = step_weights(episodes, *ARMS[arm])
        loss = policy_gradient_loss(policy, episodes, weights)
        # The mean over steps. J asks for the mean over episodes: the same direction in each batch.
        (loss * (1.0 / len(weights))).backward()
        optimizer.step(LEARNING_RATE)
        num_steps += len(weights)
        history.append((num_steps, len(weights) / BATCH_EPISODES))  # one reward for each step
    return history


# Why a mean for each step? Take two episodes that both last 500 steps. Nothing tells them apart, so
# nothing should be learned from them, and total return - mean is indeed 0 everywhere. But
# reward-to-go falls from 500 to 1 in both. Minus its mean, it makes all early actions more likely
# and all late ones less, whatever they were. In expectation this does no harm: a number that
# depends only on the time is fixed before the action is drawn. But it is noise, and the mean of
# each step takes it away. (Once all other episodes have ended, the longest is its own mean, and its
# weights are 0. In a batch of eight, these means are rough.) Does it matter in training? Seed 42
# cannot tell; other seeds, and so other networks, can (steps held, mean of 4 trainings):
#
#     seed   reward-to-go - mean                        reward-to-go - step's mean
#     42     500 [results: seed_42.return_to_go_mean]   500 [results: seed_42.return_to_go_step]
#     1      405 [results: seed_1.return_to_go_mean]    500 [results: seed_1.return_to_go_step]
#     2      496 [results: seed_2.return_to_go_mean]    498 [results: seed_2.return_to_go_step]
#     3      449 [results: seed_3.return_to_go_mean]    500 [results: seed_3.return_to_go_step]
#
# Total return - mean holds 495 [results: seed_1.return_total_mean] on seed 1 and 500 on the others.
# So with one mean for all steps, leaving out the past did not hold the pole longer in the end (but
# three of the four curves that this run prints for it reach @ sooner).
#
# One can go on and ask what is to be expected in this very state, V(s), and let a second network
# learn that: a critic. The weight is then an estimate of the advantage. It costs another network,
# and its errors. It is often believed that a baseline must be a critic; the means show that it need
# not be. In production: A2C and PPO in stable-baselines3 have a critic; RLOO and GRPO in trl train
# language models with means. (There a step is a token, and if the only reward comes at the end of
# the answer, reward-to-go and total return are the same.)
#
# Is the comparison fair to the total return? These are its results (steps held) with three
# learning rates, and at 0.03 without scaling the weights. Beside them the mean is taken off:
#
#     rate       total return                           total return - mean
#     0.01       255 [results: low_rate.return_total]   397 [results: low_rate.return_total_mean]
#     0.03       295 [results: seed_42.return_total]    500 [results: seed_42.return_total_mean]
#     0.1        377 [results: high_rate.return_total]  500 [results: high_rate.return_total_mean]
#     unscaled   304 [results: unscaled.return_total]   500 [results: unscaled.return_total_mean]
#
# The mean wins in every row, and the scaling of the weights is not the reason. All this holds for
# 30,000 steps. The total return learns too (untrained: 27); longer trainings were not run.

# === MEASURING THE NOISE ===

# Which weight is less noisy? The gradients of two trainings cannot be compared: they belong to
# different policies. So one policy is held fixed, and each of 400 of its episodes (150 when it is
# half trained) gives a gradient of its own. Their variance, summed over all 114 numbers, is the
# noise. The squared length of their mean is the signal. It must be looked at too: divide all
# rewards by ten, and the noise falls to a hundredth, but so does the signal. (The table shows the
# signal of the untrained policy only.) With a constant b subtracted, an episode's gradient is
#
#     sum over t of (w_t - b) grad log pi  =  g - b e
#
# where w_t is the weight without a baseline, g the sum of w_t grad log pi, and e the score, the sum
# of grad log pi alone. So subtracting b takes b e away, whose expectation is 0, and the noise is a
# parabola in b. It is least at b = covariance(g, e) / variance(e): no constant leaves less noise.
# (Greensmith et al. 2004 work out best baselines; Weaver & Tao 2001 describe a setting in which the
# best constant is the mean reward.)
#
# How to read the table: an update averages 8 episodes, which divides the noise by 8. Untrained, by
# the total return, 71,938 / 8 = 8,992 is left, 3.6 times the signal of 2,531. By reward-to-go
# minus the mean of each step it is 8,660 / 8 = 1,083, less than half of 2,481. The mean is almost
# the best constant for the total return (20,492 to 20,318), but not for reward-to-go, which changes
# along the episode (half trained 4,363,420 to 3,045,359). Untrained, one mean does as well as a
# mean for each step (8,441 to 8,660). The latter is ahead once episodes are long.

# The names of two differences of gradients: what was taken away. Their signal should be 0.
PAST = "the rewards of the past"  # total return minus reward-to-go
MEAN = "the mean of reward-to-go"  # reward-to-go minus (reward-to-go - mean)


def episode_gradients(policy: Policy, episodes: Sequence[Episode], weights: Rows) -> Rows:
    """For each episode by itself the sum over its steps of weight * grad log pi: 114 numbers."""
    gradients = []
    for episode, row in zip(episodes, weights):
        policy_gradient_loss(policy, [episode], row).backward()
        gradients.append([-d for p in policy.parameters() for d_row in p.grad for d in d_row])
        for parameter in policy.parameters():
            parameter.grad = None
    return gradients


def covariance(a: Rows, b: Rows) -> float:
    """Of two lists of gradients, summed over the 114 numbers. covariance(a, a) is the noise."""
    mean_a, mean_b = column_means(a), column_means(b)
    centered = [(list(map(sub, x, mean_a)), list(map(sub, y, mean_b))) for x, y in zip(a, b)]
    return sum([dot(x, y) for x, y in centered]) / (len(a) - 1)


def squared_mean(gradients: Rows) -> float:
    """The squared length of the mean: the signal. What noise alone adds to it is taken off.

    So where there is no signal, it may come out a little below 0.
    """
    mean = column_means(gradients)
    return dot(mean, mean) - covariance(gradients, gradients) / len(gradients)


def column_means(rows: Rows) -> list[float]:
    """[N][D] -> D means.

    >>> column_means([[1.0, 4.0], [3.0, 4.0]])
    [2.0, 4.0]
    """
    return [sum(column) / len(rows) for column in zip(*rows)]


def subtract(a: Rows, b: Rows, factor: float = 1.0) -> Rows:
    """a - factor * b."""
    return [[x - factor * y for x, y in zip(*rows)] for rows in zip(a, b)]


def measure_noise(
    policy: Policy, num_episodes: int, rng: random.Random
) -> dict[str, tuple[float, float]]:
    """(noise, signal) of the gradient under every weight, and of the parts that are taken away."""
    episodes, others = [play(policy, num_episodes, rng) for _ in range(2)]
    score = episode_gradients(policy, episodes, [[1.0] * len(e.rewards) for e in episodes])
    gradients: dict[str, Rows] = {}
    for name, credit in (("total return", total_return), ("reward-to-go", reward_to_go)):
        rows = [credit(episode.rewards) for episode in episodes]
        # The means come from other episodes, so that they are fixed before these are played. The
        # best constant may cheat: it is computed from the very episodes on which it is judged.
        other_rows = [credit(episode.rewards) for episode in others]
        plain = episode_gradients(policy, episodes, rows)
        best = covariance(plain, score) / covariance(score, score)
        gradients[name] = plain
        gradients[f"{name} - mean"] = subtract(plain, score, mean_of_all(other_rows)[0])
        gradients[f"{name} - best constant"] = subtract(plain, score, best)
    expected = mean_of_each_step(other_rows)  # of reward-to-go, which came last
    rows = [list(map(sub, row, expected)) for row in rows]
    gradients["reward-to-go - step's mean"] = episode_gradients(policy, episodes, rows)
    gradients[PAST] = subtract(gradients["total return"], gradients["reward-to-go"])
    gradients[MEAN] = subtract(gradients["reward-to-go"], gradients["reward-to-go - mean"])
    return {name: (covariance(g, g), squared_mean(g)) for name, g in gradients.items()}


# === THE RUN ===

# All four weights start from the same networks and the same first batch of episodes. One training
# says little, since it may be lucky. So there are several for each weight, and the worst is shown
# too. The half-trained policy is a fifth network, trained by total return - mean. It is the same
# for all rows of the noise table.


def mean_return(episodes: Sequence[Episode]) -> float:
    """How many steps the pole stayed up, on average."""
    return sum([sum(episode.rewards) for episode in episodes]) / len(episodes)


def main() -> dict[str, object]:
    """Measure the noise of each weight, train with each, and show which policies hold the pole."""
    rng = random.Random(SEED)
    run_seeds = [rng.randrange(2**32) for _ in range(NUM_RUNS)]
    untrained, half_trained = Policy(random.Random(run_seeds[0])), Policy(rng)
    print(f"A cart with a pole, {1 / SECONDS:.0f} pushes a second, at most {MAX_STEPS} steps.")
    num_numbers = sum([len(p.data) * len(p.data[0]) for p in untrained.parameters()])
    print(f"The policy is a network of {num_numbers} numbers.")
    start = time.perf_counter()
    train(half_trained, "total return - mean", HALF_STEPS, rng)
    noise = measure_noise(untrained, NUM_SAMPLES, rng)
    half_noise = measure_noise(half_trained, NUM_HALF_SAMPLES, rng)
    floor, half_way = [
        mean_return(play(p, NUM_SAMPLES // 4, rng)) for p in (untrained, half_trained)
    ]
    report_noise(noise, half_noise, floor, half_way)
    print(f"time  measuring took {time.perf_counter() - start:.1f} s")

    print_curve_heading()
    start = time.perf_counter()
    returns: dict[str, list[float]] = {arm: [] for arm in ARMS}
    policies: dict[str, list[Policy]] = {arm: [] for arm in ARMS}
    for arm in ARMS:
        for seed in run_seeds:
            run_rng = random.Random(seed)
            policy = Policy(run_rng)
            history = train(policy, arm, TRAINING_STEPS, run_rng)
            returns[arm].append(mean_return(play(policy, NUM_TEST, run_rng)))
            policies[arm].append(policy)
            print_curve(arm, history, returns[arm])
    print(f"time  training took {time.perf_counter() - start:.1f} s")

    report_returns(returns, floor)
    worst = {
        f"{arm} (worst)": policies[arm][returns[arm].index(min(returns[arm]))]
        for arm in ("total return", "total return - mean")
    }
    report_maps({"untrained": untrained, **worst})
    report_film(worst)
    means = [sum(values) / len(values) for values in returns.values()]
    keys = ("return_total", "return_total_mean", "return_to_go_mean", "return_to_go_step")
    headline = dict(zip(keys, means))
    step = "reward-to-go - step's mean"
    headline["noise_ratio"] = noise["total return"][0] / noise[step][0]
    headline["half_share"] = half_noise[step][0] / half_noise["reward-to-go - mean"][0]
    report_conclusion(headline, returns, noise)
    return {**headline, "details": {"returns": returns, "noise": noise, "half": half_noise}}


# === APPENDIX: REPORT AND HELPERS ===


def report_noise(
    noise: dict[str, tuple[float, float]],
    half_noise: dict[str, tuple[float, float]],
    floor: float,
    half_way: float,
) -> None:
    """The table of noise and signal; then the parts that were taken away."""
    print("\nThe gradient of one episode, measured at two policies that are held fixed:")
    print(f"untrained ({floor:.0f} steps per episode) and half trained ({half_way:.0f} steps)")
    print("noise: variance; signal: squared length of the mean (equal but for luck)")
    print(f"{'':<34}untrained            half trained")
    print(f"{'weight':<28}{'noise':>10}{'signal':>10}{'noise':>17}")
    for name, (variance, signal) in noise.items():
        if name == PAST:
            print("what was taken away:")
        print(f"{name:<28}{variance:>10,.0f}{signal:>10,.0f}{half_noise[name][0]:>17,.0f}")


def print_curve_heading() -> None:
    """What the curves show."""
    print(f"\n{NUM_RUNS} trainings for each weight, {TRAINING_STEPS:,} steps of the cart each")
    print(f"left to right: steps played; blank: falls at once, @: {MAX_STEPS} steps held")


def print_curve(arm: str, history: Sequence[tuple[int, float]], returns: Sequence[float]) -> None:
    """One training as a line: the batches' mean return on a common scale."""
    columns = 36
    values = []
    for column in range(columns):
        reached = (column + 1) * TRAINING_STEPS / columns
        values.append(next(value for steps, value in history if steps >= reached))  # that batch
    curve = sparkline([0.0, MAX_STEPS, *values])[2:]  # so that all lines have one scale
    name = arm if len(returns) == 1 else ""
    print(f"{name:<27} |{curve}|{returns[-1]:6.0f} steps", flush=True)


def report_returns(returns: dict[str, list[float]], floor: float) -> None:
    """Floor, the four weights, ceiling."""
    print(f"\nSteps that the pole is held after training ({NUM_TEST} fresh episodes each)")
    print(f"{'weight':<28}{'mean':>8}{'worst':>8}{'best':>8}")
    print(f"{'untrained':<28}{floor:8.0f}")
    for arm, values in returns.items():
        mean = sum(values) / len(values)
        print(f"{arm:<28}{mean:8.0f}{min(values):8.0f}{max(values):8.0f}")
    print(f"{'time limit':<28}{MAX_STEPS:8d}")


def report_maps(policies: dict[str, Policy]) -> None:
    """The probability of pushing right, by angle (across) and turning speed (upwards)."""
    print("\nProbability of a push to the right (blank 0, @ 1), cart at rest in the middle")
    print("across: the pole's angle, -12 to 12 degrees; upwards: its turning, left to right")
    pictures = []
    for policy in policies.values():
        rows = []
        for line in range(7):
            turning = 1.5 - 0.5 * line
            states = [(0.0, 0.0, MAX_ANGLE * (k - 5) / 5, turning) for k in range(11)]
            rows.append([softmax_row(row)[1] for row in policy.forward(states).data])
        pictures.append(shade(rows))
    for row in (policies, *zip(*pictures)):
        print("".join([f"{text:<26}" for text in row]).rstrip())


def draw_frame(state: State) -> str:
    """The cart on its track, its pole (upright or leaning), and the pole's angle in degrees.

    >>> draw_frame((0.0, 0.0, 0.1, 0.0))
    '|----------[/]----------|  +6'
    """
    position, _, angle, _ = state
    pole = "|" if abs(angle) < MAX_ANGLE / 4 else "/" if angle > 0.0 else "\\"
    place = min(max(round((position / MAX_POSITION + 1.0) * 10), 0), 20)
    track = "-" * place + f"[{pole}]" + "-" * (20 - place)
    return f"|{track}|{round(math.degrees(angle)):+4d}"


def report_film(policies: dict[str, Policy]) -> None:
    """One episode of each policy, ten pictures each, side by side."""
    strips = []
    for policy in policies.values():
        (episode,) = play(policy, 1, random.Random(SEED))
        last, fallen = cartpole_step(episode.states[-1], episode.actions[-1])
        states = [*episode.states, last]
        strip = []
        for k in range(10):
            step = round(k * (len(states) - 1) / 9)
            strip.append(f"{step * SECONDS:5.2f} s {draw_frame(states[step])}")
        strip.append(f"{'lost' if fallen else 'still up'} after {len(episode.rewards)} steps")
        strips.append(strip)
    print("\nOne episode of each from the same start: time, cart and pole, angle in degrees")
    for row in (policies, *zip(*strips)):
        print("".join([f"{text:<41}" for text in row]).rstrip())


def report_conclusion(
    headline: dict[str, float],
    returns: dict[str, list[float]],
    noise: dict[str, tuple[float, float]],
) -> None:
    """Say in words what the run has shown, whatever it has shown."""
    step, signal = "reward-to-go - step's mean", noise["reward-to-go - mean"][1]
    ratio, half_share = headline["noise_ratio"], headline["half_share"]
    print(
        f"\nUntrained, the gradient by the total return has {ratio:.1f} times the noise of that by"
    )
    print("reward-to-go minus the mean of each step.")
    if max([abs(noise[part][1]) for part in (PAST, MEAN)]) < 0.2 * signal:
        print("What was taken away held hardly any signal: all these weights point one way.")
    best = noise["total return - best constant"][0] / noise["total return - mean"][0]
    print(f"For the total return, the best constant leaves {best:.0%} of the mean's noise.")
    total, total_mean = headline["return_total"], headline["return_total_mean"]
    print(f"Trained with the total return, the pole is held for {total:.0f} steps;")
    decides = ": one subtraction." if total_mean > total + 50.0 else "."
    print(f"with the total return minus its mean, for {total_mean:.0f}{decides}")
    one, each = min(returns["reward-to-go - mean"]), min(returns[step])
    print(
        f"By reward-to-go, the worst of {NUM_RUNS} trainings ends at {one:.0f} steps with one mean,"
    )
    print(f"and at {each:.0f} with means for each step.")
    if half_share < 0.9:
        print(
            f"(Half trained, these leave {half_share:.0%} of the noise that the one mean leaves.)"
        )


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


def elementwise(x: Tensor, function: Callable[[float], float], slope: Callable) -> Tensor:
    """function of every entry of x [N][M]; slope(input, output) is its derivative."""
    data = [list(map(function, row)) for row in x.data]

    def pass_back(d_out: list[list[float]]) -> tuple:
        return (
            [
                list(map(mul, d_row, map(slope, x_row, y_row)))
                for d_row, x_row, y_row in zip(d_out, x.data, data)
            ],
        )

    return Tensor(data, (x,), pass_back)


def tanh(x: Tensor) -> Tensor:
    """tanh, entry by entry. Its slope is 1 - tanh(x)^2."""
    return elementwise(x, math.tanh, lambda _, y: 1.0 - y * y)


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


# === APPENDIX: PICTURES (common/pictures.py) ===

SHADES = " .:-=+*#%@"  # from empty to full


def shade(rows: Sequence[Sequence[float]], low: float = 0.0, high: float = 1.0) -> list[str]:
    """A matrix [H][W] as H lines of 2 W characters: low is blank, high is @.

    >>> shade([[0.0, 0.5, 1.0]])
    ['  ==@@']
    """
    top = len(SHADES) - 1
    lines = []
    for row in rows:
        levels = [(value - low) / (high - low) * top for value in row]
        lines.append("".join([2 * SHADES[min(max(int(level), 0), top)] for level in levels]))
    return lines


def sparkline(values: Sequence[float]) -> str:
    """One character for each value, from the smallest (blank) to the largest (@).

    >>> sparkline([0, 1, 2, 9])
    ' .:@'
    """
    low, high = min(values), max(values)
    top = len(SHADES) - 1
    return "".join([SHADES[int((v - low) / ((high - low) or 1.0) * top)] for v in values])


if __name__ == "__main__":
    main()
