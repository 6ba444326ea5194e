"""microtokenizer against Hugging Face's tokenizers, tiktoken and regex: the same merges and ids."""

from __future__ import annotations

import json
import unicodedata
from collections import Counter

import pytest
import regex
import tiktoken
from support import load_script
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

script = load_script("microtokenizer")
TRAINING, HELD_OUT = script.load_plays()
NUM_MERGES = 4000
MERGES = list(script.train(Counter(script.split_chunks(TRAINING)), NUM_MERGES))
ENCODER = script.BytePairEncoder(MERGES)

GPT2_PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
OTHER_TEXTS = [
    "",
    " ",
    "\n\n  x  y   \t z\r\n ",
    "d\u00e9j\u00e0 vu, na\u00efve caf\u00e9; na\u0308ive",
    "\u03bb\u03cc\u03b3\u03bf\u03c2 \u043c\u0438\u0440 \u4f60\u597d \u3053\u3093\u306b\u3061\u306f",
    "\U0001f469\u200d\U0001f680 \U0001f480\U0001f480!",
    "x_1 = 3.14159; y__2 += 100_000  # I'll we've you're he'd it's I'm don't",
    "aaaaaaaaaaaaaaaaaaaaaaaaa the the\u00a0the",
    "".join(map(chr, range(128))),
]


def hugging_face(num_merges: int) -> Tokenizer:
    """A tokenizer trained by the library on the same text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=256 + num_merges,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[],
        show_progress=False,
    )
    tokenizer.train_from_iterator([TRAINING.decode()], trainer)
    return tokenizer


@pytest.fixture(scope="module")
def trained() -> Tokenizer:
    return hugging_face(NUM_MERGES)


def letters_of(piece: bytes) -> str:
    """GPT-2 writes a byte as a letter: itself if printable, else the next one from 256 on."""
    letters = [
        chr(byte if byte in script.PRINTABLE else 256 + i - len(script.PRINTABLE))
        for i, byte in enumerate(script.BYTE_ORDER)
    ]
    return "".join([letters[script.BYTE_IDS[byte]] for byte in piece])


def test_hugging_face_learns_the_same_merges_in_the_same_order(trained):
    theirs = json.loads(trained.to_str())["model"]["merges"]
    theirs = [tuple(m.split(" ") if isinstance(m, str) else m) for m in theirs]
    ours = [tuple([letters_of(ENCODER.pieces[i]) for i in pair]) for pair in MERGES]
    assert len(ours) == NUM_MERGES
    assert ours == theirs


def test_hugging_face_gives_the_same_id_to_every_piece(trained):
    theirs = trained.get_vocab()
    assert theirs == {letters_of(piece): i for i, piece in enumerate(ENCODER.pieces)}


def test_hugging_face_encodes_and_decodes_alike(trained):
    for text in (TRAINING.decode(), HELD_OUT.decode(), *OTHER_TEXTS):
        ids = ENCODER.encode(text.encode())
        assert ids == trained.encode(text).ids
        assert ENCODER.decode(ids).decode() == text == trained.decode(ids)


def test_the_tie_rule_and_the_order_of_bytes_matter(trained, monkeypatch):
    """With plain byte values as ids, ties would fall otherwise and the merges differ."""
    broken = load_script("microtokenizer")
    monkeypatch.setattr(broken, "BYTE_IDS", {byte: byte for byte in range(256)})
    merges = list(broken.train(Counter(broken.split_chunks(TRAINING)), NUM_MERGES))
    pieces = [bytes([byte]) for byte in range(256)]
    for left, right in merges:
        pieces.append(pieces[left] + pieces[right])
    assert pieces[256:] != ENCODER.pieces[256:]


def test_tiktoken_gives_the_same_ids():
    ranks = {piece: i for i, piece in enumerate(ENCODER.pieces)}
    assert len(ranks) == len(ENCODER.pieces)
    theirs = tiktoken.Encoding(
        "ours", pat_str=GPT2_PATTERN, mergeable_ranks=ranks, special_tokens={}
    )
    for text in (TRAINING.decode(), HELD_OUT.decode(), *OTHER_TEXTS):
        ids = ENCODER.encode(text.encode())
        assert ids == theirs.encode_ordinary(text)
        assert ENCODER.decode(ids) == theirs.decode_bytes(ids)
    # Stops inside a character: the bytes, and not an error.
    half = ENCODER.encode("\U0001f480".encode())[:2]
    assert ENCODER.decode(half) == theirs.decode_bytes(half)


def chunks_of(pattern: str, text: str) -> list[bytes]:
    return [chunk.encode() for chunk in regex.findall(pattern, text)]


@pytest.mark.parametrize("text", [TRAINING.decode(), HELD_OUT.decode(), *OTHER_TEXTS[:-1]])
def test_our_pattern_cuts_like_gpt_2(text):
    assert script.split_chunks(text.encode()) == chunks_of(GPT2_PATTERN, text)


def test_each_character_where_our_pattern_differs_is_known():
    """Numerals that are no digits, four control characters, what one of the two does not know."""
    known = {"No", "Nl", "Cn"}
    for code in [*range(0xD800), *range(0xE000, 0x10000)]:
        character = chr(code)
        text = f"x{character}1!  {character}"
        if script.split_chunks(text.encode()) != chunks_of(GPT2_PATTERN, text):
            assert unicodedata.category(character) in known or 0x1C <= code <= 0x1F


@pytest.mark.parametrize("strange", ["\u00b2", "\u00bd", "\u2167"])
def test_it_differs_on_numerals_that_are_no_digits(strange):
    """Superscript two, one half, Roman eight: a letter to Python's re, a number to GPT-2."""
    text = f"x{strange}"
    assert script.split_chunks(text.encode()) == [text.encode()]
    assert chunks_of(GPT2_PATTERN, text) == [b"x", strange.encode()]
