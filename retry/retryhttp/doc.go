// Package retryhttp gives an http.Client the rules of package retry, on top of hashicorp/go-retryablehttp: full jitter,
// Retry-After capped, a budget shared by all requests, a breaker per host. A request that is not idempotent is never
// sent again once the server may have read a byte of it, unless it carries an idempotency key; a body that can't be
// rewound is never buffered and never sent twice.
package retryhttp
