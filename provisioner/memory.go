package provisioner

import (
	"cmp"
	"context"
	"slices"
	"sync"
)

// NewMemoryStore returns a Store that forgets when the process ends.
func NewMemoryStore() Store {
	return &memoryStore{entries: map[string]Entry{}, downloads: map[string]Record{}}
}

type memoryStore struct {
	mu        sync.Mutex
	entries   map[string]Entry
	downloads map[string]Record
}

func (s *memoryStore) Entries(ctx context.Context) ([]Entry, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]Entry, 0, len(s.entries))
	for _, e := range s.entries {
		out = append(out, e.clone())
	}
	slices.SortFunc(out, func(a, b Entry) int { return cmp.Compare(a.Name, b.Name) })
	return out, ctx.Err()
}

func (s *memoryStore) SaveEntry(ctx context.Context, e Entry) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.entries[e.Name] = e.clone()
	return nil
}

func (s *memoryStore) DeleteEntry(ctx context.Context, name string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.entries, name)
	return nil
}

func (s *memoryStore) Downloads(ctx context.Context) ([]Record, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]Record, 0, len(s.downloads))
	for _, r := range s.downloads {
		out = append(out, r)
	}
	slices.SortFunc(out, func(a, b Record) int { return cmp.Compare(a.ID, b.ID) })
	return out, ctx.Err()
}

func (s *memoryStore) SaveDownload(ctx context.Context, r Record) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.downloads[r.ID] = r
	return nil
}

func (s *memoryStore) DeleteDownload(ctx context.Context, id string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.downloads, id)
	return nil
}
