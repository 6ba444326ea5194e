"""What the film of microembedding shows: how near other names are to one test name, step by step.

The test name is one of those whose neighbours the script prints. The first encoder is trained to
the end; the third, without negatives, until nothing moves any more. The averages over all test
names are those of the recorded run.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from math import exp
from types import ModuleType

from tracing import recorded

QUERY = "danyel"
NUM_NEIGHBOURS = 4  # by letter groups, besides the partner
NUM_STRANGERS = 60
NUM_EXAMPLES = 4  # pairs of each kind
SNAPSHOTS = (0, 2, 5, 10, 15, 20, 30, 45, 60, 90, 120, 150)
STOP = 60  # steps of the encoder without negatives


class Enough(Exception):
    """The film needs no more steps."""


def record(script: ModuleType) -> dict:
    """Look at one name with letter groups, an encoder in training, and one without negatives."""
    rng = random.Random(script.SEED)
    all_names = script.load_names()
    rng.shuffle(all_names)
    test_names = [name for pair in script.TEST_PAIRS for name in pair]
    train_names = [name for name in all_names if name not in script.TEST_NAMES]
    gallery = test_names + train_names[: script.GALLERY_SIZE - len(test_names)]
    i = test_names.index(QUERY)
    partner = test_names[i + 1 if i % 2 == 0 else i - 1]

    def order(row: list[float]) -> list[str]:
        """Names of the gallery by similarity, without the query."""
        best = sorted(range(len(gallery)), key=lambda j: -row[j])
        return [gallery[j] for j in best if gallery[j] != QUERY]

    (groups,) = script.group_similarities([QUERY], gallery)
    by_groups = order(groups)
    neighbours = [name for name in by_groups if name != partner][:NUM_NEIGHBOURS]
    spread = random.Random(script.SEED)
    strangers = spread.sample(gallery[len(test_names) :], NUM_STRANGERS)
    names = [partner, *neighbours, *strangers]
    (group_cosines,) = script.group_similarities([QUERY], names)

    # The pairs of the first batch: by sound, as train() draws them, and with slips.
    batches: list[tuple[list[str], list[str]]] = []
    for change in (script.respell, script.mistype):
        anchor_rng, change_rng = random.Random(script.SEED), random.Random(script.SEED + 1)
        anchors = anchor_rng.sample(train_names, script.BATCH_SIZE)
        partners = [script.partner_of(name, change, change_rng) for name in anchors]
        batches.append((anchors, partners))

    def watch(negatives: bool, rate: float, until: int) -> tuple[object, list[dict]]:
        """Train an encoder as main() does, and look at the query along the way."""
        encoder = script.Encoder(random.Random(script.SEED))
        found: list[dict] = []

        def look(step: int) -> None:
            (row,) = script.encoder_similarities(encoder, [QUERY], names)
            found.append({"step": step, "cosines": row})

        class Watched(real):  # type: ignore[valid-type, misc]
            """The optimiser, and a look at some steps."""

            taken = 0

            def step(self, lr: float) -> None:
                super().step(lr)
                Watched.taken += 1
                if Watched.taken in SNAPSHOTS:
                    look(Watched.taken)
                if Watched.taken == until:
                    raise Enough

        look(0)
        script.SparseAdam = Watched
        try:
            script.train(encoder, train_names, script.respell, negatives, rate)
        except Enough:
            pass
        script.SparseAdam = real
        return encoder, found

    real: Callable = script.SparseAdam
    first_loss: dict = {}
    loss = script.info_nce

    def watched_loss(anchors: object, positives: object, temperature: float) -> object:
        if not first_loss:
            first_loss["anchors"], first_loss["positives"] = anchors.data, positives.data
        return loss(anchors, positives, temperature)

    script.info_nce = watched_loss
    encoder, learned = watch(True, script.LEARNING_RATES[0], script.NUM_STEPS)
    _, collapsed = watch(False, script.LEARNING_RATES[2], STOP)
    (row,) = script.encoder_similarities(encoder, [QUERY], gallery)

    # The pull and the pushes on one anchor of the first batch: the first pair that is shown.
    cosines = [script.dot(first_loss["anchors"][0], v) for v in first_loss["positives"]]
    scores = [cosine / script.TEMPERATURE for cosine in cosines]
    total = script.log_sum_exp(scores)
    shares = [exp(score - total) for score in scores]
    run = recorded("microembedding")["seeds"]["42"]["headline"]
    return {
        "query": QUERY,
        "partner": partner,
        "neighbours": neighbours,
        "gallery": len(gallery),
        "num_test": len(test_names),
        "group_cosines": group_cosines,
        "group_rank": 1 + by_groups.index(partner),
        "rank": 1 + order(row).index(partner),
        "sound": list(zip(*batches[0]))[:NUM_EXAMPLES],
        "slips": list(zip(*batches[1]))[:NUM_EXAMPLES],
        "batch": {
            "temperature": script.TEMPERATURE,
            "cosines": cosines,
            "shares": shares,
            "pull": 1 - shares[0],
            "pushes": sum(shares[1:]),
        },
        "learned": learned,
        "collapsed": collapsed,
        "run": run,
    }
