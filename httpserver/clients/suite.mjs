// Runs the clients that people use against the server whose address is the first argument, and prints one line per
// check: "ok NAME" or "not ok NAME: why". No client may retry.
import OpenAI from 'openai';
import { Ollama } from 'ollama';
import { generateText, streamText } from 'ai';
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import assert from 'node:assert/strict';

const base = process.argv[2];
const openai = new OpenAI({ baseURL: `${base}/v1`, apiKey: 'infer', maxRetries: 0 });
const ollama = new Ollama({ host: base, headers: { Authorization: 'Bearer infer' } });
const compatible = createOpenAICompatible({ name: 'rbee', baseURL: `${base}/v1`, apiKey: 'infer' });
const messages = [{ role: 'user', content: 'Begin.' }];
const tale = 'Once upon a time';

const checks = {
  async 'openai: list models'() {
    const ids = [];
    for await (const m of openai.models.list()) ids.push(m.id);
    assert.deepEqual(ids, ['stories']);
    assert.equal((await openai.models.retrieve('stories')).object, 'model');
  },
  async 'openai: chat'() {
    const r = await openai.chat.completions.create({ model: 'stories', messages });
    assert.equal(r.choices[0].message.content, tale);
    assert.equal(r.choices[0].finish_reason, 'stop');
    assert.ok(r.usage.total_tokens > 0);
  },
  async 'openai: stream with usage'() {
    let text = '', usage, finish;
    const s = await openai.chat.completions.create({ model: 'stories', messages, stream: true, stream_options: { include_usage: true } });
    for await (const c of s) {
      text += c.choices[0]?.delta?.content ?? '';
      finish = c.choices[0]?.finish_reason ?? finish;
      usage = c.usage ?? usage;
    }
    assert.equal(text, tale);
    assert.equal(finish, 'stop');
    assert.equal(usage.completion_tokens, 4);
  },
  async 'openai: helper accumulates'() {
    const s = openai.chat.completions.stream({ model: 'stories', messages });
    const r = await s.finalChatCompletion();
    assert.equal(r.choices[0].message.content, tale);
  },
  async 'openai: abort'() {
    const s = await openai.chat.completions.create({ model: 'stories', messages: [{ role: 'user', content: 'hang' }], stream: true });
    let n = 0;
    for await (const _ of s) if (++n === 2) s.controller.abort();
    assert.equal(n, 2);
  },
  async 'openai: completions'() {
    const r = await openai.completions.create({ model: 'stories', prompt: 'x' });
    assert.equal(r.choices[0].text, tale);
    let text = '';
    for await (const c of await openai.completions.create({ model: 'stories', prompt: 'x', stream: true })) text += c.choices[0]?.text ?? '';
    assert.equal(text, tale);
  },
  async 'openai: embeddings'() {
    assert.deepEqual(Array.from((await openai.embeddings.create({ model: 'stories', input: 'x' })).data[0].embedding), [0.5, 0.25]);
    assert.deepEqual((await openai.embeddings.create({ model: 'stories', input: ['x'], encoding_format: 'float' })).data[0].embedding, [0.5, 0.25]);
  },
  async 'openai: unknown model'() {
    const other = new OpenAI({ baseURL: `${base}/v1`, apiKey: 'admin', maxRetries: 0 });
    await assert.rejects(other.chat.completions.create({ model: 'none', messages }), (e) => {
      assert.ok(e instanceof OpenAI.NotFoundError);
      assert.equal(e.code, 'model_not_found');
      assert.equal(e.type, 'invalid_request_error');
      return true;
    });
  },
  async 'openai: bad key'() {
    const other = new OpenAI({ baseURL: `${base}/v1`, apiKey: 'wrong', maxRetries: 0 });
    await assert.rejects(other.models.list(), (e) => e instanceof OpenAI.AuthenticationError && e.code === 'invalid_api_key');
  },
  async 'openai: bad parameter'() {
    await assert.rejects(openai.chat.completions.create({ model: 'stories', messages, temperature: 9 }), (e) =>
      e instanceof OpenAI.BadRequestError && e.param === 'temperature');
  },
  async 'openai: no retry where it is pointless, one where it helps'() {
    const eager = new OpenAI({ baseURL: `${base}/v1`, apiKey: 'infer', maxRetries: 2 });
    await assert.rejects(eager.chat.completions.create({ model: 'stories', messages: [{ role: 'user', content: 'quota' }] }), (e) => e.code === 'insufficient_quota');
    const r = await eager.chat.completions.create({ model: 'stories', messages: [{ role: 'user', content: 'busy once' }] });
    assert.equal(r.choices[0].message.content, tale);
  },
  async 'openai: error inside a stream'() {
    const s = await openai.chat.completions.create({ model: 'stories', messages: [{ role: 'user', content: 'break' }], stream: true });
    await assert.rejects(async () => { for await (const _ of s); }, (e) => e instanceof OpenAI.APIError);
  },
  async 'openai: batches'() {
    const line = { custom_id: 'a', method: 'POST', url: '/v1/chat/completions', body: { model: 'stories', messages } };
    const file = await openai.files.create({ purpose: 'batch', file: new File([JSON.stringify(line) + '\n'], 'in.jsonl') });
    let b = await openai.batches.create({ input_file_id: file.id, endpoint: '/v1/chat/completions', completion_window: '24h' });
    for (let i = 0; i < 600 && b.status !== 'completed'; i++) {
      await new Promise((done) => setTimeout(done, 25));
      b = await openai.batches.retrieve(b.id);
    }
    assert.equal(b.status, 'completed');
    assert.deepEqual(b.request_counts, { total: 1, completed: 1, failed: 0 });
    const out = JSON.parse(await (await openai.files.content(b.output_file_id)).text());
    assert.equal(out.response.body.choices[0].message.content, tale);
    const ids = [];
    for await (const x of openai.batches.list()) ids.push(x.id);
    assert.ok(ids.includes(b.id));
    assert.equal((await openai.files.delete(file.id)).deleted, true);
  },
  async 'ai sdk: generate and stream'() {
    const r = await generateText({ model: compatible('stories'), prompt: 'Begin.', maxRetries: 0 });
    assert.equal(r.text, tale);
    const s = streamText({ model: compatible('stories'), prompt: 'Begin.', maxRetries: 0 });
    let text = '';
    for await (const t of s.textStream) text += t;
    assert.equal(text, tale);
    assert.equal(await s.finishReason, 'stop');
  },
  async 'ai sdk: unknown model'() {
    const admin = createOpenAICompatible({ name: 'rbee', baseURL: `${base}/v1`, apiKey: 'admin' });
    await assert.rejects(generateText({ model: admin('none'), prompt: 'x', maxRetries: 0 }), /none/);
  },
  async 'ollama: list, show, version, ps'() {
    assert.deepEqual((await ollama.list()).models.map((m) => m.name), ['stories']);
    assert.ok((await ollama.show({ model: 'stories' })).capabilities.includes('completion'));
    assert.ok((await ollama.version()).version);
  },
  async 'ollama: chat and stream'() {
    const r = await ollama.chat({ model: 'stories', messages });
    assert.equal(r.message.content, tale);
    let text = '', done;
    for await (const p of await ollama.chat({ model: 'stories:latest', messages, stream: true })) {
      text += p.message.content;
      done = p.done;
    }
    assert.equal(text, tale);
    assert.equal(done, true);
  },
  async 'ollama: generate and stream'() {
    assert.equal((await ollama.generate({ model: 'stories', prompt: 'Begin.' })).response, tale);
    let text = '';
    for await (const p of await ollama.generate({ model: 'stories', prompt: 'Begin.', stream: true })) text += p.response;
    assert.equal(text, tale);
  },
  async 'ollama: embed'() {
    assert.deepEqual((await ollama.embed({ model: 'stories', input: 'x' })).embeddings, [[0.5, 0.25]]);
  },
  async 'ollama: abort'() {
    const s = await ollama.chat({ model: 'stories', messages: [{ role: 'user', content: 'hang' }], stream: true });
    await assert.rejects(async () => { for await (const _ of s) s.abort(); }, (e) => e.name === 'AbortError');
  },
  async 'ollama: unknown model and bad key'() {
    const admin = new Ollama({ host: base, headers: { Authorization: 'Bearer admin' } });
    await assert.rejects(admin.chat({ model: 'none', messages }), /no model none/);
    await assert.rejects(new Ollama({ host: base }).list(), /key is needed/);
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
process.exit(failed ? 1 : 0);
