// What llama.cpp takes for the work of t/bench/embed. Standard input: {"module": path of
// node-llama-cpp, "model": path, "threads": n, "texts": n, "words": n}. Standard output:
// {"texts_per_second"}, of two runs the second.
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const ask = JSON.parse(readFileSync(0, "utf8"));
const { getLlama } = await import(pathToFileURL(ask.module).href);
const llama = await getLlama({
  gpu: false, build: "never", skipDownload: true, logLevel: "error", maxThreads: ask.threads,
});
const model = await llama.loadModel({ modelPath: ask.model });
const context = await model.createEmbeddingContext({
  contextSize: 512, batchSize: 512, threads: { ideal: ask.threads, min: ask.threads },
});
const texts = Array.from({ length: ask.texts }, (_, i) => Array.from({ length: ask.words },
  (_, w) => `w${5 + (i * 131 + w) * 7919 % 30000} `).join(""));
let seconds;

for (let i = 0; i < 2; i++) {
  const start = performance.now();

  for (const text of texts) {
    await context.getEmbeddingFor(text);
  }
  seconds = (performance.now() - start) / 1000;
}
console.log(JSON.stringify({ texts_per_second: texts.length / seconds }));
process.exit(0);
