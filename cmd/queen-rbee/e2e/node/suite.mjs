// The clients that people use, without retries, against a real queen: one line per check, "ok NAME" or "not ok NAME: why".
import OpenAI from "openai";
import { Ollama } from "ollama";
import { embed, generateText, streamText } from "ai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import assert from "node:assert/strict";

const { RBEE_URL: base, RBEE_QUEEN: queen, RBEE_KEY: key, RBEE_ADMIN: admin } = process.env;
const openai = new OpenAI({ baseURL: `${base}/v1`, apiKey: key, maxRetries: 0 });
const ollama = new Ollama({ host: base, headers: { Authorization: `Bearer ${key}` } });
const compatible = createOpenAICompatible({ name: "rbee", baseURL: `${base}/v1`, apiKey: key, includeUsage: true });
const messages = [{ role: "user", content: "Once upon a time" }];
const ask = { model: "chat", messages, max_tokens: 12, temperature: 0 };
const options = { num_predict: 12, temperature: 0 };

const pause = (ms) => new Promise((done) => setTimeout(done, ms));

// idle waits until the queen counts every slot as free.
async function idle(job) {
  const headers = { Authorization: `Bearer ${admin}` };
  for (let i = 0; i < 200; i++) {
    const { workers } = await (await fetch(`${queen}/v2/workers/list`, { headers })).json();
    const record = job ? await (await fetch(`${queen}/v2/tasks/${job}`, { headers })).json() : { state: "cancelled" };
    if (record.state === "cancelled" && workers.every((w) => w.slots_free === w.slots_total)) return;
    await pause(50);
  }
  assert.fail(`the aborted job ${job} still holds its slot`);
}

const checks = {
  async "openai: list models"() {
    const ids = [];
    for await (const m of openai.models.list()) ids.push(m.id);
    assert.deepEqual(ids.sort(), ["chat", "embed"]);
    assert.equal((await openai.models.retrieve("chat")).object, "model");
  },
  async "openai: chat, stream with usage and helper agree"() {
    const whole = await openai.chat.completions.create(ask);
    assert.equal(whole.choices[0].finish_reason, "length");
    assert.equal(whole.usage.completion_tokens, 12);
    let text = "", usage, finish, nulls = 0;
    for await (const c of await openai.chat.completions.create({ ...ask, stream: true, stream_options: { include_usage: true } })) {
      text += c.choices[0]?.delta?.content ?? "";
      finish = c.choices[0]?.finish_reason ?? finish;
      if (c.usage === null) nulls++;
      if (c.usage) assert.deepEqual(c.choices, []);
      usage = c.usage ?? usage;
    }
    assert.equal(text, whole.choices[0].message.content);
    assert.equal(finish, "length");
    assert.equal(usage.completion_tokens, 12);
    const final = await openai.chat.completions.stream(ask).finalChatCompletion();
    assert.equal(final.choices[0].message.content, text);
  },
  async "openai: completions"() {
    const r = await openai.completions.create({ model: "chat", prompt: "Once upon a time", max_tokens: 12, temperature: 0 });
    assert.equal(r.usage.completion_tokens, 12);
    let text = "";
    for await (const c of await openai.completions.create({ model: "chat", prompt: "Once upon a time", max_tokens: 12, temperature: 0, stream: true })) text += c.choices[0]?.text ?? "";
    assert.equal(text, r.choices[0].text);
  },
  async "openai: embeddings, packed and plain"() {
    const packed = await openai.embeddings.create({ model: "embed", input: "a little girl" });
    const plain = await openai.embeddings.create({ model: "embed", input: ["a little girl"], encoding_format: "float" });
    const a = Array.from(packed.data[0].embedding), b = plain.data[0].embedding;
    assert.ok(a.length > 8 && a.length === b.length);
    for (let i = 0; i < a.length; i++) assert.ok(Math.abs(a[i] - b[i]) < 1e-4, `dimension ${i}: ${a[i]} ${b[i]}`);
  },
  async "openai: abort"() {
    const { data: s, response } = await openai.chat.completions.create({ ...ask, max_tokens: 450, stream: true }).withResponse();
    for await (const _ of s) { s.controller.abort(); }
    await idle(response.headers.get("x-rbee-job-id"));
  },
  async "openai: unknown model, bad key, bad parameter, too long"() {
    await assert.rejects(openai.chat.completions.create({ ...ask, model: "none" }), (e) => e instanceof OpenAI.NotFoundError && e.code === "model_not_found" && e.type === "invalid_request_error");
    await assert.rejects(new OpenAI({ baseURL: `${base}/v1`, apiKey: "wrong", maxRetries: 0 }).models.list(), (e) => e instanceof OpenAI.AuthenticationError && e.code === "invalid_api_key");
    await assert.rejects(openai.chat.completions.create({ ...ask, temperature: 9 }), (e) => e instanceof OpenAI.BadRequestError && e.param === "temperature");
    await assert.rejects(openai.chat.completions.create({ ...ask, messages: [{ role: "user", content: "once upon a time ".repeat(20000) }] }),
      (e) => e instanceof OpenAI.BadRequestError && e.code === "context_length_exceeded", "a prompt beyond the context");
  },
  async "openai: batches"() {
    const lines = [1, 2, 3].map((n) => JSON.stringify({ custom_id: `line-${n}`, method: "POST", url: "/v1/chat/completions", body: ask }));
    const file = await openai.files.create({ purpose: "batch", file: new File([lines.join("\n")], "in.jsonl") });
    let b = await openai.batches.create({ input_file_id: file.id, endpoint: "/v1/chat/completions", completion_window: "24h" });
    for (let i = 0; i < 600 && b.status !== "completed"; i++) {
      await pause(50);
      b = await openai.batches.retrieve(b.id);
    }
    assert.deepEqual([b.status, b.request_counts], ["completed", { total: 3, completed: 3, failed: 0 }]);
    const out = (await (await openai.files.content(b.output_file_id)).text()).trim().split("\n").map((l) => JSON.parse(l));
    assert.deepEqual(out.map((l) => l.custom_id).sort(), ["line-1", "line-2", "line-3"]);
    for (const l of out) assert.equal(l.response.body.usage.completion_tokens, 12);
    const ids = [];
    for await (const x of openai.batches.list()) ids.push(x.id);
    assert.ok(ids.includes(b.id));
    assert.equal((await openai.files.delete(file.id)).deleted, true);
  },
  async "ai sdk: generate, stream, embed"() {
    const r = await generateText({ model: compatible("chat"), prompt: "Once upon a time", maxOutputTokens: 12, temperature: 0, maxRetries: 0 });
    assert.equal(r.usage.outputTokens, 12);
    const s = streamText({ model: compatible("chat"), prompt: "Once upon a time", maxOutputTokens: 12, temperature: 0, maxRetries: 0 });
    let text = "";
    for await (const t of s.textStream) text += t;
    assert.equal(text, r.text);
    assert.equal(await s.finishReason, "length");
    assert.equal((await s.usage).outputTokens, 12);
    const e = await embed({ model: compatible.embeddingModel("embed"), value: "a little girl", maxRetries: 0 });
    assert.ok(e.embedding.length > 8);
  },
  async "ai sdk: abort, unknown model, bad key"() {
    const controller = new AbortController();
    const s = streamText({ model: compatible("chat"), prompt: "Once upon a time", maxOutputTokens: 450, temperature: 0, maxRetries: 0, abortSignal: controller.signal, onError() {} });
    for await (const _ of s.textStream) controller.abort();
    await idle();
    await assert.rejects(generateText({ model: compatible("none"), prompt: "x", maxRetries: 0 }), /none/);
    const wrong = createOpenAICompatible({ name: "rbee", baseURL: `${base}/v1`, apiKey: "wrong" });
    await assert.rejects(generateText({ model: wrong("chat"), prompt: "x", maxRetries: 0 }), /key/);
  },
  async "ollama: list, show, version, ps"() {
    assert.deepEqual((await ollama.list()).models.map((m) => m.name).sort(), ["chat", "embed"]);
    assert.ok((await ollama.show({ model: "chat" })).capabilities.includes("completion"));
    assert.ok((await ollama.version()).version);
    await ollama.chat({ model: "chat", messages, options, keep_alive: "5m" });
    const one = (await ollama.ps()).models.find((m) => m.name === "chat");
    const left = new Date(one.expires_at) - Date.now();
    assert.ok(left > 200_000 && left < 310_000, `the model expires in ${left} ms`);
    assert.equal((await ollama.generate({ model: "chat", prompt: "", keep_alive: 0 })).done_reason, "unload");
    for (let i = 0; i < 200 && (await ollama.ps()).models.some((m) => m.name === "chat"); i++) await pause(50);
    assert.ok(!(await ollama.ps()).models.some((m) => m.name === "chat"), "the model was unloaded");
    assert.equal((await ollama.generate({ model: "chat", prompt: "", keep_alive: -1 })).done_reason, "load");
    const forever = (await ollama.ps()).models.find((m) => m.name === "chat");
    assert.ok(new Date(forever.expires_at) - Date.now() > 1e12, `the model expires at ${forever.expires_at}`);
  },
  async "ollama: chat, generate and their streams"() {
    const r = await ollama.chat({ model: "chat", messages, options });
    assert.equal(r.eval_count, 12);
    assert.equal(r.done_reason, "length");
    let text = "", done;
    for await (const p of await ollama.chat({ model: "chat:latest", messages, options, stream: true })) {
      text += p.message.content;
      done = p;
    }
    assert.equal(text, r.message.content);
    assert.equal(done.eval_count, 12);
    const g = await ollama.generate({ model: "chat", prompt: "Once upon a time", options });
    text = "";
    for await (const p of await ollama.generate({ model: "chat", prompt: "Once upon a time", options, stream: true })) text += p.response;
    assert.equal(text, g.response);
  },
  async "ollama: embed"() {
    const r = await ollama.embed({ model: "embed", input: ["a little girl", "a big dog"] });
    assert.equal(r.embeddings.length, 2);
    assert.equal(r.embeddings[0].length, r.embeddings[1].length);
  },
  async "ollama: abort"() {
    const s = await ollama.chat({ model: "chat", messages, options: { num_predict: 450 }, stream: true });
    await assert.rejects(async () => { for await (const _ of s) s.abort(); }, (e) => e.name === "AbortError");
    await idle();
  },
  async "ollama: unknown model and bad key"() {
    await assert.rejects(ollama.chat({ model: "none", messages }), (e) => e.status_code === 404 && /not found/.test(e.message));
    await assert.rejects(new Ollama({ host: base }).list(), /key/);
  },
};

let failed = 0;
for (const [name, check] of Object.entries(checks)) {
  try {
    await check();
    console.log(`ok ${name}`);
  } catch (e) {
    failed++;
    console.log(`not ok ${name}: ${e?.stack ?? e}`);
  }
}
console.log(failed ? `${failed} failed` : "all passed");
process.exit(failed ? 1 : 0);
