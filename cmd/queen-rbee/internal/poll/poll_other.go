//go:build !linux

package poll

import (
	"log/slog"
	"net"
)

// Loop is not available on this system.
type Loop struct{}

// Watch is not available on this system.
type Watch struct{}

// New returns ErrUnsupported.
func New(*slog.Logger) (*Loop, error) { return nil, ErrUnsupported }

// Close does nothing.
func (l *Loop) Close() error { return nil }

// Readable reports that it can't.
func (l *Loop) Readable(net.Conn, func()) (*Watch, bool) { return nil, false }

// Gone reports that it can't.
func (l *Loop) Gone(net.Conn, func()) (*Watch, bool) { return nil, false }

// Later does nothing.
func (l *Loop) Later(func()) {}

// Stop does nothing.
func (w *Watch) Stop() {}

// Pause does nothing.
func (w *Watch) Pause() {}

// Resume does nothing.
func (w *Watch) Resume() {}

// Kick does nothing.
func (w *Watch) Kick() {}
