// The openai client, without retries, against the queen: the same story, again and again.
import OpenAI from "openai";

const rounds = Number(process.argv[2] ?? 20);
const client = new OpenAI({ baseURL: process.env.RBEE_URL + "/v1", apiKey: "any", maxRetries: 0 });

for (let i = 0; i < rounds; i++) {
  const stream = await client.completions.create({
    model: "stories", prompt: "Once upon a time", max_tokens: 30, temperature: 0, stream: true, stream_options: { include_usage: true },
  });
  let text = "", finish = null, usage = null;
  for await (const chunk of stream) {
    for (const c of chunk.choices) {
      text += c.text;
      finish = c.finish_reason ?? finish;
    }
    usage = chunk.usage ?? usage;
  }
  const chat = client.chat.completions.stream({
    model: "stories", messages: [{ role: "user", content: "Once upon a time" }], max_tokens: 30, temperature: 0, stream_options: { include_usage: true },
  });
  const final = await chat.finalChatCompletion();
  for (const [what, got, reason, use] of [
    ["completion", text, finish, usage],
    ["chat", final.choices[0].message.content, final.choices[0].finish_reason, final.usage],
  ]) {
    if (!got.includes("little girl named Lily") || reason !== "length" || use?.completion_tokens !== 30) {
      throw new Error(`round ${i}, ${what}: ${JSON.stringify({ got, reason, use })}`);
    }
  }
}
console.log(`${rounds} rounds`);
