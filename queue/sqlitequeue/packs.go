package sqlitequeue

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"time"

	"github.com/queen-rbee/queen-rbee/queue"
)

// Jobs that are over by the time SQLite gets them, the short ones, are a row together: the row of a job of its own costs
// more than all else that the store does for it. Nothing changes in a pack but that old jobs leave it.

const (
	minPack = 8   // fewer are rows
	maxPack = 128 // jobs
	// spread bounds how far the keys of one pack are apart: a minute, see queue.KeyBefore. It makes the pack of a key easy to
	// find.
	spread = 60_000 << 22
)

// pack writes ended jobs, their keys ascending.
func (s *Store) pack(ctx context.Context, jobs []*queue.Record) error {
	for len(jobs) > 0 {
		n := 1
		for n < min(len(jobs), maxPack) && jobs[n].Key-jobs[0].Key < spread {
			n++
		}
		if n < minPack {
			for _, r := range jobs[:n] {
				if err := s.insertHeld(ctx, &held{rec: *r}); err != nil {
					return err
				}
			}
		} else if err := s.putPack(ctx, jobs[:n]); err != nil {
			return err
		}
		jobs = jobs[n:]
	}
	return nil
}

func (s *Store) putPack(ctx context.Context, jobs []*queue.Record) error {
	data := append(s.packBuf[:0], '[')
	oldest := jobs[0].Completed
	tallies := map[queue.Tally]int64{}
	for i, r := range jobs {
		if i > 0 {
			data = append(data, ',')
		}
		data = appendJob(data, r)
		if r.Completed.Before(oldest) {
			oldest = r.Completed
		}
		tallies[tallyOf(r)]++
	}
	data = append(data, ']')
	s.packBuf = data
	sum, err := json.Marshal(flat(tallies))
	if err != nil {
		return err
	}
	_, err = s.st.pack.ExecContext(ctx, jobs[0].Key, jobs[len(jobs)-1].Key, micros(oldest), string(sum), string(data))
	return err
}

func tallyOf(r *queue.Record) queue.Tally {
	return queue.Tally{State: r.State, Model: r.Model, Tenant: r.Tenant, Priority: r.Priority}
}

// flat is a map of tallies as a list.
func flat(m map[queue.Tally]int64) []queue.Tally {
	out := make([]queue.Tally, 0, len(m))
	for t, n := range m {
		t.N = n
		out = append(out, t)
	}
	return out
}

// unpack reads the jobs of a pack, keys ascending.
func unpack(data []byte) ([]queue.Record, error) {
	var list []packed
	if err := json.Unmarshal(data, &list); err != nil {
		return nil, errors.Join(errCorrupt(), err)
	}
	out := make([]queue.Record, len(list))
	for i := range list {
		out[i] = list[i].record()
	}
	return out, nil
}

// inPack returns a job from the pack that has it, or ErrNotFound. Only that job is parsed: what begins it in the text can't be in
// a string, where quotes are escaped.
func (s *Store) inPack(ctx context.Context, key int64) (queue.Record, error) {
	var p packed
	begin := append(strconv.AppendInt([]byte(`{"k":`), key, 10), ',')
	err := each(ctx, s.db.r, func(row scanner) error {
		var data []byte
		if err := row.Scan(&data); err != nil || p.Key != 0 {
			return err
		}
		at := bytes.Index(data, begin)
		if at < 0 {
			return nil
		}
		if err := json.NewDecoder(bytes.NewReader(data[at:])).Decode(&p); err != nil {
			return errors.Join(errCorrupt(), err)
		}
		return nil
	}, `SELECT data FROM packs INDEXED BY packs_last WHERE last BETWEEN ? AND ? AND first <= ?`, key, key+spread, key)
	if err == nil && p.Key == 0 {
		err = queue.ErrNotFound
	}
	if errors.Is(err, queue.ErrNotFound) {
		return queue.Record{}, err
	}
	return p.record(), typed(s.db.path, err)
}

// listPacks adds the newest jobs of packs that a filter selects to those of rows, which are the newest there are.
func (s *Store) listPacks(ctx context.Context, f queue.Filter, before int64, out []queue.Record) ([]queue.Record, error) {
	enough := errors.New("enough")
	err := each(ctx, s.db.r, func(row scanner) error {
		var last int64
		var sums, data []byte
		if err := row.Scan(&last, &sums, &data); err != nil {
			return err
		}
		if len(out) >= f.Limit && last < out[f.Limit-1].Key {
			return enough
		}
		if ok, err := selects(f, sums); !ok {
			return err
		}
		jobs, err := unpack(data)
		for _, r := range jobs {
			if r.Key < before && matches(f, tallyOf(&r)) {
				out = append(out, r)
			}
		}
		slices.SortFunc(out, descending)
		out = out[:min(len(out), f.Limit)]
		return err
	}, `SELECT last, tallies, data FROM packs WHERE first < ? ORDER BY last DESC`, before)
	if errors.Is(err, enough) {
		err = nil
	}
	return out, err
}

func matches(f queue.Filter, t queue.Tally) bool {
	return (f.State == "" || f.State == t.State) && (f.Model == "" || f.Model == t.Model) && (f.Tenant == "" || f.Tenant == t.Tenant) &&
		(f.Priority == "" || f.Priority == t.Priority)
}

// selects reports whether a filter selects anything of a pack with these tallies.
func selects(f queue.Filter, sums []byte) (bool, error) {
	var tallies []queue.Tally
	if err := json.Unmarshal(sums, &tallies); err != nil {
		return false, errors.Join(errCorrupt(), err)
	}
	return slices.ContainsFunc(tallies, func(t queue.Tally) bool { return matches(f, t) }), nil
}

// countPacks adds up the tallies of all packs, and returns the greatest key in one.
func countPacks(ctx context.Context, q querier, sum map[queue.Tally]int64) (maxKey int64, err error) {
	err = each(ctx, q, func(row scanner) error {
		var last int64
		var sums []byte
		if err := row.Scan(&last, &sums); err != nil {
			return err
		}
		maxKey = max(maxKey, last)
		var tallies []queue.Tally
		if err := json.Unmarshal(sums, &tallies); err != nil {
			return errors.Join(errCorrupt(), err)
		}
		for _, t := range tallies {
			n := t.N
			t.N = 0
			sum[t] += n
		}
		return nil
	}, `SELECT last, tallies FROM packs`)
	return maxKey, err
}

// purgePacks takes up to limit jobs that were completed before the given time out of packs, and counts them. writing is held.
func (s *Store) purgePacks(ctx context.Context, before time.Time, limit int, sum map[queue.Tally]int64) error {
	for limit > 0 {
		var first int64
		var data []byte
		err := s.db.w.QueryRowContext(ctx, `SELECT first, data FROM packs WHERE oldest < ? ORDER BY oldest LIMIT 1`, before.UnixMicro()).Scan(&first, &data)
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		if err != nil {
			return err
		}
		jobs, err := unpack(data)
		if err != nil {
			return err
		}
		var left []*queue.Record
		for i := range jobs {
			if r := &jobs[i]; limit > 0 && r.Completed.Before(before) {
				sum[tallyOf(r)]++
				limit--
			} else {
				left = append(left, r)
			}
		}
		if _, err := s.db.w.ExecContext(ctx, `DELETE FROM packs WHERE first = ?`, first); err != nil {
			return err
		}
		if len(left) > 0 {
			if err := s.putPack(ctx, left); err != nil {
				return err
			}
		}
	}
	return nil
}
