// What llama.cpp says about prompts. Standard input: {"module": path of node-llama-cpp, "model":
// path, "exact": bool, "n": tokens, "prompts": [text]}. Standard output, one line a prompt:
// {"prompt": [id], "answer": [[id, lead over the second best logit]]}. exact: keys and values as
// F32 and no fused attention, so that with F32 weights nothing is rounded but the sums.
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const ask = JSON.parse(readFileSync(0, "utf8"));
const { getLlama } = await import(pathToFileURL(ask.module).href);
const llama = await getLlama({ gpu: false, build: "never", skipDownload: true, logLevel: "error" });
const model = await llama.loadModel({ modelPath: ask.model });
const context = await model.createContext({
  contextSize: 512,
  sequences: 1,
  threads: 1,
  ...(ask.exact ? {
    flashAttention: false,
    experimentalKvCacheKeyType: "F32",
    experimentalKvCacheValueType: "F32",
  } : {}),
});
const sequence = context.getSequence();

for (const text of ask.prompts) {
  const prompt = model.tokenize(text, true);
  const answer = [];

  await sequence.clearHistory();
  for await (const step of sequence.evaluateWithMetadata(prompt, { probabilities: true },
    { temperature: 0 })) {
    const [first, second] = [...step.probabilities.values()];

    answer.push([step.token, Math.log(first / second)]);
    if (answer.length === ask.n) {
      break;
    }
  }
  console.log(JSON.stringify({ prompt, answer }));
}
process.exit(0);
