// OpenAI's SDK for vectors: url model dimensions. TAP on standard output.
import OpenAI, { BadRequestError } from "openai";

const [url, model, dimensions] = process.argv.slice(2);
const client = new OpenAI({ baseURL: url, apiKey: "none", maxRetries: 0 });
let n = 0;

function ok(good, name) {
  console.log(`${good ? "ok" : "not ok"} ${++n} - ${name}`);
}

const input = ["How do I reset my password?", "where are the metrics"];
const plain = await client.embeddings.create({ model, input, encoding_format: "float" });
const packed = await client.embeddings.create({ model, input });

ok(plain.object === "list" && plain.model === model, "a list of the model");
ok(plain.data.every((d, i) => d.index === i && d.embedding.length === Number(dimensions)), "vectors in order");
ok(plain.usage.prompt_tokens > 0 && plain.usage.total_tokens === plain.usage.prompt_tokens, "usage");
ok(packed.data.every((d, i) => d.embedding.every((x, k) => Math.abs(x - plain.data[i].embedding[k]) < 1e-9)),
  "the SDK's own format, base64, says the same");

const one = await client.embeddings.create({ model, input: input[1] });
ok(one.data.length === 1 && one.data[0].embedding.every((x, k) => x === packed.data[1].embedding[k]), "a single text");

const many = await client.embeddings.create({ model, input: Array(500).fill(input[0]) });
ok(many.data.length === 500, "five hundred");

const failed = await client.embeddings.create({ model, input: ["a", ""] }).catch((e) => e);
ok(failed instanceof BadRequestError && failed.param === "input[1]" && failed.code === "invalid_value", "an error that names the input");

const all = await Promise.all(Array.from({ length: 20 }, (_, i) => client.embeddings.create({ model, input: input[i % 2] })));
ok(all.every((r, i) => r.data[0].embedding.every((x, k) => Math.abs(x - packed.data[i % 2].embedding[k]) < 1e-6)), "twenty at once");
console.log(`1..${n}`);
