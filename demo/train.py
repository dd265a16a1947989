#!/usr/bin/python3
"""Trains the demo model and writes demo.gguf.

    nice demo/train.py [--steps N] [--out build/demo] [--resume]

Needs Debian's python3-torch and libopenblas0-pthread; uses a GPU where torch sees one. The learning
rate stays at its peak until the last quarter of the steps and then falls to zero, so a run can be
resumed from its checkpoint with another number of steps: a smaller one ends it early, and well.
"""

import argparse
import json
import os
import random
import time

CPU_HAS_BF16 = "avx512_bf16" in open("/proc/cpuinfo", encoding="ascii").read()
# torch 1.13's oneDNN uses AMX without asking the kernel for leave, which kills the process.
os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16")

import torch
import torch.nn.functional as F

import bpe
import gguf
from corpus import HERE, Corpus

SEED = 20
VOCABULARY, DIM, LAYERS, HEADS, KV_HEADS, FFN = 1536, 192, 4, 6, 3, 512
HEAD_DIM = DIM // HEADS
CONTEXT, EPS, ROPE_BASE = 512, 1e-5, 10000.0
BATCH, BATCHES_PER_POOL, LONGEST = 96, 64, 256
# Which answer it is shows in its first tokens; the rest is soon known by heart. So most samples stop
# after the beginning of the answer, which halves the cost of a step.
SHORTENED, BEGINNING = 0.7, 12
PEAK_RATE, WARM_UP, DECAY_SHARE = 2e-3, 100, 0.25
NAMES = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
SHAPES = {
    "attn_q": (DIM, DIM), "attn_k": (KV_HEADS * HEAD_DIM, DIM), "attn_v": (KV_HEADS * HEAD_DIM, DIM),
    "attn_output": (DIM, DIM), "ffn_gate": (FFN, DIM), "ffn_up": (FFN, DIM), "ffn_down": (DIM, FFN),
}
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def rotate(x):
    """RoPE on adjacent pairs, llama's convention in GGUF. x: [batch, heads, length, HEAD_DIM]."""
    length = x.shape[2]
    rates = ROPE_BASE ** (-torch.arange(0, HEAD_DIM, 2, device=x.device) / HEAD_DIM)
    angles = torch.arange(length, device=x.device)[:, None] * rates
    cos, sin = angles.cos(), angles.sin()
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(-2)


def rms_norm(x, weight):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + EPS) * weight


class Model(torch.nn.Module):
    """Parameters bear the names of their GGUF tensors, with dots written as underscores."""

    def __init__(self):
        super().__init__()
        self.weights = torch.nn.ParameterDict()
        self.add("token_embd", torch.randn(VOCABULARY, DIM) * 0.02)
        for layer in range(LAYERS):
            self.add(f"blk_{layer}_attn_norm", torch.ones(DIM))
            self.add(f"blk_{layer}_ffn_norm", torch.ones(DIM))
            for name in NAMES:
                rows, columns = SHAPES[name]
                scale = columns ** -0.5
                if name in ("attn_output", "ffn_down"):
                    scale *= (2 * LAYERS) ** -0.5
                self.add(f"blk_{layer}_{name}", torch.randn(rows, columns) * scale)
        self.add("output_norm", torch.ones(DIM))

    def add(self, name, value):
        self.weights[name] = torch.nn.Parameter(value)

    def attention(self, x, layer, mask):
        batch, length, _ = x.shape

        def project(name, heads):
            y = F.linear(x, self.weights[f"blk_{layer}_{name}"])
            return y.view(batch, length, heads, HEAD_DIM).transpose(1, 2)

        q = rotate(project("attn_q", HEADS))
        k = rotate(project("attn_k", KV_HEADS)).repeat_interleave(HEADS // KV_HEADS, 1)
        v = project("attn_v", KV_HEADS).repeat_interleave(HEADS // KV_HEADS, 1)
        scores = (q @ k.transpose(2, 3)).float() * HEAD_DIM ** -0.5 + mask
        y = (scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, length, DIM)
        return F.linear(y, self.weights[f"blk_{layer}_attn_output"])

    def feed_forward(self, x, layer):
        gate = F.linear(x, self.weights[f"blk_{layer}_ffn_gate"])
        up = F.linear(x, self.weights[f"blk_{layer}_ffn_up"])
        return F.linear(F.silu(gate) * up, self.weights[f"blk_{layer}_ffn_down"])

    def forward(self, ids, wanted):
        """Logits at the positions where wanted is true. ids, wanted: [batch, length]."""
        mask = torch.full((ids.shape[1], ids.shape[1]), float("-inf"), device=ids.device).triu(1)
        x = F.embedding(ids, self.weights["token_embd"])
        for layer in range(LAYERS):
            norm = self.weights[f"blk_{layer}_attn_norm"]
            x = x + self.attention(rms_norm(x, norm), layer, mask)
            norm = self.weights[f"blk_{layer}_ffn_norm"]
            x = x + self.feed_forward(rms_norm(x, norm), layer)
        x = rms_norm(x[wanted], self.weights["output_norm"])
        return F.linear(x, self.weights["token_embd"]).float()


def learn_tokenizer(corpus):
    rng, texts = random.Random(SEED), list(corpus.documents) * 20
    for fact in corpus.facts:
        texts += [fact.answer, fact.more] * 40
        texts += [corpus.question(rng, fact) for _ in range(150)]
    return bpe.Tokenizer(bpe.learn(texts, VOCABULARY))


def pool(corpus, tokenizer, index, device):
    """The batches of one pool; samples of like length meet, so that little padding is needed."""
    rng, samples = random.Random(SEED * 1_000_003 + index), []
    while len(samples) < BATCH * BATCHES_PER_POOL:
        ids, learnt = [], []
        for text, is_learnt in corpus.sample(rng):
            piece = tokenizer.encode(text)
            ids += piece
            learnt += [is_learnt] * len(piece)
        if rng.random() < SHORTENED:
            end = learnt.index(True) + BEGINNING
            ids, learnt = ids[:end], learnt[:end]
        samples.append((ids[:LONGEST], learnt[:LONGEST]))
    samples.sort(key=lambda sample: len(sample[0]))
    batches = [samples[at:at + BATCH] for at in range(0, len(samples), BATCH)]
    rng.shuffle(batches)
    for batch in batches:
        length = len(batch[-1][0])
        ids = torch.zeros(BATCH, length, dtype=torch.long)
        learnt = torch.zeros(BATCH, length, dtype=torch.bool)
        for row, (sample, flags) in enumerate(batch):
            ids[row, :len(sample)] = torch.tensor(sample)
            learnt[row, :len(flags)] = torch.tensor(flags)
        yield ids.to(device), learnt.to(device)


def rate_at(step, steps):
    left = (steps - step) / (steps * DECAY_SHARE)
    return PEAK_RATE * min(1.0, (step + 1) / WARM_UP, left)


def metadata(tokenizer):
    control, normal = 3, 1
    return {
        "general.architecture": "llama",
        "general.name": "aiq demo",
        "general.description": "A demo: a tiny chat model that only knows a few facts about aiq.",
        "general.license": "BSD-2-Clause",
        "general.file_type": 7,
        "llama.context_length": CONTEXT,
        "llama.embedding_length": DIM,
        "llama.block_count": LAYERS,
        "llama.feed_forward_length": FFN,
        "llama.attention.head_count": HEADS,
        "llama.attention.head_count_kv": KV_HEADS,
        "llama.attention.layer_norm_rms_epsilon": EPS,
        "llama.rope.dimension_count": HEAD_DIM,
        "llama.rope.freq_base": ROPE_BASE,
        "llama.vocab_size": VOCABULARY,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokenizer.tokens,
        "tokenizer.ggml.token_type":
            [control if token in bpe.SPECIALS else normal for token in tokenizer.tokens],
        "tokenizer.ggml.merges": [" ".join(pair) for pair in tokenizer.merges],
        "tokenizer.ggml.bos_token_id": tokenizer.ids["<|endoftext|>"],
        "tokenizer.ggml.eos_token_id": tokenizer.ids["<|im_end|>"],
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": CHAT_TEMPLATE,
    }


def export(path, model, tokenizer):
    tensors = {}
    for name, value in model.weights.items():
        if name.startswith("blk_"):
            _, layer, rest = name.split("_", 2)
            name = f"blk.{layer}.{rest}"
        tensors[name + ".weight"] = value.detach().float().cpu().numpy()
    gguf.write(path, metadata(tokenizer), tensors)


def train(model, optimizer, corpus, tokenizer, state, options):
    device = next(model.parameters()).device
    low_precision = device.type == "cuda" or CPU_HAS_BF16
    started, saved = time.time(), time.time()
    while state["step"] < options.steps:
        index, skip = divmod(state["step"], BATCHES_PER_POOL)
        for number, (ids, learnt) in enumerate(pool(corpus, tokenizer, index, device)):
            if number < skip or state["step"] >= options.steps:
                continue
            for group in optimizer.param_groups:
                group["lr"] = rate_at(state["step"], options.steps)
            wanted = torch.zeros_like(learnt)
            wanted[:, :-1] = learnt[:, 1:]
            with torch.autocast(device.type, torch.bfloat16, enabled=low_precision):
                logits = model(ids, wanted)
            loss = F.cross_entropy(logits, ids[:, 1:][learnt[:, 1:]])
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            state["step"] += 1
            state["tokens"] += int(learnt.numel())
            state["loss"] = 0.98 * state.get("loss", loss.item()) + 0.02 * loss.item()
            if state["step"] % 20 == 0:
                print(f"step {state['step']} loss {state['loss']:.4f} now {loss.item():.4f} "
                      f"{time.time() - started:.0f} s", flush=True)
            if time.time() - saved > 120 or state["step"] == options.steps:
                save(model, optimizer, tokenizer, state, options)
                saved = time.time()


def save(model, optimizer, tokenizer, state, options):
    target = os.path.join(options.out, "checkpoint.pt")
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(),
                "merges": tokenizer.merges, "state": state}, target + ".new")
    os.replace(target + ".new", target)
    export(os.path.join(options.out, "demo.gguf"), model, tokenizer)
    with open(os.path.join(options.out, "training.json"), "w", encoding="ascii") as file:
        json.dump({**state, "seed": SEED, "torch": torch.__version__, "batch": BATCH}, file)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--out", default=os.path.join(HERE, "..", "build", "demo"))
    parser.add_argument("--resume", action="store_true")
    options = parser.parse_args()
    os.makedirs(options.out, exist_ok=True)

    torch.manual_seed(SEED)
    corpus, model = Corpus(), Model()
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    matrices = [p for p in model.parameters() if p.ndim == 2]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}],
        lr=PEAK_RATE, betas=(0.9, 0.98))
    state = {"step": 0, "tokens": 0}
    if options.resume:
        saved = torch.load(os.path.join(options.out, "checkpoint.pt"))
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        tokenizer, state = bpe.Tokenizer(saved["merges"]), saved["state"]
    else:
        tokenizer = learn_tokenizer(corpus)
    print(f"{sum(p.numel() for p in model.parameters())} parameters, {len(corpus.facts)} facts")
    train(model, optimizer, corpus, tokenizer, state, options)


if __name__ == "__main__":
    main()
