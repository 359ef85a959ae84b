// Package retry repeats what may succeed a second time, and stops what would make an outage worse: exponential
// backoff with full jitter, Retry-After honoured and capped, a budget that keeps a storm of failures from becoming a
// storm of attempts, and circuit breakers with half-open probes. It needs the standard library only.
package retry
