// Package schedsim is a deterministic discrete-event simulator that drives the real scheduler through
// its public API over request traces, beside four rivals and a bound. Its cost model: each worker
// prefills one request at a time, uncached tokens over its prefill rate; then the request decodes in its
// slot, output tokens over the decode rate of a slot; a worker's prefix cache is an LRU of 512-token
// blocks, filled when a prefill starts; loading a model takes its size over the device's bandwidth, and
// workers on one device share its memory, not its speed. Equal inputs and seeds give equal results.
package schedsim
