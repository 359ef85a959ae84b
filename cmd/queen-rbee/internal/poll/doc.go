// Package poll watches many connections from one goroutine, so that a stream which waits needs none of its own. It uses
// Linux's epoll; elsewhere New says that it can't, and everything goes on with a goroutine for each stream.
package poll

import "errors"

// ErrUnsupported is returned by New where there is no epoll.
var ErrUnsupported = errors.New("poll: this system has no epoll")
