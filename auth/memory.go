package auth

import (
	"context"
	"slices"
	"sync"
)

// MemoryStore keeps keys in memory: for tests and for services that load keys from elsewhere at start.
type MemoryStore struct {
	mu   sync.Mutex
	keys map[string]Key
	head Head
}

// NewMemoryStore returns an empty store.
func NewMemoryStore() *MemoryStore { return &MemoryStore{keys: map[string]Key{}} }

// Keys implements Store.
func (m *MemoryStore) Keys(context.Context) ([]Key, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make([]Key, 0, len(m.keys))
	for _, k := range m.keys {
		k.Models = slices.Clone(k.Models)
		out = append(out, k)
	}
	return out, nil
}

// SaveKey implements Store.
func (m *MemoryStore) SaveKey(_ context.Context, k Key) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	k.Models = slices.Clone(k.Models)
	m.keys[k.ID] = k
	return nil
}

// AuditHead implements Store.
func (m *MemoryStore) AuditHead(context.Context) (Head, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.head, nil
}

// SetAuditHead implements Store.
func (m *MemoryStore) SetAuditHead(_ context.Context, h Head) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.head = h
	return nil
}
