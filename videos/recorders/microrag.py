"""What the film of microrag shows: one question is searched for, read, and read again when edited.

main() runs as it is. The question is about the currency of croatia, which the script edits, in
the first of its wordings; the wrong passage is the one that main() hands to the reader for it.
"""

from __future__ import annotations

import math
from types import ModuleType

FACT = 3  # the answer's word that tells the fact: "its currency is kuna ."


def record(script: ModuleType) -> dict:
    """Run main(), and follow one question through search and reader."""
    kept: dict = {}
    report_search, report_wrong, edit_and_ask = (
        script.report_search,
        script.report_wrong,
        script.edit_and_ask,
    )

    def keep_rankings(rankings: dict, *others: object) -> None:
        kept["rankings"] = rankings
        report_search(rankings, *others)

    def keep_wrong(facts: dict, passages: list, test: list, numbers: list, answers: dict) -> float:
        kept.update(test=test, wrong=numbers, answers=answers)
        return report_wrong(facts, passages, test, numbers, answers)

    def keep_models(encoder, reader, fusion_k, facts, passages, questions) -> float:
        kept.update(encoder=encoder, reader=reader, fusion_k=fusion_k, facts=facts)
        kept["passages"] = passages
        return edit_and_ask(encoder, reader, fusion_k, facts, passages, questions)

    script.report_search, script.report_wrong = keep_rankings, keep_wrong
    script.edit_and_ask = keep_models
    result = script.main()

    test, passages, encoder = kept["test"], kept["passages"], kept["encoder"]
    which = [(q.country, q.relation) for q in test].index(("croatia", "currency"))
    question = test[which]
    rankings = {name: ranked[which] for name, ranked in kept["rankings"].items()}
    index = script.BM25([passage.words for passage in passages])
    vectors = encoder.encode([passage.words for passage in passages]).data
    (query,) = encoder.encode([question.words]).data
    found = []
    for number in dict.fromkeys([ranked[0] for ranked in rankings.values()]):
        found.append(
            {
                "country": passages[number].country,
                "words": passages[number].words,
                "gold": number == question.gold,
                "word_scores": [index.postings.get(w, {}).get(number, 0.0) for w in question.words],
                "bm25": index.search(question.words)[number],
                "cosine": script.dot(query, vectors[number]),
                "ranks": [rankings[name].index(number) + 1 for name in ("BM25", "vectors")],
            }
        )
    for entry in found:
        entry["votes"] = [1.0 / (kept["fusion_k"] + rank) for rank in entry["ranks"]]
        entry["fused"] = sum(entry["votes"])
    ranked = sorted(found, key=lambda entry: -entry["fused"])
    assert ranked[0]["gold"] and rankings["both, fused"][0] == question.gold

    gold, wrong = passages[question.gold], passages[kept["wrong"][which]]
    readings = {}
    for name, passage, words in (
        ("right", gold, gold.words),
        ("edited", gold, script.edit(kept["facts"], gold)),
        ("wrong", wrong, wrong.words),
    ):
        (said,) = script.generate_answers(kept["reader"], [(words, question.words)])
        readings[name] = {
            "country": passage.country,
            "passage": words,
            "answer": said.words,
            "attention": said.attention[FACT],
            "gate": said.gates[FACT],
            "sure": math.prod(said.probabilities),
        }
    scores = {
        name: dict(zip(("found", "if_found", "if_not", "right"), score))
        for name, score in result["details"]["scores"].items()
    }
    return {
        "question": question.words,
        "true": question.answer[FACT],
        "num_passages": len(passages),
        "num_test": len(test),
        "fusion_k": kept["fusion_k"],
        "found": found,
        "readings": readings,
        "scores": {name: scores[name] for name in ("BM25", "vectors", "both, fused")},
        "closed_book": result["closed_book_accuracy"],
        "copied_when_wrong": result["copied_when_wrong"],
    }
