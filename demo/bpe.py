"""Byte-level BPE as GPT-2 does it: learning the merges, encoding, decoding.

A text is first cut at the special tokens, then by GPT-2's pattern into words, and each word's bytes,
written as the 256 printable stand-ins, are merged by rank. The training text is ASCII, so Python's
character classes serve where GPT-2 says letters and numbers.
"""

import collections
import re

SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
WORD = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?[^\W\d_]+| ?\d+| ?(?:[^\s\w]|_)+|\s+(?!\S)|\s+")
SPECIAL = re.compile("(" + "|".join(re.escape(s) for s in SPECIALS) + ")")


def byte_stand_ins():
    """Printable Latin-1 bytes stand for themselves, the others for code points from 256 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table, following = {byte: chr(byte) for byte in printable}, 256
    for byte in range(256):
        if byte not in table:
            table[byte] = chr(following)
            following += 1
    return table


STAND_IN = byte_stand_ins()
BYTE = {char: byte for byte, char in STAND_IN.items()}


def words(text):
    for word in WORD.findall(text):
        yield "".join(STAND_IN[byte] for byte in word.encode())


def merge(symbols, pair):
    merged, at = [], 0
    while at < len(symbols):
        if tuple(symbols[at:at + 2]) == pair:
            merged.append(symbols[at] + symbols[at + 1])
            at += 2
        else:
            merged.append(symbols[at])
            at += 1
    return merged


def learn(texts, vocabulary_size):
    """Returns the merges in order: the most frequent pair first, ties by spelling."""
    counts = collections.Counter(word for text in texts for word in words(text))
    table = [(list(word), count) for word, count in sorted(counts.items())]
    pairs, where = collections.Counter(), collections.defaultdict(set)
    for index, (symbols, count) in enumerate(table):
        for pair in zip(symbols, symbols[1:]):
            pairs[pair] += count
            where[pair].add(index)
    merges = []
    while len(merges) < vocabulary_size - 256 - len(SPECIALS):
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        if pairs[best] < 2:
            raise SystemExit("bpe: the text is too small for this vocabulary")
        merges.append(best)
        for index in sorted(where[best]):
            symbols, count = table[index]
            for pair in zip(symbols, symbols[1:]):
                pairs[pair] -= count
            symbols = merge(symbols, best)
            table[index] = (symbols, count)
            for pair in zip(symbols, symbols[1:]):
                pairs[pair] += count
                where[pair].add(index)
        del pairs[best]
    return merges


class Tokenizer:
    def __init__(self, merges):
        self.merges = [tuple(pair) for pair in merges]
        self.ranks = {pair: rank for rank, pair in enumerate(self.merges)}
        self.tokens = [STAND_IN[byte] for byte in range(256)]
        self.tokens += ["".join(pair) for pair in self.merges]
        self.tokens += SPECIALS
        self.ids = {token: index for index, token in enumerate(self.tokens)}
        self.cache = {}

    def encode_word(self, word):
        if word not in self.cache:
            symbols = list(word)
            while len(symbols) > 1:
                pair = min(zip(symbols, symbols[1:]),
                           key=lambda pair: self.ranks.get(pair, len(self.ranks)))
                if pair not in self.ranks:
                    break
                symbols = merge(symbols, pair)
            self.cache[word] = [self.ids[symbol] for symbol in symbols]
        return self.cache[word]

    def encode(self, text):
        ids = []
        for piece in SPECIAL.split(text):
            if piece in SPECIALS:
                ids.append(self.ids[piece])
            else:
                for word in words(piece):
                    ids += self.encode_word(word)
        return ids

    def decode(self, ids):
        chars = "".join(self.tokens[i] for i in ids if self.tokens[i] not in SPECIALS)
        return bytes(BYTE[char] for char in chars).decode(errors="replace")
