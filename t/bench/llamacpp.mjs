// What llama.cpp takes for the work of `aiq bench`. Standard input: {"module": path of
// node-llama-cpp, "model": path, "prompt": tokens, "gen": tokens, "batch": [sequences],
// "threads": n}. Standard output as aiq's: {"prefill_tps", "decode_tps": {"1": …}}, of two runs
// the second.
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const ask = JSON.parse(readFileSync(0, "utf8"));
const { getLlama } = await import(pathToFileURL(ask.module).href);
const llama = await getLlama({
  gpu: false, build: "never", skipDownload: true, logLevel: "error", maxThreads: ask.threads,
});
const model = await llama.loadModel({ modelPath: ask.model });
const ids = (n) => Array.from({ length: n }, (_, i) => (i * 7919 + 300) % 32000);
const rate = async (tokens, run) => {
  let seconds;

  for (let i = 0; i < 2; i++) {
    const start = performance.now();

    await run();
    seconds = (performance.now() - start) / 1000;
  }
  return tokens / seconds;
};
const context = (sequences, size) => model.createContext({
  contextSize: size, batchSize: 512, sequences, threads: { ideal: ask.threads, min: ask.threads },
});

const answer = { decode_tps: {} };
const reader = await context(1, ask.prompt + 8);
const sequence = reader.getSequence();
answer.prefill_tps = await rate(ask.prompt, async () => {
  await sequence.clearHistory();
  await sequence.evaluateWithoutGeneratingNewTokens(ids(ask.prompt));
});
await reader.dispose();

for (const n of ask.batch) {
  const writer = await context(n, ask.gen + 16);
  const sequences = Array.from({ length: n }, () => writer.getSequence());

  answer.decode_tps[n] = await rate(n * ask.gen, () => Promise.all(sequences.map(async (s) => {
    let made = 0;

    await s.clearHistory();
    for await (const _ of s.evaluate(ids(1), { temperature: 0, yieldEogToken: true })) {
      if (++made === ask.gen) {
        break;
      }
    }
  })));
  await writer.dispose();
}
console.log(JSON.stringify(answer));
process.exit(0);
