package registry

import (
	"cmp"
	"context"
	"slices"
	"sync"
)

// Store keeps hives across restarts. Implementations must be safe for concurrent use; registrytest
// holds what every one of them must do.
type Store interface {
	// SaveHive adds the hive or replaces the one with its name. It returns when the record is durable.
	SaveHive(ctx context.Context, h Hive) error
	// DeleteHive removes a hive. It is idempotent: a hive that is not there is no error.
	DeleteHive(ctx context.Context, name string) error
	// Hives returns every stored hive, by name.
	Hives(ctx context.Context) ([]Hive, error)
}

// NewMemoryStore returns a Store that forgets when the process ends.
func NewMemoryStore() Store { return &memoryStore{hives: map[string]Hive{}} }

type memoryStore struct {
	mu    sync.Mutex
	hives map[string]Hive
}

func (s *memoryStore) SaveHive(ctx context.Context, h Hive) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hives[h.Name] = h.Clone()
	return nil
}

func (s *memoryStore) DeleteHive(ctx context.Context, name string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.hives, name)
	return nil
}

func (s *memoryStore) Hives(ctx context.Context) ([]Hive, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]Hive, 0, len(s.hives))
	for _, h := range s.hives {
		out = append(out, h.Clone())
	}
	slices.SortFunc(out, func(a, b Hive) int { return cmp.Compare(a.Name, b.Name) })
	return out, nil
}
