// Package sim is an engine that is not a language model: it answers with words that depend on the prompt and the
// position alone, in the rhythm that its model reference asks for. It exists so that everything around an engine,
// from scheduling to failover, can be tested, shown and measured on a machine without one. It speaks both worker
// protocols and has slots, a prefix cache, loading time and faults on demand, like the real ones.
package sim
