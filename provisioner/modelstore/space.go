package modelstore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
)

// makeRoom sees to it that what is missing of the files fits into the budget and leaves the headroom,
// and drops other models for it where that helps. Jobs that run count with what they still need.
func (s *Store) makeRoom(ctx context.Context, j *Job, files []want) error {
	s.space.Lock()
	defer s.space.Unlock()
	var need int64
	for _, w := range files {
		need += s.missing(j.ref, w)
	}
	for range 3 {
		over, facts, err := s.shortage(j, need)
		if err != nil {
			return &Error{Kind: ErrSource, Ref: j.ref, Message: "the disk can't be asked for its free space", Err: err}
		}
		if over <= 0 {
			return nil
		}
		if need == 0 {
			return nil // everything is there
		}
		items := s.items()
		refs, err := s.choose(ctx, items, over)
		if err != nil || len(refs) == 0 {
			return s.noSpace(j.ref, need, facts, err)
		}
		freed := false
		for _, ref := range refs {
			if !slices.ContainsFunc(items, func(i Item) bool { return i.Ref == ref }) {
				continue // a hook must not name what it was not offered: busy or pinned
			}
			if err := s.Evict(ref); err != nil {
				s.log.Warn("model not dropped", "ref", ref, "error", err)
				continue
			}
			s.log.Info("model dropped to make room", "ref", ref, "for", j.ref)
			freed = true
		}
		if !freed {
			return s.noSpace(j.ref, need, facts, nil)
		}
	}
	over, facts, err := s.shortage(j, need)
	if err == nil && over <= 0 {
		return nil
	}
	return s.noSpace(j.ref, need, facts, err)
}

// missing is how much of a file is still to be written.
func (s *Store) missing(ref string, w want) int64 {
	if w.SHA256 != "" {
		if info, err := s.root.Lstat(blobName(w.SHA256)); err == nil && info.Size() == w.Size {
			return 0
		}
	}
	return max(0, w.Size-s.partialDone(partialID(ref, w)))
}

// shortage is by how many bytes need does not fit, 0 or less when it does.
func (s *Store) shortage(j *Job, need int64) (over int64, facts map[string]any, err error) {
	s.mu.Lock()
	others, used, seen := int64(0), int64(0), map[string]bool{}
	for _, other := range s.jobs {
		if other != j {
			others += other.left()
		}
	}
	for _, m := range s.models {
		for _, f := range m.Files {
			if f.SHA256 != "" && !seen[f.SHA256] {
				seen[f.SHA256] = true
				used += f.Size
			}
		}
	}
	s.mu.Unlock()
	free, err := s.o.Free(s.dir)
	if err != nil {
		return 0, nil, err
	}
	over = need + others + max(0, s.o.Headroom) - free
	facts = map[string]any{"need_bytes": need, "disk_free_bytes": free, "store_bytes": used, "headroom_bytes": max(0, s.o.Headroom)}
	if s.o.Budget > 0 {
		over = max(over, used+others+need-s.o.Budget)
		facts["budget_bytes"] = s.o.Budget
	}
	return over, facts, nil
}

// items are the models that may be dropped.
func (s *Store) items() []Item {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []Item
	for ref, m := range s.models {
		if !m.owned() || m.Pinned || s.uses[ref] > 0 || s.jobs[ref] != nil {
			continue
		}
		it := Item{Ref: ref, Added: m.Added, LastUsed: m.LastUsed, Uses: m.Uses}
		for _, f := range m.Files {
			if !s.elsewhereLocked(f.SHA256, ref) {
				it.Size += f.Size
			}
		}
		out = append(out, it)
	}
	slices.SortFunc(out, func(a, b Item) int { return cmp.Or(a.LastUsed.Compare(b.LastUsed), cmp.Compare(a.Ref, b.Ref)) })
	return out
}

func (s *Store) elsewhereLocked(sum, but string) bool {
	for ref, m := range s.models {
		if ref != but && slices.ContainsFunc(m.Files, func(f File) bool { return f.SHA256 == sum }) {
			return true
		}
	}
	for _, j := range s.jobs {
		if j.needs(sum) {
			return true
		}
	}
	return false
}

// choose asks the hook what to drop; without one, the least recently used until it is enough.
func (s *Store) choose(ctx context.Context, items []Item, need int64) ([]string, error) {
	if s.o.Evictor != nil {
		return s.o.Evictor(ctx, items, need)
	}
	var refs []string
	var sum int64
	for _, it := range items {
		if sum >= need {
			break
		}
		refs = append(refs, it.Ref)
		sum += it.Size
	}
	if sum < need {
		return nil, nil // dropping everything would not do: drop nothing
	}
	return refs, nil
}

// noSpace says what is missing and what to free.
func (s *Store) noSpace(ref string, need int64, facts map[string]any, err error) error {
	if facts == nil {
		facts = map[string]any{"need_bytes": need}
	}
	var hints []string
	held := s.List()
	slices.SortFunc(held, func(a, b Model) int { return cmp.Compare(b.SizeBytes, a.SizeBytes) })
	for _, m := range held {
		if !m.Owned || len(hints) == 3 {
			continue
		}
		why := ""
		switch {
		case m.Busy:
			why = ", in use"
		case m.Pinned:
			why = ", pinned"
		}
		hints = append(hints, fmt.Sprintf("%s (%s%s)", m.Ref, human(m.SizeBytes), why))
	}
	free, _ := facts["disk_free_bytes"].(int64)
	message := fmt.Sprintf("it needs %s more and the disk has %s free, of which %s stay free", human(need), human(free), human(max(0, s.o.Headroom)))
	if need == 0 {
		message = fmt.Sprintf("the disk filled up during the download (%s free); what was downloaded was removed", human(free))
	}
	if s.o.Budget > 0 {
		used, _ := facts["store_bytes"].(int64)
		message += fmt.Sprintf("; models may take %s and take %s", human(s.o.Budget), human(used))
	}
	if len(hints) > 0 {
		message += "; free some with `rbee rm`, the largest here: " + strings.Join(hints, ", ")
	} else {
		message += "; no model is left to remove here: free the disk otherwise, or use another hive"
	}
	facts["largest"] = hints
	return &Error{Kind: ErrNoSpace, Ref: ref, Message: message, Err: err, Facts: facts}
}

// diskError turns a full disk into the error that says what to free.
func (s *Store) diskError(ref, what string, err error) error {
	if full(err) {
		free, _ := s.o.Free(s.dir)
		return s.noSpace(ref, 0, map[string]any{"disk_free_bytes": free}, err)
	}
	return &Error{Kind: ErrSource, Ref: ref, Message: what, Err: err}
}

func full(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}
