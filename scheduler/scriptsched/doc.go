// Package scriptsched lets operators write the scheduler's policy in Starlark: schedule(job, workers,
// hives), or only select_worker and evict, with more than forty helpers, over lazy views of the fleet.
// Short YAML rules compile to the same. Scripts do no I/O, are bounded in steps, in time and in memory, and
// name the line of an error; whatever goes wrong, the native policy decides and the failure is counted.
// A Manager keeps the current policy: embedded and immutable (platform mode), or from a file with live
// reload, golden jobs and the old policy kept on error (home mode).
package scriptsched
