// Package clients has no code of its own: its tests run the clients that people use (the openai, ai and ollama packages of
// npm, and openai-go) against httpserver with a Submitter in memory. It is a module of its own so that nobody who
// imports httpserver has to know them.
package clients
