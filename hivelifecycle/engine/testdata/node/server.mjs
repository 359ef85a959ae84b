// An OpenAI-compatible server of some forty lines over node-llama-cpp: a real engine that is not llama-server.
import http from "node:http";
import {parseArgs} from "node:util";
import {getLlama, LlamaCompletion, LlamaLogLevel} from "node-llama-cpp";

const {values: arg} = parseArgs({options: {port: {type: "string"}, model: {type: "string"}, slots: {type: "string", default: "1"}}});
const llama = await getLlama({gpu: false, build: "never", maxThreads: 1, logLevel: LlamaLogLevel.error});
const model = await llama.loadModel({modelPath: arg.model});
const context = await model.createContext({contextSize: 512, sequences: Number(arg.slots), threads: 1});

let free = Number(arg.slots); // more requests than slots wait, as with llama-server
const line = [];
const enter = () => (free > 0 ? free-- : new Promise((go) => line.push(go)));
const leave = () => (line.length ? line.shift()() : free++);

const server = http.createServer(async (req, res) => {
  if (req.url === "/up") return res.end("ok");
  if (req.method !== "POST") return res.writeHead(404).end();
  let body = "";
  for await (const part of req) body += part;
  const chat = req.url === "/v1/chat/completions";
  const ask = JSON.parse(body);
  const gone = new AbortController();
  res.on("close", () => gone.abort());
  await enter();
  const sequence = context.getSequence();
  const head = {id: "cmpl-node", object: chat ? "chat.completion.chunk" : "text_completion", created: 0, model: ask.model};
  const choice = (text, reason) => ({index: 0, finish_reason: reason, ...(chat ? {delta: text ? {role: "assistant", content: text} : {}} : {text})});
  const send = (data) => res.write(`data: ${data}\n\n`);
  try {
    if (ask.stream) res.writeHead(200, {"content-type": "text/event-stream"});
    const prompt = chat ? ask.messages.map((m) => m.content).join("\n") : ask.prompt;
    const text = await new LlamaCompletion({contextSequence: sequence}).generateCompletion(prompt, {
      maxTokens: ask.max_tokens ?? 64, temperature: ask.temperature ?? 0, signal: gone.signal, stopOnAbortSignal: true,
      onTextChunk: (t) => ask.stream && send(JSON.stringify({...head, choices: [choice(t, null)]})),
    });
    if (!ask.stream) return res.end(JSON.stringify({...head, choices: [choice(text, "length")]}));
    send(JSON.stringify({...head, choices: [choice("", "length")]}));
    send("[DONE]");
    res.end();
  } catch (err) {
    res.destroy(err);
  } finally {
    await sequence.dispose();
    leave();
  }
});
server.listen(Number(arg.port), "127.0.0.1");
