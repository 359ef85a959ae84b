// Package hivelifecycle starts, adopts, supervises and stops hives: as a child process on this machine, or on
// another machine behind a Runner (SSH, through whatever the caller plugs in). Every hive has an identity, an id
// and a token that the caller's data directory keeps, and a hive that runs already is taken over only after it has
// proved that it knows that token. Each step is reported as an Event with a plain sentence, and a step that fails
// says what to do next.
package hivelifecycle
