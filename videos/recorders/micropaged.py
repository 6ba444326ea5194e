"""What the film of micropaged shows: one queue, served from regions and from blocks.

The model is trained and the queue drawn as in main(). A log that also keeps pictures of the memory
is put in place of the script's. The first request's table is followed symbol by symbol.
"""

from __future__ import annotations

import random
from types import ModuleType

from tracing import recorded

EVERY = 7  # steps between two pictures while both memories run
LATER = 14  # and when only the regions still do
TINTS = "abcd"  # a picture's marks: neighbours differ


def record(script: ModuleType) -> dict:
    """Serve from three memories, and let four samples continue one prompt."""
    rng = random.Random(script.SEED)
    names = script.load_names()
    rng.shuffle(names)
    model = script.Transformer(rng)
    script.train(model, names[:-1000], rng)
    orders = script.new_orders(names[-1000:], [], script.MAX_LENGTH, rng)
    alone = [script.write_alone(model, order) for order in orders]
    prefix = next(script.windows(names[-1000:], rng))[: script.SHARED_PREFIX]

    class Watched(script.Log):
        """A log with a picture of every step."""

        def __init__(self, *of: object) -> None:
            super().__init__(*of)
            self.looks: list[dict] = []
            self.tables: list[list[int]] = []  # of the first request
            self.victim: dict = {}  # the first preemption
            self.before: dict = {}  # what every request held in the step before

        def record_step(self, running: list, memory: object) -> None:
            super().record_step(running, memory)
            held = [memory.held(request) for request in running]
            lists = [slots[: len(r.symbols)] for r, slots in zip(running, held)]
            marks = [TINTS[r.order.number % len(TINTS)] for r in running]
            picture = script.draw_memory(self.num_slots, marks, held, lists)
            if self.preempted and not self.victim:
                self.victim = {
                    "before": self.looks[-1]["picture"],
                    "after": picture,
                    "slots": self.before[self.preempted[0]],
                }
            self.before = dict(zip(running, lists))
            done = sum([r.is_finished() for r in self.requests])
            self.looks.append(
                {"step": self.steps, "picture": picture, "texts": len(running), "done": done}
            )
            if self.requests[0] in running and isinstance(memory, script.PagedMemory):
                self.tables.append(list(memory.tables[self.requests[0]].blocks))

    script.Log = Watched
    logs = script.serve_each(model, orders, script.memories(alone)[script.NUM_SLOTS])
    most, oracle, paged = [logs[kind] for kind in ("reserve the most", "oracle", "paged")]
    run = recorded("micropaged")["seeds"]["42"]["headline"]
    assert abs(most.steps / paged.steps - run["speedup"]) < 1e-9
    assert abs(oracle.steps / paged.steps - run["oracle_speedup"]) < 1e-9
    assert len(paged.preempted) and run["identical"] == 1.0

    def looks(log: object, steps: list[int]) -> list[dict]:
        return [log.looks[min(step, log.steps) - 1] for step in steps]

    both = [max(1, step) for step in range(0, paged.steps + 1, EVERY)]
    late = [*range(both[-1] + LATER, most.steps, LATER), most.steps]
    first = paged.requests[0]
    prompt = prefix[: script.SAMPLE_PROMPTS[0]]
    samples, (before, after) = script.write_samples(
        model, [script.Order(n, prompt, 2, script.MAX_LENGTH) for n in range(script.NUM_SAMPLES)]
    )
    return {
        "num_slots": script.NUM_SLOTS,
        "block_size": script.BLOCK_SIZE,
        "max_length": script.MAX_LENGTH,
        "num_requests": script.NUM_REQUESTS,
        "moment": looks(most, [script.PICTURE_STEP])[0],
        "first": {
            "prompt": script.as_text(first.order.prompt),
            "text": script.as_text(first.symbols),
            "tables": paged.tables,
            "pictures": [look["picture"] for look in paged.looks[: len(paged.tables)]],
        },
        "regions": looks(most, both + late),
        "blocks": looks(paged, both),
        "steps": {
            "regions": most.steps,
            "exact": oracle.steps,
            "blocks": paged.steps,
            "limit": script.fewest_steps(alone, script.NUM_SLOTS),
        },
        "at_once": {"regions": most.running / most.steps, "blocks": paged.running / paged.steps},
        "victim": paged.victim,
        "preempted": len(paged.preempted),
        "read_again": paged.symbols_read - script.symbols_needed(alone),
        "speedup": run["speedup"],
        "samples": {
            "prompt": script.as_text(prompt),
            "before": before,
            "after": after,
            "first": [script.as_text(r.symbols[len(prompt) : len(prompt) + 1]) for r in samples],
            "copies": run["copies"],
        },
    }
