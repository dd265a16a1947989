// What llama.cpp makes of texts. Standard input: {"module": path of node-llama-cpp, "model": path,
// "texts": [text]}. Standard output, one line a text: {"ids": [id], "vector": [number]}.
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const ask = JSON.parse(readFileSync(0, "utf8"));
const { getLlama } = await import(pathToFileURL(ask.module).href);
const llama = await getLlama({ gpu: false, build: "never", skipDownload: true, logLevel: "error" });
const model = await llama.loadModel({ modelPath: ask.model });
const context = await model.createEmbeddingContext({ threads: 1 });

for (const text of ask.texts) {
  const { vector } = await context.getEmbeddingFor(text);

  console.log(JSON.stringify({ ids: model.tokenize(text, false), vector }));
}
process.exit(0);
