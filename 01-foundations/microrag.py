"""A small model answers questions about countries it never saw if it finds the right passage.

A language model can know a fact in two ways. It may have learned it: then the fact is spread over
the model's weights (parametric memory), and only training changes it. Or it may look it up: then
the fact stands in a text (non-parametric memory), a search engine finds the text, and the model
reads the answer off it. The second way is called retrieval-augmented generation, RAG.

The run writes 160 short passages about 80 countries and asks 12 questions about each country. 40
countries train the models, 8 set one constant of the search, 32 are the test: no model was ever
trained on a question about these. Three searches compete: by words (BM25), by learned vectors,
and by both. A reader then turns the passage that was found and the question into a sentence, such
as "its currency is kuna .". The share of right answers is how often the right passage is found,
times how often it is then read correctly, plus what is right by luck. Look at four things: which
kind of mistake each search makes; how small the luck is; what the reader says when it is handed a
wrong passage; what it says when one word of a passage is edited.

In the code   In the papers   Meaning                                              Shape
idf           IDF             how rare a word is among the passages                a number
fusion_k      k               rank fusion: the larger, the less a first place      a number
                              counts
q, k, v       Q, K, V         attention: what each of N answer words looks for;    [N][24]
                              what each of M passage and question words offers,    [M][24]
                              and what it says                                     [M][24]
attention     a^t             how much an answer word looks at each word of its    N lists
                              passage and question
gate          p_gen           probability that the next word is generated, not     a number
                              copied; gate_logit is the same before the sigmoid
logits        P_vocab         scores of the V words that can be generated          [N][V]
source        x               the passage's words, then the question's             a list

What is left out: passages longer than a sentence, which must be cut into chunks that overlap;
reading several passages at once and training the search through the reader (Lewis et al. do both);
a model that was trained on other text before; declining to answer.

A number marked [results: ...] was recorded from another run, with one thing changed.

Read first: microembedding, microgpt.

Papers: Robertson & Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond", 2009.
Karpukhin et al., "Dense Passage Retrieval", 2020, arXiv:2004.04906. Cormack et al., "Reciprocal
Rank Fusion", 2009. See et al., "Get To The Point: Summarization with Pointer-Generator Networks",
2017, arXiv:1704.04368. Lewis et al., "Retrieval-Augmented Generation for Knowledge-Intensive NLP
Tasks", 2020, arXiv:2005.11401. Sciavolino et al., "Simple Entity-Centric Questions Challenge
Dense Retrievers", 2021, arXiv:2109.08535. Longpre et al., "Entity-Based Knowledge Conflicts in
Question Answering", 2021, arXiv:2109.05052. Thakur et al., "BEIR", 2021, arXiv:2104.08663. Liu et
al., "Lost in the Middle: How Language Models Use Long Contexts", 2023, arXiv:2307.03172.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Sequence
from math import exp, log
from operator import add, mul, sub
from typing import NamedTuple

# === CONSTANTS ===

SEED = 42
NUM_TRAIN = 40  # countries to learn from
NUM_TUNE = 8  # countries to choose fusion_k on; all others are the test
K1 = 1.5  # BM25: how soon repetitions of a word stop counting
B = 0.75  # BM25: how much a passage's length counts, from 0 to 1
FUSION_K_CHOICES = (1, 2, 5, 10, 20, 60)  # 60 is Cormack et al.'s, and Elasticsearch's default

DENSE_WIDTH = 32  # entries of a text's vector
DENSE_STEPS = 150
DENSE_BATCH = 32  # questions per step, so 31 wrong passages for each
DENSE_RATE = 0.02  # learning rate
TEMPERATURE = 0.1  # a cosine of 1 becomes a logit of 10, and e^10 outweighs 31 times e^0

WIDTH = 24  # entries of a word's vector in the reader
READER_STEPS = 300
READER_BATCH = 4  # questions per step
READER_RATE = 0.03  # learning rate at the start; it falls to 0 in a straight line
STAND_IN_SHARE = 0.5  # share of training questions whose names are replaced
NUM_STAND_INS = 24  # words that replace names; a question needs 5 of them
ANSWER_LENGTH = 5  # words, the full stop included

CLOSED_STEPS = 120  # training of the model without passages
CLOSED_BATCH = 32  # questions per step
CLOSED_RATE = 0.03  # it falls to 0 in a straight line, too

# === THE PASSAGES AND THE QUESTIONS ===

# Every country has two passages, each written in one of three ways, and 12 questions: 4 relations
# in 3 wordings (an appendix has them all). Most share with their passage nothing but the country's
# name and words such as "is" and "the".
#
#     passage, kind "place"   the seat of government of croatia is zagreb . croatia is part of ...
#     passage, kind "life"    people in croatia speak croatian and pay with the kuna .
#     question                which money do people use in croatia
#     answer                  its currency is kuna .
#
# A question also has its relation ("currency") and gold, the number of the passage to be found. The
# facts are of 2022; two have changed since, and the edit at the end of the run uses these.

Pairs = list[tuple[list[str], list[str]]]  # (words of a passage, words of a question), ...
Windows = list[tuple[str, str, str]]  # (word, word before it, word before that), ...


# === SEARCH BY WORDS: BM25 ===

# A passage scores for each word that it shares with the question. Three ideas make the score:
#   - A rare word says more than a common one: idf = ln(1 + (N - n + 0.5) / (n + 0.5)) for a word
#     in n of N passages. With N = 160, a country's name (n = 2) weighs 4.2, a word in half of the
#     passages 0.7.
#   - Each repetition says less: tf (k1 + 1) / (tf + k1) is 1, 1.43, 1.67 for tf = 1, 2, 3
#     occurrences and k1 = 1.5, and never more than k1 + 1 = 2.5.
#   - A long passage holds more words by chance: k1 is multiplied by 1 - b + b * length / mean
#     length. At b = 0.75 and twice the mean length, one occurrence scores 0.69 instead of 1.
# Lucene, Elasticsearch and bm25s (method="lucene") leave out the constant factor k1 + 1, which
# changes no order.


class BM25:
    """An inverted index: for every word the passages that hold it, and what it scores there."""

    def __init__(self, texts: list[list[str]]) -> None:
        mean_length = sum(map(len, texts)) / len(texts)
        self.postings: dict[str, dict[int, float]] = {}
        for number, words in enumerate(texts):
            for word in set(words):
                self.postings.setdefault(word, {})[number] = float(words.count(word))
        # All that does not depend on the question is computed once: counts turn into scores here.
        for entries in self.postings.values():
            idf = log(1.0 + (len(texts) - len(entries) + 0.5) / (len(entries) + 0.5))
            for number, tf in entries.items():
                length = len(texts[number]) / mean_length
                entries[number] = idf * tf * (K1 + 1.0) / (tf + K1 * (1.0 - B + B * length))

    def search(self, words: list[str]) -> dict[int, float]:
        """The passages that share a word with the question, the best first, with their scores.

        One of two passages of equal length has "lima": idf = ln(1 + 1.5 / 1.5) = ln 2.
        >>> BM25([["lima", "in", "peru"], ["sol", "in", "peru"]]).search(["lima"])
        {0: 0.6931471805599453}
        """
        scores: dict[int, float] = {}
        for word in words:
            for number, value in self.postings.get(word, {}).items():
                scores[number] = scores.get(number, 0.0) + value
        return dict(sorted(scores.items(), key=lambda item: -item[1]))


# === SEARCH BY VECTORS ===

# Words fail where a question is worded differently. "what tongue is spoken in croatia" shares with
# the passage that answers it, "people in croatia speak croatian ...", only "in" and "croatia". The
# other passage on croatia has "croatia" and "is" twice, and BM25 takes it: 6.2 against 4.8. And
# several common words can outweigh the name: "which city is the seat of government of peru" finds
# another country's passage that has these words, if that on peru has others. So every word gets a
# vector, a text the sum of its words' vectors scaled to length 1, and training moves the vectors
# until questions lie close to the passages that answer them. (Real systems put a transformer in
# the place of the sum: Karpukhin et al., 2020, took two BERTs.)
#
# Why should this work for a country that training never met? Its name keeps its random vector, in
# the question and in the passages alike; only the other words had to be learned. In many dimensions
# random vectors are nearly at right angles (Johnson & Lindenstrauss), so a name fits itself best.
# With only 32 their cosines are about +- 1/sqrt(32) = 0.18, and training lengthens the names that
# it meets, so in the sum a new one weighs less. In the run this search mistakes countries and
# nothing else. (Sciavolino et al., 2021, found such encoders weak on rare names, too. And on texts
# unlike those that it was trained on, an encoder may well lose to BM25: Thakur et al., 2021.)


class TextEncoder:
    """Texts -> vectors. Every known word has one; real encoders cut new words into known pieces."""

    def __init__(self, words: list[str], rng: random.Random) -> None:
        self.index_of = {word: i for i, word in enumerate(words)}
        # Shorter untrained names would drown among trained words; longer vectors train longer.
        self.table = gaussian(len(words), DENSE_WIDTH, 0.3, rng)

    def encode(self, texts: list[list[str]]) -> Tensor:
        """N texts -> [N][32], one vector of length 1 for each."""
        bags = [[self.index_of[word] for word in text] for text in texts]
        return normalize(embedding_bag(self.table, bags))


def contrastive_loss(questions: Tensor, passages: Tensor) -> Tensor:
    """Question i must pick passage i among the N of the batch (in-batch negatives), and passage i
    question i: two cross-entropies over cosines [N][N]. In sentence_transformers 6, this is
    MultipleNegativesRankingLoss(model, scale=10, directions=("query_to_doc", "doc_to_query"),
    partition_mode="per_direction").
    """
    targets = list(range(len(questions.data)))
    forwards = linear(questions, passages) * (1.0 / TEMPERATURE)
    backwards = linear(passages, questions) * (1.0 / TEMPERATURE)
    return (cross_entropy(forwards, targets) + cross_entropy(backwards, targets)) * 0.5


def train_encoder(
    encoder: TextEncoder, passages: list[Passage], questions: list[Question], rng: random.Random
) -> None:
    """Move the vectors of each step's questions towards those of the passages that answer them."""
    asking: dict[int, list[Question]] = {}
    for question in questions:
        asking.setdefault(question.gold, []).append(question)
    optimizer = SparseAdam([encoder.table])  # leaves words alone that the batch does not use
    for step in range(1, DENSE_STEPS + 1):
        # No passage twice in a batch, or a question would be told to avoid its own. A country's
        # two passages may meet; Karpukhin et al. add such hard wrong choices on purpose.
        golds = rng.sample(sorted(asking), DENSE_BATCH)
        batch = [rng.choice(asking[gold]) for gold in golds]
        question_vectors = encoder.encode([question.words for question in batch])
        passage_vectors = encoder.encode([passages[gold].words for gold in golds])
        loss = contrastive_loss(question_vectors, passage_vectors)
        loss.backward()
        optimizer.step(DENSE_RATE)
        report_step(step, DENSE_STEPS, loss)


# === BOTH SEARCHES: RANK FUSION ===

# BM25 scores and cosines have no common scale, but ranks have: a passage scores 1 / (k + rank) in
# each list. With a small k a first place weighs most; with a large k, standing high in both lists.
# Fusion pays if few questions are missed by both. Production systems often add a third stage: a
# re-ranker (cross-encoder) reads the question together with each of the first passages.


def reciprocal_rank_fusion(rankings: list[list[int]], fusion_k: float) -> list[int]:
    """Merge rankings of passage numbers, the best first.

    Passage 7, second in both lists, scores 2 / 62 and beats 5, first in one only, with 1 / 61.
    With k = 0 they would tie at 1.
    >>> reciprocal_rank_fusion([[5, 7], [8, 7]], 60)
    [7, 5, 8]
    """
    scores: dict[int, float] = {}
    for ranking in rankings:
        for rank, number in enumerate(ranking, 1):
            scores[number] = scores.get(number, 0.0) + 1.0 / (fusion_k + rank)
    return sorted(scores, key=scores.get, reverse=True)


def search_both(
    encoder: TextEncoder, passages: list[Passage], questions: list[Question]
) -> dict[str, list[list[int]]]:
    """Name of the search -> for each question, passage numbers, the best first.

    Each query is compared with all passages: among millions one asks an approximate index instead
    (HNSW, as in faiss). 21 million passages in 768 numbers of 4 bytes take 65 GB.
    """
    index = BM25([passage.words for passage in passages])
    vectors = encoder.encode([passage.words for passage in passages]).data
    by_vectors = []
    for query in encoder.encode([question.words for question in questions]).data:
        cosines = [dot(query, vector) for vector in vectors]
        by_vectors.append(sorted(range(len(vectors)), key=cosines.__getitem__, reverse=True))
    by_words = [list(index.search(question.words)) for question in questions]
    return {"BM25": by_words, "vectors": by_vectors}


def fuse(rankings: dict[str, list[list[int]]], fusion_k: float) -> list[list[int]]:
    """The rankings of several searches -> for each question one, the fused."""
    return [reciprocal_rank_fusion(list(lists), fusion_k) for lists in zip(*rankings.values())]


def recall(rankings: list[list[int]], questions: list[Question], top: int = 1) -> float:
    """recall@top: the share of questions whose passage is among the first `top`."""
    hits = [question.gold in ranking[:top] for ranking, question in zip(rankings, questions)]
    return sum(hits) / len(hits)


# === READING: GENERATE A WORD OR COPY IT ===

# The reader gets the source, that is the passage and the question, and writes the answer word by
# word. Each next word can come about in two ways:
#   generated   from a fixed list, as in any language model. It holds the words of the training
#               answers, so no capital of a test country, as the run shows;
#   copied      from the source: the attention on a word is the probability to copy it.
# A gate g mixes the two. See et al., 2017, eq. 9, where g is p_gen, the attention a^t:
#
#     p(w) = g * generated(w) + (1 - g) * (sum of the attention on the places where w stands)


def word_probabilities(
    gate: float, generated: dict[str, float], attention: list[float], source: list[str]
) -> dict[str, float]:
    """The mixture: the probability of each word to be the next.

    >>> source, generated = ["kuna", "and", "euro"], {"euro": 0.6, "lev": 0.4}
    >>> p = word_probabilities(0.2, generated, [0.75, 0.05, 0.2], source)
    >>> {word: round(value, 2) for word, value in p.items()}
    {'euro': 0.28, 'lev': 0.08, 'kuna': 0.6, 'and': 0.04}
    """
    result = {word: gate * probability for word, probability in generated.items()}
    for word, weight in zip(source, attention):
        result[word] = result.get(word, 0.0) + (1.0 - gate) * weight
    return result


# To copy a word that it never met, the reader must know it by its place: it stands after "take
# the". So the two words before are added to each word's vector, and this is all that the reader
# knows of order. Transformers have positions and several layers for it.


def windows(words: list[str]) -> Windows:
    """Each word, with the word before it and the one before that.

    >>> windows(["its", "capital"])
    [('its', '<start>', '<start>'), ('capital', 'its', '<start>')]
    """
    padded = [START, START, *words]
    return list(zip(words, padded[1:], padded))


class Memory(NamedTuple):
    """What the reader has read: M words in all texts together."""

    keys: Tensor  # [M][24]
    values: Tensor  # [M][24]
    spans: list[tuple[int, int]]  # text i has rows first..stop-1 of keys and values
    sources: list[list[str]]  # the words of text i


class Reader:
    """One attention from the answer to the source, used twice: to collect what the next word
    depends on, and to copy. In production the reader is a pretrained transformer, which copies
    without a gate and is given the passage in its prompt.
    """

    def __init__(self, words: list[str], generator: list[str], rng: random.Random) -> None:
        self.index_of = {word: i for i, word in enumerate([START, *STAND_INS, *words])}
        self.generator = {word: i for i, word in enumerate(generator)}
        self.embedding = gaussian(len(self.index_of), WIDTH, 1.0, rng)
        # Shares of the word before and of the one before that. They start equal and are learned.
        self.gain_previous = Tensor([[0.5] * WIDTH])
        self.gain_before = Tensor([[0.5] * WIDTH])
        self.segment = gaussian(2, WIDTH, 0.5, rng)  # marks words of a passage, of a question
        square = (WIDTH, WIDTH, WIDTH**-0.5)
        self.query, self.key, self.value = [gaussian(*square, rng) for _ in range(3)]
        self.head = gaussian(len(generator), WIDTH, 0.1, rng)
        self.gate_head = Tensor([[0.0] * WIDTH])  # sigmoid(0): half generated, half copied

    def parameters(self) -> list[Tensor]:
        """Every matrix that training may change."""
        return [part for part in vars(self).values() if isinstance(part, Tensor)]

    def embed(self, seen: Windows) -> Tensor:
        """N windows -> [N][24]. The norm lets trained and untrained words weigh alike."""
        words, previous, before = [[self.index_of[w] for w in column] for column in zip(*seen)]
        x = rms_norm(embedding(self.embedding, words))
        x = x + rms_norm(embedding(self.embedding, previous), self.gain_previous)
        return x + rms_norm(embedding(self.embedding, before), self.gain_before)

    def read(self, texts: Pairs) -> Memory:
        """(passage, question) pairs -> a key and a value for each word."""
        seen, segments, spans = [], [], []
        for passage, question in texts:
            spans.append((len(seen), len(seen) + len(passage) + len(question)))
            seen += windows(passage) + windows(question)
            segments += [0] * len(passage) + [1] * len(question)
        x = rms_norm(self.embed(seen) + embedding(self.segment, segments))
        sources = [passage + question for passage, question in texts]
        return Memory(linear(x, self.key), linear(x, self.value), spans, sources)

    def write(self, memory: Memory, last: Windows, which_text: list[int]) -> tuple[Tensor, ...]:
        """Which word follows these N last words of answers? Row n reads text which_text[n] only ->
        logits [N][V], gate_logit [N][1], attention (N rows, as long as their texts).
        """
        y = self.embed(last)
        q = linear(rms_norm(y), self.query)
        spans = [memory.spans[number] for number in which_text]
        attention = softmax(span_scores(q, memory.keys, spans))
        y = rms_norm(y + weighted_sum(attention, memory.values, spans))
        return linear(y, self.head), linear(y, self.gate_head), attention


# The loss is -log p(next word). Nobody tells the gate when to copy: training raises g where the
# fixed list gives the word more probability than copying does, and lowers it where it gives less
# (an appendix derives the gradient). A word that is not in the list always drives it to copying.


def reader_loss(reader: Reader, examples: list[tuple[list[str], ...]]) -> Tensor:
    """(passage, question, answer) examples, all at once -> mean loss [1][1]."""
    memory = reader.read([(passage, question) for passage, question, _ in examples])
    last, which_text, targets, places = [], [], [], []
    for number, (_, _, words) in enumerate(examples):
        last += windows([START, *words[:-1]])  # the true words, whatever it would have said
        which_text += [number] * len(words)
        for word in words:
            targets.append(reader.generator.get(word))  # None: can only be copied
            places.append([i for i, w in enumerate(memory.sources[number]) if w == word])
    logits, gate_logit, attention = reader.write(memory, last, which_text)
    return pointer_generator_loss(logits, gate_logit, attention, targets, places)


# === TRAINING THE READER ===

# A reader that meets the same 40 countries again and again can learn to look for the word "zloty".
# So in half of the examples all names are replaced by stand-ins, words whose vectors are drawn anew
# at every step: nothing can be learned about them but where they stand. The gain is small here:
# without them 97% [results: no_stand_ins.reader_accuracy] of the test questions are read correctly
# from the right passage; compare the line "the right one" of this run.


def train_reader(
    reader: Reader, passages: list[Passage], questions: list[Question], rng: random.Random
) -> None:
    """Teach the reader to answer training questions from the passages that answer them."""
    # 0.95 is usual for language models. The vector of a word never met in training stays.
    optimizer = Adam(reader.parameters(), betas=(0.9, 0.95))
    for step in range(1, READER_STEPS + 1):
        # The table's rows: the start mark, the stand-ins, all other words.
        table = reader.embedding.data
        stand_ins = gaussian(NUM_STAND_INS, WIDTH, 1.0, rng).data
        reader.embedding.data = [table[0], *stand_ins, *table[1 + NUM_STAND_INS :]]
        examples = []
        for question in rng.sample(questions, READER_BATCH):
            example = (passages[question.gold].words, question.words, question.answer)
            if rng.random() < STAND_IN_SHARE:
                rename = dict(zip(question.names, rng.sample(STAND_INS, len(question.names))))
                example = tuple([[rename.get(w, w) for w in words] for words in example])
            examples.append(example)
        loss = reader_loss(reader, examples)
        loss.backward()
        optimizer.step(READER_RATE * (1.0 - (step - 1) / READER_STEPS))
        report_step(step, READER_STEPS, loss)


# === ANSWERING ===

# Five words are written, each time the likeliest; the source is read once. The reader was never
# shown a passage that does not answer the question, so it cannot have learned to say so. It reads
# one passage. Lewis et al., 2020, weigh the answers from the first few passages z: p(y|x) = sum
# over z of p_search(z|x) p_reader(y|x, z) (RAG-Sequence), or take the sum anew for each word
# (RAG-Token). More passages do not always help: what stands in the middle of a long prompt is
# easily missed (Liu et al., 2023).


class Answer(NamedTuple):
    """What the reader wrote; each list has one entry per word."""

    words: list[str]
    probabilities: list[float]
    gates: list[float]  # the probability that the word was generated, not copied
    attention: list[list[float]]  # one number for each word of the source


def generate_answers(reader: Reader, texts: Pairs) -> list[Answer]:
    """Answer (passage, question) pairs."""
    memory = reader.read(texts)
    answers = [Answer([], [], [], []) for _ in texts]
    for _ in range(ANSWER_LENGTH):
        last = [windows([START, *said.words])[-1] for said in answers]
        logits, gate_logit, attention = reader.write(memory, last, list(range(len(texts))))
        for i, said in enumerate(answers):
            gate = sigmoid_of(gate_logit.data[i][0])
            generated = dict(zip(reader.generator, softmax_row(logits.data[i])))
            p = word_probabilities(gate, generated, attention.data[i], memory.sources[i])
            word = max(p, key=p.get)
            said.words.append(word)
            said.probabilities.append(p[word])
            said.gates.append(gate)
            said.attention.append(attention.data[i])
    return answers


# === MEASURING ===

# The passage was found or not, the answer is right or not: each question falls into one of four
# cells. By counting, for any search and any reader,
#
#     accuracy = recall * (right if found) + (1 - recall) * (right if not)
#
# Say for 60 of 100 questions the passage is found, 57 of these are answered right, and 2 of the
# other 40 by luck: 0.60 * 0.95 + 0.40 * 0.05 = 0.59. Two things are to be measured. Is "right if
# found" the same for all searches? Then search and reader can be improved apart, the worse first.
# Is "right if not" small? Then the chain is hardly better than its search. It is often said that
# retrieval ends a model's inventions. It moves them: a wrong passage is read as faithfully as a
# right one, and a faithful answer need not be true. Production systems decline below a search
# score, and check whether the passage entails the answer.


class Score(NamedTuple):
    """Shares of questions, each between 0 and 1."""

    recall: float
    right_if_found: float
    right_if_not: float
    accuracy: float


def score(questions: list[Question], numbers: list[int], answers: list[Answer]) -> Score:
    """Compare answers from the passages with these numbers, word for word, with the truth."""
    found = [number == question.gold for number, question in zip(numbers, questions)]
    right = [said.words == question.answer for said, question in zip(answers, questions)]
    cells = Counter(zip(found, right))
    right_if_found = cells[True, True] / max(sum(found), 1)
    right_if_not = cells[False, True] / max(len(found) - sum(found), 1)
    return Score(sum(found) / len(found), right_if_found, right_if_not, sum(right) / len(right))


def main() -> dict[str, object]:
    """Search, read, answer; then hand the reader wrong passages, and edited ones."""
    rng = random.Random(SEED)
    facts = load_facts()
    passages = write_passages(facts, rng)
    groups = split_countries(facts, rng)
    training, tuning, test = [ask(facts, passages, countries) for countries in groups]
    report_data(passages, training, tuning, test)

    print("\nTraining the vectors of the search")
    words = sorted({word for text in [*passages, *training] for word in text.words})
    encoder = TextEncoder(words, rng)
    train_encoder(encoder, passages, training, rng)
    # fusion_k is chosen on countries that the vectors were not trained on: on their training
    # questions they miss nothing, and fusion could not help. 96 questions leave it open which of
    # 2, 5 and 10 is best.
    tuned = search_both(encoder, passages, tuning)
    recalls = {k: recall(fuse(tuned, k), tuning) for k in FUSION_K_CHOICES}
    fusion_k = max(recalls, key=recalls.get)  # of equal values the smallest
    rankings = search_both(encoder, passages, test)
    report_fusion_k(recalls, rankings, test, fusion_k)
    rankings["both, fused"] = fuse(rankings, fusion_k)
    on_training = recall(search_both(encoder, passages, training)["vectors"], training)
    report_search(rankings, passages, test, on_training)
    report_lengths(encoder, groups)

    print("\nTraining the reader, on the right passages of the training countries")
    generator = sorted({word for question in training for word in question.answer})
    report_generator(generator, test)
    reader = Reader(words, generator, rng)
    train_reader(reader, passages, training, rng)
    closed = closed_book(training, test, rng)

    numbers = {name: [ranking[0] for ranking in ranked] for name, ranked in rankings.items()}
    numbers["the right one"] = [question.gold for question in test]
    numbers["a wrong one"] = [wrong_passage(passages, question, rng) for question in test]
    answers = {name: answer_all(reader, passages, test, n) for name, n in numbers.items()}
    scores = {name: score(test, numbers[name], answers[name]) for name in numbers}
    report_scores(scores, closed, guess(training, test))
    report_attention(passages, test, numbers["both, fused"], answers["both, fused"])
    copied = report_wrong(facts, passages, test, numbers["a wrong one"], answers)

    edited = edit_and_ask(encoder, reader, fusion_k, facts, passages, training + test)
    headline = {
        "hybrid_recall": scores["both, fused"].recall,
        "rag_accuracy": scores["both, fused"].accuracy,
        "reader_accuracy": scores["the right one"].accuracy,
        "closed_book_accuracy": closed[1],
        "copied_when_wrong": copied,
        "edits_followed": edited,
    }
    report_conclusion(headline, scores, guess(training, test))
    return {**headline, "details": {"scores": scores, "closed_book_train": closed[0]}}


# === APPENDIX: REPORT AND HELPERS ===


def report_step(step: int, total: int, loss: Tensor) -> None:
    """One line for every 50 steps."""
    if step % 50 == 0:
        print(f"step  {step:3d}/{total} | loss {loss.item():.4f}", flush=True)


def gaussian(rows: int, columns: int, spread: float, rng: random.Random) -> Tensor:
    """A matrix of normal random numbers with this standard deviation."""
    return Tensor([[rng.gauss(0.0, spread) for _ in range(columns)] for _ in range(rows)])


def answer_all(
    reader: Reader, passages: list[Passage], questions: list[Question], numbers: list[int]
) -> list[Answer]:
    """Answer each question from the passage with its number, 32 at a time to save memory."""
    texts = [(passages[n].words, question.words) for n, question in zip(numbers, questions)]
    return [
        said
        for first in range(0, len(texts), 32)
        for said in generate_answers(reader, texts[first : first + 32])
    ]


def wrong_passage(passages: list[Passage], question: Question, rng: random.Random) -> int:
    """The number of a passage of the right kind about another country: it holds an answer, but not
    to this question. (A passage of the wrong kind holds none.)
    """
    kind = passages[question.gold].kind
    others = [i for i, p in enumerate(passages) if p.kind == kind and i != question.gold]
    return rng.choice(others)


def edit(facts: Facts, passage: Passage) -> list[str]:
    """The passage's words, with the fact changed that EDITS names for its country."""
    words = passage.words
    for (country, relation), new in EDITS.items():
        if country == passage.country:
            old = facts[country][relation]
            words = [new if word == old else word for word in words]
    return words


def report_data(
    passages: list[Passage],
    training: list[Question],
    tuning: list[Question],
    test: list[Question],
) -> None:
    """The facts before anything is learned."""
    print(f"{len(passages)} passages about {len(passages) // 2} countries")
    print(f"Questions: {len(training)} for training, {len(tuning)} to choose k, ", end="")
    print(f"{len(test)} for the test")
    print("No country is in two of these groups.")
    print("\nQuestions of the test, with the passages that answer them:")
    # One wording of each relation.
    for question in [q for q in test if q.country == "croatia"][1::3]:
        print(f"  {' '.join(question.words)} ?")
        print(f"  [{question.gold}] {' '.join(passages[question.gold].words)}")


def report_search(
    rankings: dict[str, list[list[int]]],
    passages: list[Passage],
    test: list[Question],
    on_training: float,
) -> None:
    """One line for each search, with the kinds of its mistakes."""
    print("\nIs the right passage found? Test questions, countries that were never trained on")
    print("search       recall@1   recall@2   misses: wrong country   right country")
    missed = {}
    for name, ranked in rankings.items():
        firsts = [ranking[0] for ranking in ranked]
        missed[name] = {i for i, q in enumerate(test) if firsts[i] != q.gold}
        abroad = sum(passages[firsts[i]].country != test[i].country for i in missed[name])
        print(
            f"{name:<12}{recall(ranked, test):>9.3f}{recall(ranked, test, 2):>11.3f}"
            f"{abroad:>24}{len(missed[name]) - abroad:>16}"
        )
    print(f"BM25 and the vectors both miss {len(missed['BM25'] & missed['vectors'])} questions.")
    print(f"(On the training questions the vectors alone reach {on_training:.3f}.)")


def report_lengths(encoder: TextEncoder, groups: Sequence[list[str]]) -> None:
    """How long the vectors of names are, by the group of the countries."""
    lengths = []
    for countries in groups:
        rows = [encoder.table.data[encoder.index_of[country]] for country in countries]
        lengths.append(sum([math.sqrt(dot(row, row)) for row in rows]) / len(rows))
    print(f"Mean length of a country's vector: {lengths[0]:.2f} if it was trained, ", end="")
    print(f"{lengths[2]:.2f} in the test")


def report_fusion_k(
    recalls: dict[int, float],
    rankings: dict[str, list[list[int]]],
    test: list[Question],
    fusion_k: int,
) -> None:
    """How the constant was chosen, and what the others would have given."""
    on_test = [recall(fuse(rankings, k), test) for k in recalls]
    print("\nHow often the fused search finds the right passage, by its constant k")
    print("k                     " + "".join([f"{k:>8}" for k in recalls]))
    print("recall@1, tuning      " + "".join([f"{value:>8.3f}" for value in recalls.values()]))
    print("recall@1, test        " + "".join([f"{value:>8.3f}" for value in on_test]))
    print(f"k = {fusion_k} is used: the best in tuning, of equal ones the smallest.")


def report_generator(generator: list[str], test: list[Question]) -> None:
    """How many of the test's facts the reader can generate; the others it can only copy."""
    print(f"The fixed list has {len(generator)} words. Of the facts asked for in the test it holds")
    shares = []
    for relation in QUESTION_PATTERNS:
        listed = [q.answer[3] in generator for q in test if q.relation == relation]
        shares.append(f"{relation} {sum(listed) / len(listed):.2f}")
    print("  " + ", ".join(shares))


def report_scores(scores: dict[str, Score], closed: tuple[float, float], guessed: float) -> None:
    """Accuracy by where the passage came from."""
    print("\nIs the answer right? The same reader, the same test questions")
    print("passage from    recall   right if found   right if not   accuracy")
    for name, (found, right_if_found, right_if_not, accuracy) in scores.items():
        yes = f"{right_if_found:.3f}" if found > 0 else "-"
        no = f"{right_if_not:.3f}" if found < 1 else "-"
        print(f"{name:<14}{found:>8.3f}{yes:>17}{no:>15}{accuracy:>11.3f}")
    print("(A wrong one is of the right kind, about another country.)")
    print("\nWithout passages")
    print(f"{'trained on the same questions':<54}{closed[1]:>11.3f}")
    print(f"{'always the commonest answer of the relation':<54}{guessed:>11.3f}")
    print(f"(The trained model knows {closed[0]:.3f} of its training questions.)")


def report_attention(
    passages: list[Passage], test: list[Question], numbers: list[int], answers: list[Answer]
) -> None:
    """One answer, with the attention of each of its words on the source."""
    shown = "which money do people use in croatia".split()
    which = [question.words for question in test].index(shown)
    said = answers[which]
    print("\nAttention of each answer word on the source, one column each: from blank,")
    print("below 0.11, to @, 1. Each column sums to 1.")
    width = max(map(len, said.words)) + 2
    print(" " * 12 + "".join([f"{word:<{width}}" for word in said.words]).rstrip())
    gates = "".join([f"{g:<{width}.2f}" for g in said.gates]).rstrip()
    print(f"{'gate':<12}{gates}")
    source = passages[numbers[which]].words + test[which].words
    for word, row in zip(source, transpose(said.attention)):
        marks = "".join([f"{mark:<{width}}" for mark in shade([row])[0][::2]])
        print(f"{word:<12}{marks}".rstrip())


def report_wrong(
    facts: Facts,
    passages: list[Passage],
    test: list[Question],
    numbers: list[int],
    answers: dict[str, list[Answer]],
) -> float:
    """What the reader makes of wrong passages -> the share of answers with the passage's fact."""
    print("\nHanded a passage of the right kind about another country, the reader says")
    rows = list(zip(test, numbers, answers["a wrong one"]))
    for question, n, said in rows[1::100]:  # a few, far apart
        print(f"  {' '.join(question.words)} ?")
        told = f"'{' '.join(said.words)}' from the passage on {passages[n].country}"
        print(f"    {told}   p = {math.prod(said.probabilities):.2f}")
    faithful = [said.words[3] == facts[passages[n].country][q.relation] for q, n, said in rows]
    true = [said.words == q.answer for q, _, said in rows]
    gate = sum([said.gates[3] for _, _, said in rows]) / len(rows)
    sure, misled = [
        sum([math.prod(said.probabilities) for said in answers[name]]) / len(test)
        for name in ("the right one", "a wrong one")
    ]
    share = sum(faithful) / len(faithful)
    print(f"It says the passage's fact in {share:.3f} of the cases, and the truth in ", end="")
    print(f"{sum(true) / len(true):.3f}.")
    print(f"Mean gate on that word: {gate:.2f} (0 is copied). Mean p, the probability of the whole")
    print(f"answer: {misled:.2f}; with the right passages: {sure:.2f}.")
    return share


def edit_and_ask(
    encoder: TextEncoder,
    reader: Reader,
    fusion_k: int,
    facts: Facts,
    passages: list[Passage],
    questions: list[Question],
) -> float:
    """Ask what EDITS will change, with the passages as they are and as edited -> the share of
    answers that say what the edit says. For bulgaria memory and passage then disagree, since the
    reader was trained on "lev" (a knowledge conflict: Longpre et al., 2021).
    """
    asked = [q for q in questions if (q.country, q.relation) in EDITS]
    edited = [passage._replace(words=edit(facts, passage)) for passage in passages]
    answers = []
    for texts in (passages, edited):
        firsts = [ranking[0] for ranking in fuse(search_both(encoder, texts, asked), fusion_k)]
        answers.append(answer_all(reader, texts, asked, firsts))
    print("\nOne word of a passage is edited; search and reader keep all their weights")
    followed = []
    for question, old, new in zip(asked, *answers):
        wanted = EDITS[question.country, question.relation]
        followed.append(new.words[3] == wanted)
        print(
            f"  {' '.join(question.words) + ' ?':<44}{old.words[3]:>6} -> {new.words[3]:<6}"
            f" gate {new.gates[3]:.2f}"
        )
    return sum(followed) / len(followed)


def report_conclusion(numbers: dict[str, float], scores: dict[str, Score], guessed: float) -> None:
    """Say in words what the run has shown, whatever it has shown."""
    recall_at_1, right_if_found, _, accuracy = scores["both, fused"]
    print(f"\nFound {recall_at_1:.3f} x read {right_if_found:.3f} = ", end="")
    print(f"{recall_at_1 * right_if_found:.3f}; the whole chain is right in {accuracy:.3f}.")
    best = max(scores["BM25"].recall, scores["vectors"].recall)
    if recall_at_1 > best:
        print(f"Fusing two searches finds more than the better of them ({best:.3f}).")
    if numbers["closed_book_accuracy"] < guessed + 0.1:
        print(f"Without passages {numbers['closed_book_accuracy']:.3f} are right: ", end="")
        print("no training question was about a test")
        print("country, so there was nothing to learn about it.")
    if numbers["copied_when_wrong"] > 0.8:
        print("The reader repeats what its passage says: its answer is as true as the passage.")
    if numbers["edits_followed"] > 0.8:
        print("An edited passage changes the answer; no weight had to change.")


# === APPENDIX: THE CLOSED-BOOK CONTROL ===

# The same questions without passages: the sum of the question's word vectors, one hidden layer, a
# choice among all facts that occurred in training. What it gets right in the test it has guessed.


def closed_book(
    training: list[Question], test: list[Question], rng: random.Random
) -> tuple[float, float]:
    """Train on the training questions -> accuracy on them, and on the test questions."""
    print("\nTraining a model without passages on the same questions")
    words = sorted({word for question in training + test for word in question.words})
    index_of = {word: i for i, word in enumerate(words)}
    choices = sorted({question.answer[3] for question in training})
    table = gaussian(len(words), WIDTH, 0.5, rng)
    hidden = gaussian(2 * WIDTH, WIDTH, (2.0 / WIDTH) ** 0.5, rng)
    head = gaussian(len(choices), 2 * WIDTH, (2 * WIDTH) ** -0.5, rng)

    def logits_of(questions: list[Question]) -> Tensor:
        bags = [[index_of[word] for word in question.words] for question in questions]
        x = rms_norm(embedding_bag(table, bags))
        return linear(relu(linear(x, hidden)), head)

    optimizer = Adam([table, hidden, head])
    for step in range(1, CLOSED_STEPS + 1):
        batch = rng.sample(training, CLOSED_BATCH)
        targets = [choices.index(question.answer[3]) for question in batch]
        loss = cross_entropy(logits_of(batch), targets)
        loss.backward()
        optimizer.step(CLOSED_RATE * (1.0 - (step - 1) / CLOSED_STEPS))
        report_step(step, CLOSED_STEPS, loss)

    def accuracy(questions: list[Question]) -> float:
        rows = logits_of(questions).data
        said = [choices[logits.index(max(logits))] for logits in rows]
        return sum(s == q.answer[3] for s, q in zip(said, questions)) / len(questions)

    return accuracy(training), accuracy(test)


def guess(training: list[Question], test: list[Question]) -> float:
    """How often the commonest training answer of the question's relation is right."""
    commonest = {
        relation: Counter(q.answer[3] for q in training if q.relation == relation).most_common(1)
        for relation in QUESTION_PATTERNS
    }
    return sum(q.answer[3] == commonest[q.relation][0][0] for q in test) / len(test)


# === APPENDIX: THE SCRIPT'S OWN OPERATIONS ===

# Attention in two halves, since what stands between them is needed for itself. Texts have
# different lengths, so rows of scores and of attention have, too; the engine's softmax works on
# each row by itself and does not mind.


def span_scores(q: Tensor, k: Tensor, spans: list[tuple[int, int]]) -> Tensor:
    """score_ij = q_i . k_j / sqrt(d) for the j in row i's span: q [N][d], k [M][d] -> N rows, as
    long as the spans (first, stop).
    """
    scale = len(q.data[0]) ** -0.5
    scores = [
        [dot(query, key) * scale for key in k.data[first:stop]]
        for query, (first, stop) in zip(q.data, spans)
    ]

    # d_q_i = sum_j d_ij k_j / sqrt(d), and d_k_j = sum_i d_ij q_i / sqrt(d)
    def pass_back(d_scores: list[list[float]]) -> tuple:
        scaled = [[d * scale for d in row] for row in d_scores]
        return (
            sums_over_spans(scaled, k.data, spans),
            sums_over_readers(scaled, q.data, spans, len(k.data)),
        )

    return Tensor(scores, (q, k), pass_back)


def weighted_sum(attention: Tensor, v: Tensor, spans: list[tuple[int, int]]) -> Tensor:
    """out_i = sum_j attention_ij v_j over the j in row i's span: N rows, v [M][d] -> [N][d]."""

    # d_attention_ij = d_out_i . v_j, and d_v_j = sum_i attention_ij d_out_i
    def pass_back(d_out: list[list[float]]) -> tuple:
        d_attention = [
            [dot(d_row, value) for value in v.data[first:stop]]
            for d_row, (first, stop) in zip(d_out, spans)
        ]
        return d_attention, sums_over_readers(attention.data, d_out, spans, len(v.data))

    return Tensor(sums_over_spans(attention.data, v.data, spans), (attention, v), pass_back)


def sums_over_spans(
    factors: list[list[float]], rows: list[list[float]], spans: list[tuple[int, int]]
) -> list[list[float]]:
    """Row i: sum_j factors_ij rows_j.

    >>> sums_over_spans([[2.0, 3.0]], [[0.0], [1.0], [10.0]], [(1, 3)])
    [[32.0]]
    """
    return [
        [dot(row, column) for column in zip(*rows[first:stop])]
        for row, (first, stop) in zip(factors, spans)
    ]


def sums_over_readers(
    factors: list[list[float]],
    rows: list[list[float]],
    spans: list[tuple[int, int]],
    count: int,
) -> list[list[float]]:
    """Row j of count: sum_i factors_ij rows_i, over the i whose span holds j.

    >>> sums_over_readers([[2.0, 3.0]], [[10.0]], [(1, 3)], 3)
    [[0.0], [20.0], [30.0]]
    """
    result = [[0.0] * len(rows[0])] * count
    for row_factors, row, (first, stop) in zip(factors, rows, spans):
        for j, factor in zip(range(first, stop), row_factors):
            result[j] = [total + factor * value for total, value in zip(result[j], row)]
    return result


def pointer_generator_loss(
    logits: Tensor,
    gate_logit: Tensor,
    attention: Tensor,
    targets: list[int | None],
    places: list[list[int]],
) -> Tensor:
    """Mean over rows of -log(g G + (1 - g) C): logits [N][V], gate_logit [N][1], attention N
    rows -> [1][1], in nats. g = sigmoid(gate_logit); G = softmax(logits)[target], 0 if target is
    None; C = the sum of the attention at the row's places, where the target stands in the source.
    """
    count = len(targets)
    copied = [sum([row[i] for i in at]) for row, at in zip(attention.data, places)]
    if any([target is None and c == 0.0 for target, c in zip(targets, copied)]):
        raise ValueError("a target can be neither generated nor copied")
    log_ps, shares = [], []  # log p and r of every row
    for row, (u,), c, target in zip(logits.data, gate_logit.data, copied, targets):
        # log(g G) and log((1 - g) C): in logarithms no small p is rounded to zero.
        log_generated = log_copied = -math.inf
        if target is not None:
            log_generated = row[target] - log_sum_exp(row) - softplus(-u)
        if c > 0.0:
            log_copied = log(c) - softplus(u)
        log_ps.append(log_sum_exp([log_generated, log_copied]))
        shares.append(exp(log_generated - log_ps[-1]))

    # With r = g G / p, the generator's share of p:
    #   d(-log p)/dz    = -(g / p) dG/dz = r (softmax(z) - onehot)      cross_entropy's, times r
    #   d(-log p)/du    = -g (1 - g) (G - C) / p = g (1 - r) - (1 - g) r = g - r
    #   d(-log p)/da_i  = -(1 - g) / p      at the target's places, 0 elsewhere
    def pass_back(d_out: list[list[float]]) -> tuple:
        factor = d_out[0][0] / count
        d_logits, d_gate_logit, d_attention = [], [], []
        for n, (row, (u,), r) in enumerate(zip(logits.data, gate_logit.data, shares)):
            d_row = [factor * r * probability for probability in softmax_row(row)]
            if targets[n] is not None:
                d_row[targets[n]] -= factor * r
            d_logits.append(d_row)
            d_gate_logit.append([factor * (sigmoid_of(u) - r)])
            d_copy = [0.0] * len(attention.data[n])
            for i in places[n]:
                d_copy[i] = -factor * exp(-softplus(u) - log_ps[n])
            d_attention.append(d_copy)
        return d_logits, d_gate_logit, d_attention

    return Tensor([[-sum(log_ps) / count]], (logits, gate_logit, attention), pass_back)


# === APPENDIX: THE FACTS AND THE WORDINGS ===

# The world of 2022; "language" is the one that most people there can speak.

START = "<start>"
STAND_INS = [f"<{i}>" for i in range(NUM_STAND_INS)]
Facts = dict[str, dict[str, str]]  # facts["croatia"]["currency"] is "kuna"

# Croatia has had the euro since 2023, Bulgaria since 2026.
EDITS = {("croatia", "currency"): "euro", ("bulgaria", "currency"): "euro"}

PASSAGE_PATTERNS = {
    "place": [
        "{country} lies in {continent} and its capital is {capital} .",
        "the seat of government of {country} is {capital} . {country} is part of {continent} .",
        "{country} , a country in {continent} , is governed from {capital} .",
    ],
    "life": [
        "people in {country} speak {language} and pay with the {currency} .",
        "the currency of {country} is the {currency} and the main language is {language} .",
        "shops in {country} take the {currency} . most people there talk {language} .",
    ],
}
QUESTION_PATTERNS = {
    "capital": [
        "what is the capital of {country}",
        "which city is the seat of government of {country}",
        "from which city is {country} governed",
    ],
    "currency": [
        "what is the currency of {country}",
        "which money do people use in {country}",
        "how do you pay for things in {country}",
    ],
    "language": [
        "what is the main language of {country}",
        "which language do people speak in {country}",
        "what tongue is spoken in {country}",
    ],
    "continent": [
        "on which continent is {country}",
        "in what part of the world does {country} lie",
        "where on earth is {country}",
    ],
}
FACTS = """
albania tirana lek albanian europe, algeria algiers dinar arabic africa,
angola luanda kwanza portuguese africa, argentina buenos-aires peso spanish south-america,
australia canberra dollar english oceania, austria vienna euro german europe,
bahamas nassau dollar english north-america, bangladesh dhaka taka bengali asia,
botswana gaborone pula tswana africa, brazil brasilia real portuguese south-america,
bulgaria sofia lev bulgarian europe, cambodia phnom-penh riel khmer asia,
canada ottawa dollar english north-america, chile santiago peso spanish south-america,
china beijing yuan mandarin asia, colombia bogota peso spanish south-america,
costa-rica san-jose colon spanish north-america, croatia zagreb kuna croatian europe,
cuba havana peso spanish north-america, czechia prague koruna czech europe,
denmark copenhagen krone danish europe, ecuador quito dollar spanish south-america,
finland helsinki euro finnish europe, france paris euro french europe,
germany berlin euro german europe, greece athens euro greek europe,
guatemala guatemala-city quetzal spanish north-america,
haiti port-au-prince gourde creole north-america,
honduras tegucigalpa lempira spanish north-america, hungary budapest forint hungarian europe,
iceland reykjavik krona icelandic europe, iran tehran rial persian asia,
ireland dublin euro english europe, italy rome euro italian europe,
dominican-republic santo-domingo peso spanish north-america, japan tokyo yen japanese asia,
jordan amman dinar arabic asia, kenya nairobi shilling swahili africa,
kyrgyzstan bishkek som kyrgyz asia, laos vientiane kip lao asia, lesotho maseru loti sotho africa,
madagascar antananarivo ariary malagasy africa, malawi lilongwe kwacha chewa africa,
maldives male rufiyaa dhivehi asia, mauritania nouakchott ouguiya arabic africa,
mexico mexico-city peso spanish north-america, mongolia ulaanbaatar tugrik mongolian asia,
morocco rabat dirham arabic africa, myanmar naypyidaw kyat burmese asia,
nepal kathmandu rupee nepali asia, new-zealand wellington dollar english oceania,
nicaragua managua cordoba spanish north-america, north-macedonia skopje denar macedonian europe,
norway oslo krone norwegian europe, peru lima sol spanish south-america,
poland warsaw zloty polish europe, portugal lisbon euro portuguese europe,
romania bucharest leu romanian europe, rwanda kigali franc kinyarwanda africa,
samoa apia tala samoan oceania, saudi-arabia riyadh riyal arabic asia,
senegal dakar franc wolof africa, serbia belgrade dinar serbian europe,
somalia mogadishu shilling somali africa, south-korea seoul won korean asia,
sudan khartoum pound arabic africa, suriname paramaribo dollar dutch south-america,
sweden stockholm krona swedish europe, tajikistan dushanbe somoni tajik asia,
thailand bangkok baht thai asia, tonga nukualofa paanga tongan oceania,
tunisia tunis dinar arabic africa, turkmenistan ashgabat manat turkmen asia,
ukraine kyiv hryvnia ukrainian europe, united-states washington dollar english north-america,
uruguay montevideo peso spanish south-america, uzbekistan tashkent sum uzbek asia,
vanuatu port-vila vatu bislama oceania, venezuela caracas bolivar spanish south-america,
vietnam hanoi dong vietnamese asia
"""


def load_facts() -> Facts:
    """The 80 countries with their capital, currency, language and continent."""
    rows = [entry.split() for entry in FACTS.replace("\n", " ").split(",")]
    relations = ("capital", "currency", "language", "continent")
    return {country: dict(zip(relations, fact)) for country, *fact in rows}


def split_countries(facts: Facts, rng: random.Random) -> tuple[list[str], list[str], list[str]]:
    """Countries for training, tuning and test. Of the two that are edited, the models are trained
    on bulgaria and never on croatia.
    """
    others = [country for country in facts if country not in ("bulgaria", "croatia")]
    rng.shuffle(others)
    training = ["bulgaria", *others[: NUM_TRAIN - 1]]
    tuning = others[NUM_TRAIN - 1 :][:NUM_TUNE]
    test = [*others[NUM_TRAIN - 1 + NUM_TUNE :], "croatia"]
    return training, tuning, test


class Passage(NamedTuple):
    """A text that can be found."""

    country: str
    kind: str  # "place" tells capital and continent, "life" currency and language
    words: list[str]


class Question(NamedTuple):
    """A question with the number of the passage that answers it, and the right answer."""

    country: str
    relation: str
    words: list[str]
    gold: int
    answer: list[str]
    names: list[str]  # the country and all its facts: what stand-ins replace


def write_passages(facts: Facts, rng: random.Random) -> list[Passage]:
    """Two passages per country, shuffled so that a passage's number says nothing."""
    passages = [
        Passage(country, kind, rng.choice(patterns).format(country=country, **fact).split())
        for country, fact in facts.items()
        for kind, patterns in PASSAGE_PATTERNS.items()
    ]
    rng.shuffle(passages)
    return passages


def ask(facts: Facts, passages: list[Passage], countries: list[str]) -> list[Question]:
    """All 12 questions about each of these countries."""
    number = {(passage.country, passage.kind): i for i, passage in enumerate(passages)}
    questions = []
    for country in countries:
        names = [country, *facts[country].values()]
        for relation, patterns in QUESTION_PATTERNS.items():
            gold = number[country, "place" if relation in ("capital", "continent") else "life"]
            answer = f"its {relation} is {facts[country][relation]} .".split()
            for pattern in patterns:
                words = pattern.format(country=country).split()
                questions.append(Question(country, relation, words, gold, answer, names))
    return questions


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


def embedding_bag(weight: Tensor, bags: Sequence[Sequence[int]]) -> Tensor:
    """Add up rows: weight [V][D], N bags of row numbers -> [N][D]; an empty bag gives zeros."""
    if not all(0 <= i < len(weight.data) for bag in bags for i in bag):
        raise ValueError(f"a bag holds what is not one of the rows 0..{len(weight.data) - 1}")
    zeros = [0.0] * len(weight.data[0])
    out = [list(map(sum, zip(zeros, *[weight.data[i] for i in bag]))) for bag in bags]

    # Every row of a bag receives the bag's gradient. Rows that no bag holds all share one list of
    # zeros, so that a large table costs little; SparseAdam passes them over.
    def pass_back(d_out: list[list[float]]) -> tuple:
        d_weight = [zeros] * len(weight.data)
        for bag, d_row in zip(bags, d_out):
            for i in bag:
                d_weight[i] = list(map(add, d_weight[i], d_row))
        return (d_weight,)

    return Tensor(out, (weight,), pass_back)


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


def softmax(x: Tensor) -> Tensor:
    """softmax of every row of x [N][M]."""
    data = [softmax_row(row) for row in x.data]

    # y_i = exp(x_i) / total, so dy_i/dx_j = y_i ((i == j) - y_j), and
    # d_x_j = sum_i d_i dy_i/dx_j = y_j (d_j - sum_i d_i y_i).
    def pass_back(d_out: list[list[float]]) -> tuple:
        d_x = []
        for y, d_row in zip(data, d_out):
            mean = dot(y, d_row)
            d_x.append([p * (d - mean) for p, d in zip(y, d_row)])
        return (d_x,)

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


def normalize(x: Tensor, eps: float = 1e-12) -> Tensor:
    """Scale every row of x [N][D] to length 1; a row shorter than eps is divided by eps."""
    lengths = [max(math.sqrt(dot(row, row)), eps) for row in x.data]
    data = [[value / length for value in row] for row, length in zip(x.data, lengths)]

    # y = x / |x|. Moving x along y changes the length and not y, so that part of the gradient is
    # taken off and the rest divided by the length: d_x = (d - y (d . y)) / |x|. At eps no length
    # changes, and nothing is taken off.
    def pass_back(d_out: list[list[float]]) -> tuple:
        d_x = []
        for d_row, y_row, length in zip(d_out, data, lengths):
            along = dot(d_row, y_row) if length > eps else 0.0
            d_x.append([(d - y * along) / length for d, y in zip(d_row, y_row)])
        return (d_x,)

    return Tensor(data, (x,), pass_back)


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


class SparseAdam(Adam):
    """Adam that passes over rows whose gradient is all zero: of a large table, those not in use.

    Neither they nor their running means change, so a step costs what its batch uses. Adam would
    move them on, by what is left in their running mean: the two are not the same.
    """

    def step(self, lr: float) -> None:
        """Take one step with learning rate lr, and clear the gradients."""
        for index, parameter in enumerate(self.parameters):
            if parameter.grad is None:
                continue
            self.num_steps[index] += 1
            data, means = list(parameter.data), list(self.means[index])
            squares = list(self.squares[index])
            rate = lr / (1.0 - self.betas[0] ** self.num_steps[index])
            scale = (1.0 - self.betas[1] ** self.num_steps[index]) ** -0.5
            for i, g_row in enumerate(parameter.grad):
                if any(g_row):
                    means[i] = self.averaged(means[i], g_row, self.betas[0])
                    g_squared = list(map(mul, g_row, g_row))
                    squares[i] = self.averaged(squares[i], g_squared, self.betas[1])
                    data[i] = [
                        x - rate * m / (scale * math.sqrt(s) + self.eps)
                        for x, m, s in zip(data[i], means[i], squares[i])
                    ]
            parameter.data, self.means[index], self.squares[index] = data, means, squares
            parameter.grad = None

    @staticmethod
    def averaged(mean: list[float], new: list[float], beta: float) -> list[float]:
        """The running mean, moved towards what is new."""
        return [beta * m + (1.0 - beta) * x for m, x in zip(mean, new)]


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


if __name__ == "__main__":
    main()
