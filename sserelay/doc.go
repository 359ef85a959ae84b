// Package sserelay relays the event streams of language-model workers: it parses a worker's Server-Sent
// Events exactly as WHATWG says, keeps them as numbered frames in a journal, and serves them to any number of
// readers that come, go and come back with Last-Event-ID. A frame is the worker's own bytes; native events,
// OpenAI chunks and Ollama lines are views of frames, translated deterministically, so that an event keeps its
// id however often the stream is read. The package needs the standard library only.
package sserelay
