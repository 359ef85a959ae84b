// Package auth answers one question for an HTTP service: who is this, and may they. It keeps API keys of the form
// rbee_<id>_<secret> (shown once, SHA-256 at rest, looked up by id, compared in constant time), the tenant, scope,
// expiry and model allow-list of each, damps guessing by remote address, and writes a hash-chained audit log whose
// head is anchored in the store, so that an edited, reordered or cut log shows. Verifying a key takes no lock and
// allocates nothing. It depends on the standard library only; sqlauth (nested module) keeps the keys in SQLite or
// PostgreSQL.
package auth
