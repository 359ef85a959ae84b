//go:build !linux || !(amd64 || arm64)

package sqlitequeue

import "os"

// quickWriter is for systems where it has been tried.
type quickWriter struct{}

func (quickWriter) writeAt(*os.File, []byte, int64) (done bool, err error) { return false, nil }

// aside is for systems that can sync a file while no thread waits.
type aside struct{}

func (*aside) sync(f *os.File) error { return f.Sync() }
func (*aside) close()                {}

// cramped is not known here: SQLite will say.
func cramped(*os.File) bool { return false }
