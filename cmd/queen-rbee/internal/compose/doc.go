// Package compose joins the libraries into the queen: it adapts one module's types to the small interfaces that the next
// one declares for itself, and holds no policy. Each adapter is pinned by a var _ line.
package compose
