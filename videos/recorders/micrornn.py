"""What the film of micrornn shows: one sequence is read, and the gradient goes back through it.

main() runs as it is. Its nets are kept when they are trained; the GRU's gates and states for the
first probe sequence are those of the three units that the script itself prints.
"""

from __future__ import annotations

from types import ModuleType

EVERY = 25  # training accuracies are averages over so many batches


def record(script: ModuleType) -> dict:
    """Run main(), and look at the nets and the sequence that it shows."""
    nets: list = []
    curves: list[list[float]] = []
    shown: dict = {}
    train, share_right = script.train, script.share_right
    report_task = script.report_task

    def keep_net(net: object, stages: object, rate: float, rng: object) -> None:
        right: list[float] = []

        def keep_share(logits: object, answers: object) -> float:
            right.append(share_right(logits, answers))
            return right[-1]

        script.share_right = keep_share
        train(net, stages, rate, rng)
        script.share_right = share_right
        nets.append(net)
        curves.append([sum(right[i : i + EVERY]) / EVERY for i in range(0, len(right), EVERY)])

    def keep_task(sequences: list, answers: list) -> None:
        shown.update(sequences=sequences, sequence=sequences[0], answer=answers[0])
        report_task(sequences, answers)

    script.train, script.report_task = keep_net, keep_task
    result = script.main()
    details = result["details"]
    sequence = shown["sequence"]
    rnn, _, gru, _ = nets

    steps = []  # what gru_row says at every symbol, for every unit
    h = [0.0] * gru.width
    for symbol in sequence:
        a = script.linear(script.Tensor([h]), gru.w_h, gru.bias).data[0]
        new, _, z, n = script.gru_row(gru.w_x.data[symbol], a, h)
        steps.append({"old": h, "keep": z, "candidate": n, "new": new})
        h = new
    assert [s["keep"] for s in steps] == script.update_gates(gru, sequence)
    at: dict[bool, list[list[float]]] = {True: [], False: []}  # gates at capitals, at noise
    for other in shown["sequences"]:
        for gates, symbol in list(zip(script.update_gates(gru, other), other))[1:-1]:
            at[symbol < script.NUM_LETTERS].append(gates)

    def means(unit: int) -> list[float]:
        """What it keeps of its state at the second capital, and at noise."""
        return [sum([z[unit] for z in at[kind]]) / len(at[kind]) for kind in (True, False)]

    unit = min(range(gru.width), key=lambda u: means(u)[0] - means(u)[1])  # as report_gates does
    last_capital = max([i for i, s in enumerate(sequence) if s < script.NUM_LETTERS])
    return {
        "symbols": [script.SYMBOLS[i] for i in sequence],
        "answer": script.SYMBOLS[shown["answer"]],
        "steps": steps,
        "rnn_states": [h.data[0] for h in script.read(rnn, [sequence])[1]],
        "unit": unit,
        "mean_keep": means(unit),
        "held": script.LENGTH - 1 - last_capital,
        "leak": script.LEAK_KEEP,
        "guess": 1 / script.NUM_LETTERS,
        "length": script.LENGTH,
        "distance": script.DISTANCE,
        "test_lengths": script.TEST_LENGTHS,
        "num_test": script.NUM_TEST,
        "every": EVERY,
        "curves": dict(zip(details["scores"], curves)),
        "scores": details["scores"],
        "before": {name: details["before"][name] for name in ("RNN", "GRU")},
        "ratio": result["gradient_ratio"],
    }
