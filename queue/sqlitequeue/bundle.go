package sqlitequeue

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"slices"
	"time"

	"github.com/queen-rbee/queen-rbee/queue"
)

// Short streams that are over when they move into SQLite are a row together: the difference of its key to the first one's, the job's
// id, last, meta, epoch and chunk of each, keys ascending; numbers are varints and byte strings have their length before them.

const (
	minBundle  = 4        // fewer streams are rows of the table whole
	maxBundle  = 64       // streams
	bundleSize = 64 << 10 // bytes, but for the last stream's
)

// bundled is a stream in a bundle.
type bundled struct {
	key         int64
	job         string
	last, epoch uint64
	meta        uint32
	chunk       []byte
}

func appendBundled(b []byte, first int64, s bundled) []byte {
	b = binary.AppendUvarint(b, uint64(s.key-first))
	b = binary.AppendUvarint(b, uint64(len(s.job)))
	b = append(b, s.job...)
	b = binary.AppendUvarint(b, s.last)
	b = binary.AppendUvarint(b, uint64(s.meta))
	b = binary.AppendUvarint(b, s.epoch)
	b = binary.AppendUvarint(b, uint64(len(s.chunk)))
	return append(b, s.chunk...)
}

var errBundle = errors.New("a bundle of streams is damaged")

// parseBundle calls fn for each stream of a bundle; its chunk is valid as long as b.
func parseBundle(first int64, b []byte, fn func(bundled) error) error {
	bad := false
	number := func() uint64 {
		n, k := binary.Uvarint(b)
		if bad = bad || k <= 0; bad {
			return 0
		}
		b = b[k:]
		return n
	}
	text := func() []byte {
		n := number()
		if bad = bad || n > uint64(len(b)); bad {
			return nil
		}
		out := b[:n]
		b = b[n:]
		return out
	}
	for len(b) > 0 {
		s := bundled{key: first + int64(number()), job: string(text()), last: number()}
		meta := number()
		s.epoch, s.chunk = number(), text()
		if bad || meta > 1<<32-1 {
			return errBundle
		}
		s.meta = uint32(meta)
		if err := fn(s); err != nil {
			return err
		}
	}
	return nil
}

// storeWhole writes short streams that are over. settleMu is held.
func (j *Journal) storeWhole(ctx context.Context, tx *sql.Tx, packs []*pack, now int64) error {
	byKey := make([]keyed, len(packs))
	for i, p := range packs {
		key, _ := queue.ParseID(p.s.job) // isWhole saw that it is one
		byKey[i] = keyed{key, p}
	}
	slices.SortFunc(byKey, func(a, b keyed) int { return cmp.Compare(a.key, b.key) })
	var streams [maxBundle]bundled
	for len(byKey) > 0 {
		n, size, first := 0, 0, byKey[0].key
		for n < min(len(byKey), maxBundle) && size < bundleSize && byKey[n].key-first < spread {
			p := byKey[n].p
			streams[n] = bundled{key: byKey[n].key, job: p.s.job, last: p.last, meta: p.coded.meta, epoch: p.epoch, chunk: p.coded.chunk()}
			size += len(streams[n].chunk)
			n++
		}
		if err := j.putBundle(ctx, tx, streams[:n], now); err != nil {
			return err
		}
		byKey = byKey[n:]
	}
	return nil
}

// keyed is a pack and the key in its job's id.
type keyed struct {
	key int64
	p   *pack
}

// execer is a transaction or a connection.
type execer interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

// putBundle writes streams, their keys ascending. settleMu is held.
func (j *Journal) putBundle(ctx context.Context, tx execer, streams []bundled, now int64) error {
	if len(streams) < minBundle {
		for _, s := range streams {
			if _, err := tx.ExecContext(ctx, `INSERT OR REPLACE INTO whole (key, job, last, meta, epoch, written_at, data) VALUES (?, ?, ?, ?, ?, ?, ?)`,
				s.key, s.job, s.last, s.meta, s.epoch, now, s.chunk); err != nil {
				return err
			}
		}
		return nil
	}
	first, data := streams[0].key, j.bundleBuf[:0]
	for _, s := range streams {
		data = appendBundled(data, first, s)
	}
	j.bundleBuf = data
	_, err := tx.ExecContext(ctx, `INSERT INTO bundles (first, last, written_at, data) VALUES (?, ?, ?, ?)`, first, streams[len(streams)-1].key, now, data)
	return err
}

// bundleOf returns a stream from the bundle that has it.
func (j *Journal) bundleOf(ctx context.Context, q querier, key int64, job string) (found bundled, first int64, ok bool, err error) {
	err = each(ctx, q, func(r scanner) error {
		var at int64
		var data []byte
		if err := r.Scan(&at, &data); err != nil || ok {
			return err
		}
		return parseBundle(at, data, func(s bundled) error {
			if s.job == job {
				found, first, ok = s, at, true
			}
			return nil
		})
	}, `SELECT first, data FROM bundles INDEXED BY bundles_last WHERE last BETWEEN ? AND ? AND first <= ?`, key, key+spread, key)
	if errors.Is(err, errBundle) {
		err = damaged(j.db.path, err)
	}
	return found, first, ok, err
}

// raiseFloor makes the floor at least the newest job of a bundle.
func (j *Journal) raiseFloor(ctx context.Context) error {
	return each(ctx, j.db.w, func(r scanner) error {
		var first int64
		var data []byte
		if err := r.Scan(&first, &data); err != nil {
			return err
		}
		if err := parseBundle(first, data, func(s bundled) error {
			j.floor = max(j.floor, s.job)
			return nil
		}); err != nil {
			return damaged(j.db.path, err)
		}
		return nil
	}, `SELECT first, data FROM bundles ORDER BY last DESC LIMIT 1`)
}

// eraseBundled takes a stream out of its bundle.
func (j *Journal) eraseBundled(ctx context.Context, key int64, job string) error {
	_, first, ok, err := j.bundleOf(ctx, j.db.w, key, job)
	if err != nil || !ok {
		return err
	}
	var data []byte
	var written int64
	if err := j.db.w.QueryRowContext(ctx, `DELETE FROM bundles WHERE first = ? RETURNING written_at, data`, first).Scan(&written, &data); err != nil {
		return err
	}
	var left []bundled
	if err := parseBundle(first, data, func(s bundled) error {
		if s.job != job {
			left = append(left, s)
		}
		return nil
	}); err != nil || len(left) == 0 {
		return err
	}
	return j.putBundle(ctx, j.db.w, left, written)
}

// forgetBundles deletes up to so many expired bundles and returns the jobs whose streams they had.
func (j *Journal) forgetBundles(ctx context.Context, before time.Time, most int) (gone []string, err error) {
	err = each(ctx, j.db.w, func(r scanner) error {
		var first int64
		var data []byte
		if err := r.Scan(&first, &data); err != nil {
			return err
		}
		return parseBundle(first, data, func(s bundled) error {
			gone = append(gone, s.job)
			return nil
		})
	}, `DELETE FROM bundles WHERE first IN (SELECT first FROM bundles WHERE last < ? AND written_at < ? ORDER BY first LIMIT ?) RETURNING first, data`,
		queue.KeyBefore(before), before.UnixMicro(), most)
	return gone, err
}
