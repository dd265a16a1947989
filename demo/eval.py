#!/usr/bin/python3
"""Asks demo.gguf the questions of eval.txt, greedily, with a plain numpy decoder.

    demo/eval.py [--model demo/demo.gguf] [--set frozen|development] [--ask QUESTION]

First it proves that no question of eval.txt stands in the training text. Exits with 1 where one does
or where the model gets fewer than 80 % of the questions right.
"""

import argparse
import os
import sys

import numpy as np

import bpe
import gguf
from corpus import END, HERE, START, Corpus, read_eval, repeated_questions

LONGEST_ANSWER = 96
NEEDED = 0.8


class Decoder:
    """A Llama decoder, one position at a time, in float32; shapes are [heads, HEAD_DIM]."""

    def __init__(self, path):
        self.meta, self.weights = gguf.read(path)
        self.layers = self.meta["llama.block_count"]
        self.heads = self.meta["llama.attention.head_count"]
        self.kv_heads = self.meta["llama.attention.head_count_kv"]
        self.eps = self.meta["llama.attention.layer_norm_rms_epsilon"]
        head_dim = self.meta["llama.rope.dimension_count"]
        base = self.meta["llama.rope.freq_base"]
        self.rates = base ** (-np.arange(0, head_dim, 2) / head_dim)
        merges = [pair.split(" ") for pair in self.meta["tokenizer.ggml.merges"]]
        self.tokenizer = bpe.Tokenizer(merges)
        if self.tokenizer.tokens != self.meta["tokenizer.ggml.tokens"]:
            raise SystemExit(f"{path}: tokens and merges do not fit together")
        self.end = self.meta["tokenizer.ggml.eos_token_id"]
        self.reset()

    def reset(self):
        self.keys = [[] for _ in range(self.layers)]
        self.values = [[] for _ in range(self.layers)]

    def norm(self, x, name):
        return x / np.sqrt(np.mean(x * x) + self.eps) * self.weights[name + ".weight"]

    def rotate(self, x, position):
        cos, sin = np.cos(position * self.rates), np.sin(position * self.rates)
        even, odd = x[:, 0::2], x[:, 1::2]
        pairs = np.stack((even * cos - odd * sin, even * sin + odd * cos), -1)
        return pairs.reshape(x.shape).astype(np.float32)

    def attention(self, x, layer):
        block = f"blk.{layer}."
        position = len(self.keys[layer])
        q = (self.weights[block + "attn_q.weight"] @ x).reshape(self.heads, -1)
        k = (self.weights[block + "attn_k.weight"] @ x).reshape(self.kv_heads, -1)
        v = (self.weights[block + "attn_v.weight"] @ x).reshape(self.kv_heads, -1)
        self.keys[layer].append(self.rotate(k, position))
        self.values[layer].append(v)
        keys, values = np.stack(self.keys[layer], 1), np.stack(self.values[layer], 1)
        q = self.rotate(q, position).reshape(self.kv_heads, self.heads // self.kv_heads, -1)
        scores = np.einsum("ghd,gtd->ght", q, keys) / np.sqrt(np.float32(q.shape[-1]))
        share = np.exp(scores - scores.max(-1, keepdims=True))
        share /= share.sum(-1, keepdims=True)
        y = np.einsum("ght,gtd->ghd", share, values).reshape(-1)
        return self.weights[block + "attn_output.weight"] @ y

    def feed_forward(self, x, layer):
        block = f"blk.{layer}."
        gate = self.weights[block + "ffn_gate.weight"] @ x
        up = self.weights[block + "ffn_up.weight"] @ x
        return self.weights[block + "ffn_down.weight"] @ (gate / (1 + np.exp(-gate)) * up)

    def step(self, token):
        """Takes one token and returns the logits for the next."""
        x = self.weights["token_embd.weight"][token]
        for layer in range(self.layers):
            x = x + self.attention(self.norm(x, f"blk.{layer}.attn_norm"), layer)
            x = x + self.feed_forward(self.norm(x, f"blk.{layer}.ffn_norm"), layer)
        return self.weights["token_embd.weight"] @ self.norm(x, "output_norm")

    def generate(self, prompt):
        """Greedy token ids, without the end token."""
        self.reset()
        for token in self.tokenizer.encode(prompt):
            logits = self.step(token)
        ids = []
        while len(ids) < LONGEST_ANSWER and int(logits.argmax()) != self.end:
            ids.append(int(logits.argmax()))
            logits = self.step(ids[-1])
        return ids

    def answer(self, question):
        prompt = f"{START}user\n{question}{END}\n{START}assistant\n"
        return self.tokenizer.decode(self.generate(prompt))


def is_right(answer, groups):
    return all(any(word in answer for word in group) for group in groups)


def run(decoder, name, questions):
    right = 0
    print(f"### {name}\n\n| | | Question | Answer |\n|---|---|---|---|")
    for number, (question, groups) in enumerate(questions, 1):
        answer = decoder.answer(question)
        good = is_right(answer, groups)
        right += good
        print(f"| {number} | {'right' if good else '**wrong**'} | {question} | {answer} |")
    print(f"\n{name}: {right}/{len(questions)}\n")
    return right >= NEEDED * len(questions)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--model", default=os.path.join(HERE, "demo.gguf"))
    parser.add_argument("--set", choices=("development", "frozen"), action="append")
    parser.add_argument("--ask")
    options = parser.parse_args()
    decoder = Decoder(options.model)
    if options.ask:
        print(decoder.answer(options.ask))
        return
    repeated = repeated_questions(Corpus())
    for question in repeated:
        print(f"stands in the training text: {question}")
    sets = read_eval()
    passed = [run(decoder, name, sets[name]) for name in options.set or sets]
    sys.exit(bool(repeated) or not all(passed))


if __name__ == "__main__":
    main()
