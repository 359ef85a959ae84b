// Package admission decides whether a request may enter: tokens per day, requests and tokens per minute, concurrent
// jobs and allowed models of its tenant, the capacity of the whole, and a deadline that cannot be met. What it lets
// in is reserved at once and settled with the real usage at the end, so that a burst cannot slip through while earlier
// requests still run. Every refusal has a stable code, a sentence and a Retry-After computed from the real state.
// A check takes well under a microsecond with ten thousand tenants. Clock jumps refill nothing: time is measured on
// the monotonic clock. sqladmission (nested module) keeps tenants and usage in SQLite or PostgreSQL.
package admission
