// Package fetch is an HTTP client for addresses that somebody else gives: it checks each address where it
// is dialled (so that a name which changes between check and use gains nothing), follows at most five
// redirects, to https or to hosts that were allowed by name, and drops credentials when the host changes.
package fetch
