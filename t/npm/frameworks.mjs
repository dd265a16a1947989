// LangChain and Vercel's ai against models behind providers of both dialects:
//     node frameworks.mjs ORIGIN
// Prints TAP. Each speaks three dialects: OpenAI's chats, its Responses API, Anthropic's.

import { ChatOpenAI } from '@langchain/openai';
import { ChatAnthropic } from '@langchain/anthropic';
import { HumanMessage, SystemMessage, ToolMessage } from '@langchain/core/messages';
import { createOpenAI } from '@ai-sdk/openai';
import { createAnthropic } from '@ai-sdk/anthropic';
import { generateText, streamText, tool, jsonSchema, stepCountIs } from 'ai';

globalThis.AI_SDK_LOG_WARNINGS = false;
const origin = process.argv[2], baseURL = `${origin}/v1`, apiKey = 'none';
const schema = { type: 'object', properties: { city: { type: 'string' } }, additionalProperties: false };
const text = 'Hello w\u00f6rld!', cities = ['Paris', 'Rome'];
let count = 0;

function same(got, expected, name) {
  const [a, b] = [JSON.stringify(got), JSON.stringify(expected)];
  console.log(`${a === b ? 'ok' : 'not ok'} ${++count} - ${name}` + (a === b ? '' : `: ${a}, not ${b}`));
}

async function error(promise) {
  try { return await promise; } catch (e) { return e; }
}

const langchain = {
  chat: model => new ChatOpenAI({ model, apiKey, maxRetries: 0, configuration: { baseURL }, streamUsage: true }),
  responses: model => new ChatOpenAI({ model, apiKey, maxRetries: 0, configuration: { baseURL }, useResponsesApi: true }),
  messages: model => new ChatAnthropic({ model, apiKey, maxRetries: 0, anthropicApiUrl: origin, maxTokens: 50 }),
};
const lchain = [new SystemMessage('Be short.'), new HumanMessage('Hi')];
const lctools = [{ type: 'function', function: { name: 'weather', description: 'of a city', parameters: schema } }];

async function runLangchain(dialect, provider, stream) {
  const name = `LangChain, ${dialect}, ${provider}, ${stream ? 'stream' : 'whole'}`;
  const ask = async (model, messages) => {
    if (!stream) return model.invoke(messages);
    let all;
    for await (const chunk of await model.stream(messages)) all = all ? all.concat(chunk) : chunk;
    return all;
  };
  let m = await ask(langchain[dialect](provider), lchain);
  same(m.text, text, `${name}: text`);
  // of Anthropic's streams it adds up message_start and message_delta, and takes the prompt's
  // tokens from the first alone, which OpenAI tells last
  const sums = { openai: [0, 7], anthropic: [20, 8] };
  same([m.usage_metadata.input_tokens, m.usage_metadata.output_tokens], dialect === 'messages' && stream ? sums[provider] : [20, 7], `${name}: usage`);
  const model = langchain[dialect](provider).bindTools(lctools);
  m = await ask(model, lchain);
  same(m.tool_calls.map(c => [c.name, c.args.city]), cities.map(c => ['weather', c]), `${name}: parallel calls`);
  m = await ask(model, [...lchain, m, ...m.tool_calls.map(c => new ToolMessage({ tool_call_id: c.id, content: 'sunny' }))]);
  same(m.text, text, `${name}: results of tools`);
}

const openai = createOpenAI({ baseURL, apiKey }), anthropic = createAnthropic({ baseURL, apiKey });
const vercel = {
  chat: model => openai.chat(model),
  responses: model => openai.responses(model),
  messages: model => anthropic(model),
};

async function runVercel(dialect, provider, stream) {
  const name = `ai, ${dialect}, ${provider}, ${stream ? 'stream' : 'whole'}`;
  const ask = async more => {
    const options = { model: vercel[dialect](provider), system: 'Be short.', prompt: 'Hi', maxRetries: 0, maxOutputTokens: 64, onError() {},
      ...(dialect === 'responses' ? { providerOptions: { openai: { store: false } } } : {}), ...more };
    const r = stream ? streamText(options) : await generateText(options);
    if (stream) await r.consumeStream();
    return { text: await r.text, usage: await r.totalUsage, steps: await r.steps };
  };
  let r = await ask({});
  same(r.text, text, `${name}: text`);
  same([r.usage.inputTokens, r.usage.outputTokens], [20, 7], `${name}: usage`);
  const asked = [];
  const weather = tool({ description: 'of a city', inputSchema: jsonSchema(schema), execute: async ({ city }) => { asked.push(city); return 'sunny'; } });
  r = await ask({ tools: { weather }, stopWhen: stepCountIs(3) });
  same(asked.sort(), cities, `${name}: parallel calls`);
  same([r.text, r.steps.length], [text, 2], `${name}: results of tools`);
}

for (const provider of ['openai', 'anthropic']) {
  for (const dialect of ['chat', 'responses', 'messages']) {
    for (const stream of [false, true]) {
      await runLangchain(dialect, provider, stream);
      await runVercel(dialect, provider, stream);
    }
    let e = await error(langchain[dialect](`${provider}-bad`).invoke(lchain));
    same([e.status, /You asked for it/.test(e.message)], [400, true], `LangChain, ${dialect}, ${provider}: a refusal`);
    e = await error(generateText({ model: vercel[dialect](`${provider}-bad`), prompt: 'Hi', maxRetries: 0 }));
    same([e.statusCode, /You asked for it/.test(e.message)], [400, true], `ai, ${dialect}, ${provider}: a refusal`);
  }
}

console.log(`1..${count}`);
