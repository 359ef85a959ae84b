//go:build !linux || !(amd64 || arm64)

package sqlitequeue

import "os"

// quickWriter is for systems where it has been tried.
type quickWriter struct{}

func (quickWriter) writeAt(*os.File, []byte, int64) (done bool, err error) { return false, nil }

func datasync(f *os.File) error { return f.Sync() }

// cramped is not known here: SQLite will say.
func cramped(*os.File) bool { return false }
