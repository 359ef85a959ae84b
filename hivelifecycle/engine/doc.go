// Package engine runs inference engines as processes on one machine: llama.cpp, vLLM, Ollama, a built-in simulator
// and any other server that a command line starts. A Supervisor chooses the port, starts each worker in a process
// group of its own, waits until it serves, keeps its log, notices its end at once, says why in a sentence, starts it
// again with backoff, stops it gracefully, and leaves no orphan, even after its own death by kill -9. The package can
// be embedded alone.
package engine
