"""Byte pair encoding lets a model that looks one token back see about four bytes, not one.

A language model reads symbols, and somebody must decide what a symbol is. Single bytes can spell
every text, but say little each. Whole words say much, but no list of words is complete. Byte pair
encoding starts from the 256 bytes. In a text that was cut into words it looks for the pair of
neighbours that occurs most often. This pair becomes a new symbol, and the search begins again.
After 2,000 such merges common words are one symbol, rare ones are a few, and any text can still
be written.

The run learns merges from three plays of Shakespeare. Then it asks what they are good for, on a
fourth play that nothing was learned from: it counts which symbol follows which, once with bytes
and once with tokens as symbols, and measures how well these counts predict the new play. Look at
three things: the same line written with more and more merges; how much a model gains that looks
one token back instead of one byte; and the last picture, where a model of bytes (B) may look back
as far as the model of tokens does (T), up to six bytes. If it gains as much, then the reach of a
token is enough to explain the gain.

The measure is bits per byte: the sum of -log2(probability that the model gave to the symbol that
came), divided by the number of bytes of the text. Bits per *symbol* would not do: a vocabulary of
longer symbols has fewer of them to predict, each harder to guess. To know nothing costs 8 bits
per byte. Lower is better.

In the code    Meaning
chunk          a stretch of text that merges never cross, such as " love", as bytes
id, ids        a symbol as a whole number: 0-255 are the bytes, 256 and on are made by merges
pair           two neighbouring ids in a chunk
merges         {pair: how often it occurred when it was chosen}, in the order of learning
piece          the bytes that an id stands for
token          one symbol of an encoded text
back           how many symbols a model looks back; a bigram model looks one back

What is left out: special tokens such as <|endoftext|>, which must never be made from a user's
text; bringing the text to one Unicode form before it is encoded; and other ways to choose a
vocabulary (Kudo's starts with too many symbols and drops the least useful). The model of counts,
Kneser-Ney, stands in the first appendix.

A number marked [results: ...] is not from this run: it was recorded from a run with one thing
changed, and stands in results/microtokenizer.json under that key.

Read first: nothing.

Papers: Gage, "A New Algorithm for Data Compression", 1994. Sennrich et al., "Neural Machine
Translation of Rare Words with Subword Units", 2015, arXiv:1508.07909. Radford et al., "Language
Models are Unsupervised Multitask Learners" (GPT-2), 2019: merges over bytes; the pattern that
cuts text into chunks is in its published code. Kudo, "Subword Regularization", 2018,
arXiv:1804.10959. Kudo & Richardson, "SentencePiece", 2018, arXiv:1808.06226. Bostrom & Durrett,
"Byte Pair Encoding is Suboptimal for Language Model Pretraining", 2020, arXiv:2004.03720. Xue et
al., "ByT5: Towards a Token-Free Future with Pre-trained Byte-to-Byte Models", 2021,
arXiv:2105.13626. Pagnoni et al., "Byte Latent Transformer: Patches Scale Better Than Tokens",
2024, arXiv:2412.09871.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import random
import re
import time
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from heapq import heapify, heappop, heappush
from math import log2
from pathlib import Path

# === CONSTANTS ===

SEED = 42
HELD_OUT = 3  # the play kept for the test: 0 Hamlet, 1 Macbeth, 2 Romeo, 3 the Dream
NUM_MERGES = 2000  # of the encoder that is shown at work
SWEEP = (0, 64, 256, 512, 1000, 2000, 4000)  # numbers of merges to compare; 0 leaves bytes
NUM_RECOUNTED = 50  # merges that are learned a second time, the slow way
TOKENS_BACK = 3  # the longest context of a model of tokens, at least 1
BYTES_BACK = 6  # and of a model of bytes: here 4 and 5 are the best, 6 is past the turn
NUM_STRINGS = 2000  # random byte strings to encode and decode
LINE = "The course of true love never did run smooth"  # shown with more and more merges

# === CHUNKS ===

# Before any merge the text is cut into chunks, and no merge crosses a cut. GPT-2's pattern makes
# a chunk of a word with the space before it, of a number, of a run of other marks, of white space.
# Without cuts, "and ", " and " and ", and " would each take a place in the vocabulary.
#
#     1,000 merges, tested on the new play     cut at line ends only                  as here
#     bytes per token                          2.378 [results: lines_1000.bytes_per_token]  2.36
#     bits per byte, looking one symbol back   3.072 [results: lines_1000.token_bigram]     2.942
#
# So the cuts cost about 1% of compression here, and the tokens are easier to predict. Cuts also
# make learning fast: merges are sought in 9,439 different short chunks instead of the whole text.
# Most tokenizers cut. GPT-4's takes digits in groups of up to three. SentencePiece, which learns
# either such merges or Kudo's vocabulary, usually cuts before spaces and marks them with a visible
# character. The space belongs to the word that follows, so "love", " love" and "Love" become three
# symbols that have nothing in common for a model. Python's re cannot say \p{L} (a letter), as GPT-2
# does. [^\W\d_] is nearly the same: it differs, for example, on a superscript 2.

CHUNK = re.compile(
    r"'(?:[sdmt]|ll|ve|re)"  # 's 't 'll ...: the ends of English contractions
    r"| ?[^\W\d_]+"  # letters, with one space before them
    r"| ?\d+"  # digits, with one space before them
    r"| ?(?:[^\s\w]|_)+"  # anything else that is not white space, with one space before it
    # White space. Of several characters before a word the first alternative takes all but the
    # last: "  I" becomes " " and " I". The second takes what is left.
    r"|\s+(?!\S)|\s+"
)


def split_chunks(data: bytes) -> list[bytes]:
    """Cut bytes into chunks. Joined together they give the same bytes again, whatever these are.

    >>> split_chunks(b"My lord,  I'll go.")
    [b'My', b' lord', b',', b' ', b' I', b"'ll", b' go', b'.']
    """
    # The pattern wants characters. surrogateescape turns every byte that is not valid UTF-8 into
    # a stand-in character (for the pattern one of "anything else"), and back into the same byte.
    text = data.decode("utf-8", errors="surrogateescape")
    return [chunk.encode("utf-8", errors="surrogateescape") for chunk in CHUNK.findall(text)]


# The first 256 ids are the bytes. Bytes rather than characters: 256 symbols can write any text in
# any language, so "unknown" cannot happen. The price is that a Greek letter takes two of them and
# an emoji four or more. Any fixed order would do. This is GPT-2's (printable characters first):
# ties between pairs are decided by their ids, and so they fall as in Hugging Face's trainer.

PRINTABLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
BYTE_ORDER = bytes([*PRINTABLE, *sorted(set(range(256)) - set(PRINTABLE))])  # id -> byte
BYTE_IDS = {byte: i for i, byte in enumerate(BYTE_ORDER)}

# === LEARNING MERGES ===

# Three merges by hand, on "the then them". The chunks are "the", " then", " them", once each.
#
#     chunks                              pairs by count                      next merge
#     t h e    _ t h e n    _ t h e m     h+e 3, t+h 3, _+t 2, e+n 1, e+m 1   he   (id 256)
#     t he     _ t he n     _ t he m      t+he 3, _+t 2, he+n 1, he+m 1       the  (id 257)
#     the      _ the n      _ the m       _+the 2, the+n 1, the+m 1           _the (id 258)
#     the      _the n       _the m
#
# (_ is a space.) A tie, as of h+e and t+h, goes to the pair with the smaller ids. That rule is
# arbitrary, but there must be one, or no two programs would learn the same merges. (The count is
# not the only possible measure: WordPiece divides it by the counts of the two parts.)


def merge(ids: Sequence[int], pair: tuple[int, int], new_id: int) -> list[int]:
    """Replace the pair by the new id wherever it occurs, from left to right.

    >>> merge([1, 1, 1, 2], (1, 1), 9)
    [9, 1, 2]
    """
    merged = []
    i = 0
    while i < len(ids):
        if i + 1 < len(ids) and (ids[i], ids[i + 1]) == pair:
            merged.append(new_id)
            i += 2
        else:
            merged.append(ids[i])
            i += 1
    return merged


# This is the whole definition: count all pairs, merge the most frequent, begin again. Every merge
# needs a pass over all chunks.


def train_by_recounting(
    chunk_counts: Counter[bytes], num_merges: int
) -> dict[tuple[int, int], int]:
    """{chunk: how often it occurs} -> merges, by the definition."""
    chunks = [[BYTE_IDS[byte] for byte in chunk] for chunk in chunk_counts]
    merges: dict[tuple[int, int], int] = {}
    while len(merges) < num_merges:
        pair_counts: Counter[tuple[int, int]] = Counter()
        for ids, count in zip(chunks, chunk_counts.values()):
            # In "aaa" the pair (a, a) counts twice, though only one of the two can be merged.
            # Hugging Face's tokenizers count so too.
            for pair in zip(ids, ids[1:]):
                pair_counts[pair] += count
        if not pair_counts:
            break
        pair = min(pair_counts, key=lambda p: (-pair_counts[p], p))  # most frequent, smallest ids
        new_id = 256 + len(merges)
        merges[pair] = pair_counts[pair]
        chunks = [merge(ids, pair, new_id) for ids in chunks]
    return merges


# But a merge changes little. Where a chunk holds x a b y and (a, b) becomes one symbol ab, only
# its neighbours are affected: the chunk no longer has (x, a) and (b, y), but (x, ab) and (ab, y).
# Chunks without (a, b) keep all their pairs. So we remember for every pair in which chunks it has
# been met, and count only these again. (A chunk may have lost the pair since. To count it again
# then changes nothing. Hugging Face's BpeTrainer adjusts just the four pairs. Our chunks are short,
# so recounting a whole one is hardly slower, and shorter to write.)
#
# The most frequent pair comes from a heap. When a count changes, its old entry is not looked for
# and removed, which would be slow. The new count is pushed beside it, and an entry that no longer
# agrees with the count is thrown away when it comes up.


def train(chunk_counts: Counter[bytes], num_merges: int) -> dict[tuple[int, int], int]:
    """The same merges, counting again only what a merge has changed.

    The example above: in GPT-2's order h, e, t and the space have the ids 71, 68, 83 and 220.
    >>> train(Counter({b"the": 1, b" then": 1, b" them": 1}), 3)
    {(71, 68): 3, (83, 256): 3, (220, 257): 2}
    """
    chunks = [[BYTE_IDS[byte] for byte in chunk] for chunk in chunk_counts]
    occurrences = list(chunk_counts.values())  # of each chunk in the text
    pair_counts: Counter[tuple[int, int]] = Counter()
    places: defaultdict[tuple[int, int], set[int]] = defaultdict(set)  # pair -> chunks with it
    for i, ids in enumerate(chunks):
        for pair in zip(ids, ids[1:]):
            pair_counts[pair] += occurrences[i]
            places[pair].add(i)
    # Python's heap gives the smallest entry: the largest count, then the pair of smallest ids.
    heap = [(-count, pair) for pair, count in pair_counts.items()]
    heapify(heap)

    merges: dict[tuple[int, int], int] = {}
    while heap and len(merges) < num_merges:
        negative_count, pair = heappop(heap)
        if -negative_count != pair_counts[pair]:
            continue  # out of date
        new_id = 256 + len(merges)
        merges[pair] = pair_counts[pair]
        # Take the pairs of each chunk away, merge, and put those of the merged chunk in.
        changes: Counter[tuple[int, int]] = Counter()
        for i in places.pop(pair):
            for old_pair in zip(chunks[i], chunks[i][1:]):
                changes[old_pair] -= occurrences[i]
            chunks[i] = merge(chunks[i], pair, new_id)
            for new_pair in zip(chunks[i], chunks[i][1:]):
                changes[new_pair] += occurrences[i]
                places[new_pair].add(i)
        for changed_pair, change in changes.items():
            pair_counts[changed_pair] += change
            if change != 0 and pair_counts[changed_pair] > 0:
                heappush(heap, (-pair_counts[changed_pair], changed_pair))
    return merges


# Nothing here knows about grammar. " the" and " love" become symbols, but so do "eary" and "cted"
# (see the last merges of the run). All that counts is how often bytes stand together.

# === ENCODING AND DECODING ===

# To encode a new text, the merges are applied to it in the order in which they were learned. The
# order matters. If (b, c) was learned before (a, b), then "abc" is a|bc, because training had
# already merged b and c when it merged a and b. To take the longest piece first is another
# algorithm (WordPiece's) and would cut differently; the model would meet cuts that it never saw in
# training. Nor does this order promise the fewest tokens: if (c, d) was learned after these two,
# "abcd" becomes a|bc|d, although ab|cd would be shorter.
#
# To run 2,000 merges over each text would be slow. Instead each chunk is asked which of the pairs
# *it holds* was learned first. That is the pair with the smallest new id, because ids are given in
# order. (tiktoken calls it the rank.) This looks at all pairs of the chunk again after every merge.
# For words that does not matter; a long stretch without a space, such as 64 kB of base64, takes
# seconds.
#
# In production: tiktoken.get_encoding("o200k_base").encode(text), tokenizers.ByteLevelBPETokenizer,
# both in Rust. They apply the same rule; Hugging Face's keeps the pairs of a chunk in a heap, which
# is faster for long ones. Like Hugging Face we remember the chunks that were met before, since most
# words of a text are repeats. (Our memory of them grows without limit.)


class BytePairEncoder:
    """Bytes to ids and back, by a list of merges."""

    def __init__(self, pairs: Iterable[tuple[int, int]]) -> None:
        self.new_ids: dict[tuple[int, int], int] = {}
        self.pieces = [bytes([byte]) for byte in BYTE_ORDER]  # id -> bytes: the vocabulary
        for left, right in pairs:
            self.new_ids[left, right] = len(self.pieces)
            self.pieces.append(self.pieces[left] + self.pieces[right])
        self.known: dict[bytes, list[int]] = {}  # chunks that were encoded before

    def encode(self, data: bytes) -> list[int]:
        """Bytes -> ids."""
        ids: list[int] = []
        for chunk in split_chunks(data):
            if chunk not in self.known:
                self.known[chunk] = self.encode_chunk(chunk)
            ids += self.known[chunk]
        return ids

    def encode_chunk(self, chunk: bytes) -> list[int]:
        """One chunk -> its ids: merge what was learned first, until there is nothing to merge.

        (b, c) was learned before (a, b); in GPT-2's order a, b, c have the ids 64, 65, 66.
        >>> encoder = BytePairEncoder([(65, 66), (64, 65)])
        >>> [encoder.pieces[i] for i in encoder.encode_chunk(b"abcab")]
        [b'a', b'bc', b'ab']
        """
        ids = [BYTE_IDS[byte] for byte in chunk]
        while True:
            pairs = [pair for pair in zip(ids, ids[1:]) if pair in self.new_ids]
            if not pairs:
                return ids
            pair = min(pairs, key=self.new_ids.__getitem__)
            ids = merge(ids, pair, self.new_ids[pair])

    def decode(self, ids: Iterable[int]) -> bytes:
        """Ids -> the bytes that they stand for, one after the other."""
        # Bytes, not characters: a model may stop in the middle of an emoji. To show such text,
        # join first and then use .decode("utf-8", errors="replace"). To decode the pieces one by
        # one would destroy every character whose bytes lie in two tokens.
        return b"".join([self.pieces[i] for i in ids])


# === WHAT TOKENS ARE GOOD FOR ===

# What do tokens change for a model? To find out we need one that learns the same way from any
# symbols. KneserNey (in the appendix) counts in the training text which symbol followed which
# last few symbols, and relies on shorter contexts where a long one is rare. It is one of the best
# ways to predict from counts, so tokens do not win merely because bytes have a poor model.


def symbol_bits(model: KneserNey, ids: Sequence[int]) -> list[float]:
    """-log2 of the probability that the model gave to each symbol of a text, in its place."""
    ids = tuple(ids)
    bits = []
    for i, symbol in enumerate(ids):
        context = ids[max(0, i - model.back) : i]
        bits.append(-log2(model.probability(context, symbol)))
    return bits


# Divided by the number of bytes, the sum of these bits is the bits per byte. For example: the two
# tokens " lov" and "ed" cost 9 and 3 bits. That is 12 bits for 6 bytes, 2 bits per byte. (It is
# an upper bound. The same bytes could be spelled with other tokens, " lo|ved" say. The model
# gives these spellings some probability too, which is not counted.)
#
# Looking one symbol back, tokens will need about one bit per byte less than bytes. Have they
# learned something about English that the bytes do not have? There is a cheaper explanation: one
# token back simply reaches further. Take the text "he| lov|ed" and a model that looks one token
# back. To predict " lov" is to predict its four bytes one after the other, for
#     p(" lov" | "he") = p(" " | "he") p("l" | "he ") p("o" | "he l") p("v" | "he lo") p(end)
# so these four bytes are predicted from 2, 3, 4 and 5 bytes before them. (The last factor is the
# probability that the token ends there. A model of bytes does not pay it; but it is not told
# either that a token ended after "he".)


def bytes_seen(lengths: Sequence[int], back: int) -> list[int]:
    """Tokens of these lengths in bytes -> for every byte, how many bytes before it a model sees
    that looks so many tokens back.

    >>> bytes_seen([2, 4, 2], back=1)  # he| lov|ed
    [0, 1, 2, 3, 4, 5, 4, 5]
    """
    seen: list[int] = []
    for i, length in enumerate(lengths):
        reach = sum(lengths[max(0, i - back) : i])
        seen += range(reach, reach + length)
    return seen


# So we let bytes have the same reach. Here every byte is predicted by the model of *bytes* that
# sees as many bytes before it as the model of tokens sees there (at most BYTES_BACK). If reach did
# not explain the gain of tokens, they would do better than this. With few merges they do, a little.
# With 2,000 they do not, whichever play is held out:
#
#     held out    one token back                         bytes that see as far
#     Hamlet      2.595 [results: hamlet.token_bigram]     2.573 [results: hamlet.same_reach]
#     Macbeth     2.896 [results: macbeth.token_bigram]    2.865 [results: macbeth.same_reach]
#     Romeo       2.627 [results: romeo.token_bigram]      2.627 [results: romeo.same_reach]
#
# With 4,000 merges they do worse. A possible reason, not tested here, is rarity: the same training
# text is divided among more symbols, and each pair of neighbouring symbols is met less often.
#
# Models that look further back gain less from tokens. With the best context and vocabulary each
# (chosen on the new play itself, which flatters tokens: they have more to choose from), tokens
# save, in bits per byte, nothing on the Dream (see the run), 0.00 [results: macbeth.best_gain] on
# Macbeth, 0.05 [results: hamlet.best_gain] on Hamlet and 0.07 [results: romeo.best_gain] on Romeo.
# That is little beside the one bit that tokens gain when models look one symbol back.


def same_reach_bits(byte_bits: Sequence[Sequence[float]], seen: Sequence[int]) -> float:
    """Bits per byte if byte i is predicted from seen[i] bytes. byte_bits [BYTES_BACK + 1][bytes]
    holds in row n what each byte costs if n bytes before it are seen.
    """
    longest = len(byte_bits) - 1
    return sum([byte_bits[min(n, longest)][i] for i, n in enumerate(seen)]) / len(seen)


# Then why does nearly every large language model use tokens? A Transformer can look thousands of
# bytes back. But it computes all its layers for every symbol, and attention between all pairs. At
# 2.6 bytes per token a text has 1/2.6 as many symbols as bytes, and the same window of symbols
# holds 2.6 times as much text. The price is the vocabulary: every id needs its own row of numbers,
# and a rare id learns little (see "rare" in the table; a symbol may even vanish from the training
# text, when a later merge takes it up: "eary" in "weary"). GPT-2 has 50,257 ids, GPT-4 about
# 100,000, GPT-4o about 200,000, Llama 3 128,256. ByT5 reads bytes and pays in time; the byte latent
# transformer groups bytes where they are easy to predict, without a fixed vocabulary.


def bits_by_context(
    encoder: BytePairEncoder, training: bytes, held_out: bytes, longest: int
) -> list[list[float]]:
    """What every symbol of the held-out text costs: [back][symbol] for 0 to longest back."""
    training_ids, held_out_ids = encoder.encode(training), encoder.encode(held_out)
    vocabulary = len(encoder.pieces)
    models = [KneserNey(training_ids, back, vocabulary) for back in range(longest + 1)]
    return [symbol_bits(model, held_out_ids) for model in models]


def measure(
    encoder: BytePairEncoder, training: bytes, held_out: bytes, byte_bits: list[list[float]]
) -> dict:
    """One row of the table: how long the encoded texts are, how many learned ids are rare, and the
    bits per byte by context; then the reach of one token back, and byte_bits at that reach.
    """
    training_ids, held_out_ids = encoder.encode(training), encoder.encode(held_out)
    if len(encoder.pieces) == 256:  # no merges: the symbols are the bytes
        bits = byte_bits
    else:
        bits = bits_by_context(encoder, training, held_out, TOKENS_BACK)
    counts = Counter(training_ids)
    seen = bytes_seen([len(encoder.pieces[i]) for i in held_out_ids], back=1)
    return {
        "own_bytes_per_token": len(training) / len(training_ids),
        "bytes_per_token": len(held_out) / len(held_out_ids),
        "rare": sum(counts[i] < 5 for i in range(256, len(encoder.pieces))),
        "bits": [sum(row) / len(held_out) for row in bits],
        "seen": sum([min(n, BYTES_BACK) for n in seen]) / len(seen),
        "same_reach": same_reach_bits(byte_bits, seen),
    }


def round_trip_failures(encoder: BytePairEncoder, rng: random.Random) -> int:
    """How many random byte strings are changed by encoding and decoding. Most of them are not
    valid UTF-8. Half are made of few different bytes, so that merges and white space occur.
    """
    failures = 0
    for i in range(NUM_STRINGS):
        alphabet = range(256) if i % 2 else b"the lord's\n\xf0\x9f\x92\x80"
        data = bytes(rng.choices(alphabet, k=rng.randrange(40)))
        failures += encoder.decode(encoder.encode(data)) != data
    return failures


def main() -> dict[str, object]:
    """Learn merges from three plays, encode, and measure what a model gains on the fourth."""
    rng = random.Random(SEED)
    training, held_out = load_plays()
    chunk_counts = Counter(split_chunks(training))
    report_text(training, held_out, chunk_counts)

    start = time.perf_counter()
    recounted = train_by_recounting(chunk_counts, NUM_RECOUNTED)
    middle = time.perf_counter()
    merges = train(chunk_counts, max(NUM_MERGES, *SWEEP))
    print(f"time  {NUM_RECOUNTED} merges by recounting took {middle - start:.2f} s")
    print(f"time  {len(merges):,} merges by counting changes: {time.perf_counter() - middle:.2f} s")
    first_merges = list(merges.items())[: len(recounted)]
    merge_differences = sum(a != b for a, b in zip(first_merges, recounted.items()))
    merge_differences += len(recounted) - len(first_merges)

    encoders = {n: BytePairEncoder(list(merges)[:n]) for n in sorted({*SWEEP, 0, NUM_MERGES})}
    encoder = encoders[NUM_MERGES]
    report_merges(merges, encoders[max(encoders)], merge_differences)
    report_line(encoders)
    failures = round_trip_failures(encoder, rng)
    report_strings(encoder, failures)

    measured: dict[int, dict] = {}
    report_head(len(held_out))
    byte_bits = bits_by_context(encoders[0], training, held_out, BYTES_BACK)
    for n in encoders:
        measured[n] = measure(encoders[n], training, held_out, byte_bits)
        report_row(n, measured[n])
    report_reach(measured)
    report_texts({n: (encoders[n], training) for n in (0, NUM_MERGES)}, rng)
    headline = {
        "byte_bigram": measured[0]["bits"][1],
        "token_bigram": measured[NUM_MERGES]["bits"][1],
        "same_reach": measured[NUM_MERGES]["same_reach"],
        "best_gain": best_bits(measured, False) - best_bits(measured, True),
        "bytes_per_token": measured[NUM_MERGES]["bytes_per_token"],
        "mistakes": merge_differences + failures,
    }
    report_conclusion(headline, measured)
    return {**headline, "details": {"measured": measured, "merges": list(merges)}}


# === APPENDIX: A MODEL OF COUNTS ===


class KneserNey:
    """Predict the next symbol from counts of what followed the last few symbols.

    Interpolated Kneser-Ney smoothing: Chen & Goodman, "An Empirical Study of Smoothing Techniques
    for Language Modeling", 1998. A context c = (c_1 .. c_k) mixes its own counts with the
    distribution of the context that is one symbol shorter:

        p(s | c) = [ max(count(c s) - D, 0) + D * kinds(c) * p(s | c_2 .. c_k) ] / total(c)

    Every count gives up the discount D; what is saved goes to the shorter context. kinds(c) is
    the number of different symbols seen after c. The shortest context of all is "all symbols
    alike". microgpt.py uses the same model for letters.
    """

    def __init__(self, ids: Sequence[int], back: int, vocabulary: int) -> None:
        self.back = back
        self.vocabulary = vocabulary
        self.levels: list[tuple[Counter, Counter, Counter, float]] = []  # by length of context
        counts = Counter(zip(*[ids[i:] for i in range(back + 1)]))
        for _ in range(back + 1):
            totals: Counter[tuple[int, ...]] = Counter()
            for gram, count in counts.items():
                totals[gram[:-1]] += count
            kinds = Counter([gram[:-1] for gram in counts])
            # The usual estimate of D, from how many grams were seen once and twice. It is taken
            # from the training text, separately for each length: no vocabulary is tuned by hand.
            frequencies = Counter(counts.values())
            once, twice = frequencies[1], frequencies[2]
            # If nothing was seen once it gives 0, and a new symbol would be impossible: then 1/2.
            discount = once / (once + 2 * twice) if once else 0.5
            self.levels.insert(0, (counts, totals, kinds, discount))
            # A shorter context does not count how often a symbol came, but after how many
            # different symbols. "Ham" (he speaks) is frequent, yet it follows only line ends, so
            # it is no likely guess elsewhere.
            counts = Counter([gram[1:] for gram in counts])

    def probability(self, context: tuple[int, ...], symbol: int) -> float:
        """p(symbol | context), for a context of at most `back` symbols."""
        p = 1.0 / self.vocabulary
        for length, (counts, totals, kinds, discount) in enumerate(self.levels):
            if length > len(context):
                break
            recent = context[len(context) - length :]
            total = totals.get(recent)
            if total is None:
                break  # never met: no longer context was met either
            count = counts.get((*recent, symbol), 0)
            p = (max(count - discount, 0.0) + discount * kinds[recent] * p) / total
        return p


# === APPENDIX: REPORT AND HELPERS ===

TITLES = (
    "HAMLET, PRINCE OF DENMARK\n\nby",
    "MACBETH\n\nby",
    "ROMEO AND JULIET\n\nby",
    "A MIDSUMMER NIGHT'S DREAM\n\nby",
)


def load_plays() -> tuple[bytes, bytes]:
    """The training text (three plays) and the held-out play.

    A whole other play, not the end of one: its names and its subject are new too.
    """
    book = load_book()
    starts = [book.index(title) for title in TITLES]
    plays = [book[a:b].encode() for a, b in zip(starts, [*starts[1:], len(book)])]
    held_out = plays.pop(HELD_OUT)
    return b"".join(plays), held_out


def show(piece: bytes) -> str:
    """Bytes in printable ASCII.

    >>> show("d\\u00e9j\\u00e0\\n".encode())
    'd\\\\xc3\\\\xa9j\\\\xc3\\\\xa0\\\\n'
    """
    return ascii(piece)[2:-1]


def report_text(training: bytes, held_out: bytes, chunk_counts: Counter[bytes]) -> None:
    """The facts before anything is learned."""
    title = held_out.decode().split("\n")[0].title().replace("'S", "'s")
    print(f"Training text: three plays of Shakespeare, {len(training):,} bytes")
    print(f"  in {chunk_counts.total():,} chunks, {len(chunk_counts):,} of them different")
    print(f"Held out: {title}, {len(held_out):,} bytes")
    own = {chunk.strip() for chunk in chunk_counts}
    new = [chunk.strip() for chunk in split_chunks(held_out) if chunk.strip().isalpha()]
    missing = sum(chunk not in own for chunk in new) / len(new)
    print(f"  {missing:.1%} of its words do not occur in the three: a list of words would not do")


def report_merges(merges: dict, encoder: BytePairEncoder, differences: int) -> None:
    """Some merges, early and late, with their counts."""
    named = [
        f"'{show(encoder.pieces[256 + i])}' {count:,}" for i, count in enumerate(merges.values())
    ]
    same = "the same" if differences == 0 else f"{differences} NOT the same"
    print(f"The first {NUM_RECOUNTED} merges of the two ways are {same}.")
    print("\nMerges by number, each with the count of its pair when it was chosen")
    for first in sorted({0, 5, 10, 100, 500, NUM_MERGES - 5, len(merges) - 5}):
        columns = "".join([f"{name:<15}" for name in named[first : first + 5]])
        print(f"{first + 1:4d} {columns}".rstrip())


def report_line(encoders: dict[int, BytePairEncoder]) -> None:
    """One line of text, cut by more and more merges."""
    print("\nmerges   tokens   the same line")
    for n, encoder in encoders.items():
        ids = encoder.encode(LINE.encode())
        pieces = "|".join([show(encoder.pieces[i]) for i in ids])
        # The bytes alone take more than a line.
        print(f"{n:6,}{len(ids):9d}   {pieces if len(pieces) <= 62 else pieces[:59] + '...'}")


def report_strings(encoder: BytePairEncoder, failures: int) -> None:
    """Texts unlike the plays."""
    strings = {
        "French": "d\u00e9j\u00e0 vu",
        "Greek": "\u03bb\u03cc\u03b3\u03bf\u03c2",
        "emoji": "\U0001f480",
        "code": "if x == 10:",
    }
    print(f"\nOther texts, encoded with {len(encoder.pieces) - 256:,} merges")
    for name, text in strings.items():
        ids = encoder.encode(text.encode())
        pieces = "|".join([show(encoder.pieces[i]) for i in ids])
        print(f"{name:<7}{len(text):2d} chars, {len(text.encode()):2d} bytes: {pieces}")
    print(f"Random byte strings that decoding did not restore: {failures} of {NUM_STRINGS:,}")


def report_head(num_bytes: int) -> None:
    """The head of the table of vocabularies."""
    print(f"\nEncoding and predicting the {num_bytes:,} bytes of the new play")
    print("rare: learned ids that occur less than 5 times in the training text")
    print("        bytes per token          bits per byte, from so many symbols before")
    backs = "".join([f"{back:7d}" for back in range(BYTES_BACK + 1)])
    print(f"merges  training    new    rare{backs}")


def report_row(num_merges: int, row: dict) -> None:
    """One vocabulary."""
    bits = "".join([f"{value:7.3f}" for value in row["bits"]])
    own, new = row["own_bytes_per_token"], row["bytes_per_token"]
    print(f"{num_merges:6,}{own:9.2f}{new:8.2f}{row['rare']:8,}{bits}", flush=True)


def report_reach(measured: dict[int, dict]) -> None:
    """One token back against bytes of the same reach: numbers, and a picture on a line."""
    pairs = [(row["bits"][1], row["same_reach"]) for row in measured.values()]
    low, high, columns = min(map(min, pairs)), max(map(max, pairs)), 30
    print(
        f"\nLooking one symbol back: T = tokens, B = bytes as far (at most {BYTES_BACK}), * = both"
    )
    print(f"merges  bytes seen  T bits  B bits  gain B/T  {low:<7.2f}{high:>{columns - 7}.2f}")
    for (n, row), (token, same) in zip(measured.items(), pairs):
        line = [" "] * columns
        for mark, bits in zip("TB", (token, same)):
            place = round((bits - low) / ((high - low) or 1.0) * (columns - 1))
            line[place] = "*" if line[place] == "T" else mark
        share = share_of_gain(measured[0]["bits"][1], token, same)
        numbers = f"{n:6,}{row['seen']:12.2f}{token:8.3f}{same:8.3f}"
        print(f"{numbers}{f'{share:.0%}' if n else '':>10}  {''.join(line)}".rstrip())
    print("gain B/T: what B saves against one byte back, as a share of what T saves")


def share_of_gain(byte: float, token: float, same_reach: float) -> float:
    """How much of what tokens gain on bytes, bytes of the same reach gain as well.

    >>> share_of_gain(4.0, 3.0, 3.25)
    0.75
    """
    return (byte - same_reach) / (byte - token) if token < byte else 0.0


def best_bits(measured: dict[int, dict], tokens: bool) -> float:
    """The fewest bits per byte of all models of tokens, whatever context, or of all of bytes."""
    return min([min(row["bits"]) for n, row in measured.items() if tokens == (n > 0)])


def report_texts(
    sources: dict[int, tuple[BytePairEncoder, bytes]], rng: random.Random, num_bytes: int = 140
) -> None:
    """Write text with the models that look one symbol back, symbol by symbol."""
    print("\nText made by looking one symbol back")
    for n, (encoder, training) in sources.items():
        vocabulary = range(len(encoder.pieces))
        model = KneserNey(encoder.encode(training), 1, len(vocabulary))
        ids = encoder.encode(b"\n")
        while len(encoder.decode(ids)) < num_bytes:
            context = tuple(ids[-1:])
            weights = [model.probability(context, symbol) for symbol in vocabulary]
            ids += rng.choices(vocabulary, weights)
        text = " ".join(encoder.decode(ids).decode("ascii", errors="replace").split())
        print(f"{'bytes' if n == 0 else 'tokens'}:".ljust(8) + ascii(text)[1:-1][:72])


def report_conclusion(headline: dict[str, float], measured: dict[int, dict]) -> None:
    """Say in words what the run has shown."""
    byte, token, same = [headline[key] for key in ("byte_bigram", "token_bigram", "same_reach")]
    print(f"\nOne byte back costs {byte:.2f} bits per byte, one token back {token:.2f}.")
    share = share_of_gain(byte, token, same)
    print(f"Bytes that see as far as these tokens cost {same:.2f}: {share:.0%} of the gain.")
    if share > 0.9:
        print("So the longer reach is enough to explain what one token back gains.")
    else:
        print("So reach alone does not explain what one token back gains on one byte back.")
    best = [best_bits(measured, tokens) for tokens in (False, True)]
    print(f"With the best context each, bytes cost {best[0]:.3f} and tokens {best[1]:.3f}.")
    most = max(measured)
    if measured[most]["bits"][1] > token:
        print(f"More merges are not always better: {most:,} reach further and predict worse.")


# === APPENDIX: DATA (common/data.py) ===

# Where a script finds its data when it was copied out of the repository.
DATA_URL = "https://raw.githubusercontent.com/Mathews-Tom/no-magic/main/data/"
BOOK_SHA256 = "e034d4e9fb4434365d9d04ea7870aa0d1c3e0d9a08ace78ab550ffb9769d37ef"


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


def load_book() -> str:
    """Four plays of Shakespeare as one text: Hamlet, Macbeth, Romeo and Juliet, A Midsummer
    Night's Dream.
    """
    return load_data("shakespeare.txt", BOOK_SHA256).decode("utf-8")


if __name__ == "__main__":
    main()
