package sqlitequeue

import "os"

// WithSync replaces how the journal syncs files.
func (o Options) WithSync(fsync func(*os.File) error) Options {
	o.fsync = fsync
	return o
}

// MigrateTo makes a job store of an earlier version.
func Migrations() []string { return migrations() }

// JournalMigrations are those of the journal.
func JournalMigrations() []string { return journalMigrations() }

// Codec of the chunks.
func EncodeFrames(frames [][]byte, metas []uint32) []byte {
	var raw []byte
	var refs []frameRef
	for i, f := range frames {
		refs = append(refs, frameRef{meta: metas[i], off: len(raw), n: len(f)})
		raw = append(raw, f...)
	}
	return encodeChunk(nil, raw, refs)
}

// DecodeFrames is the reverse.
func DecodeFrames(chunk []byte, fn func(meta uint32, data []byte) error) error {
	return decodeChunk(chunk, fn)
}
