// Package scheduler decides which job runs on which worker, and which hive loads which model. It works
// on an immutable Snapshot of the fleet and a ledger of its own reservations, so that a decision needs
// no I/O and counts at once: slots, tokens and device memory are taken before Place or Pick returns.
// The queen holds the waiting line; Pick chooses the job and the worker together when something frees
// (late binding), using a prefix index of what each worker still caches and the speeds that it learnt
// from finished attempts. Every decision can be explained, recorded and replayed, and a Policy (the
// door for scripts) can take its place, with the native policy behind it when that fails.
package scheduler
