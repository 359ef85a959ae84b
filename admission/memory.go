package admission

import (
	"context"
	"slices"
	"sync"
)

// MemoryStore keeps tenants and usage in memory: for tests and for services that configure limits at start.
type MemoryStore struct {
	mu      sync.Mutex
	tenants map[string]Tenant
	usage   map[usageKey]Hour
	ids     map[int64][]string
}

type usageKey struct {
	tenant string
	hour   int64
}

// NewMemoryStore returns an empty store.
func NewMemoryStore() *MemoryStore {
	return &MemoryStore{tenants: map[string]Tenant{}, usage: map[usageKey]Hour{}, ids: map[int64][]string{}}
}

// Tenants implements Store.
func (m *MemoryStore) Tenants(context.Context) ([]Tenant, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make([]Tenant, 0, len(m.tenants))
	for _, t := range m.tenants {
		t.Limits.Models = slices.Clone(t.Limits.Models)
		out = append(out, t)
	}
	return out, nil
}

// SaveTenant implements Store.
func (m *MemoryStore) SaveTenant(_ context.Context, t Tenant) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	t.Limits.Models = slices.Clone(t.Limits.Models)
	m.tenants[t.ID] = t
	return nil
}

// UsageSince implements Store.
func (m *MemoryStore) UsageSince(_ context.Context, hour int64) ([]Hour, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []Hour
	for k, h := range m.usage {
		if k.hour >= hour {
			out = append(out, h)
		}
	}
	return out, nil
}

// AddUsage implements Store.
func (m *MemoryStore) AddUsage(_ context.Context, delta []Hour, hour int64, ids []string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ids[hour] = append(m.ids[hour], ids...)
	for _, d := range delta {
		k := usageKey{d.Tenant, d.Hour}
		h := m.usage[k]
		h.Tenant, h.Hour = d.Tenant, d.Hour
		h.Usage.Prompt += d.Usage.Prompt
		h.Usage.Output += d.Usage.Output
		h.Jobs += d.Jobs
		m.usage[k] = h
	}
	return nil
}

// RecentIDs implements Store.
func (m *MemoryStore) RecentIDs(_ context.Context, hour int64) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []string
	for h, ids := range m.ids {
		if h >= hour {
			out = append(out, ids...)
		}
	}
	return out, nil
}

// DropUsage implements Store.
func (m *MemoryStore) DropUsage(_ context.Context, before int64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for h := range m.ids {
		if h < before {
			delete(m.ids, h)
		}
	}
	for k := range m.usage {
		if k.hour < before {
			delete(m.usage, k)
		}
	}
	return nil
}
