package batches

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"
)

// Memory is a Store that forgets everything when the program ends.
type Memory struct {
	mu      sync.Mutex
	files   map[string]File
	chunks  map[string]map[int][]byte
	batches map[string]Batch
	lines   map[string]map[int]Line
}

// NewMemory makes an empty Memory.
func NewMemory() *Memory {
	return &Memory{files: map[string]File{}, chunks: map[string]map[int][]byte{}, batches: map[string]Batch{}, lines: map[string]map[int]Line{}}
}

// SaveFile implements Store.
func (m *Memory) SaveFile(_ context.Context, f File) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.files[f.ID] = f
	return nil
}

// File implements Store.
func (m *Memory) File(_ context.Context, id string) (File, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f, ok := m.files[id]
	if !ok {
		return File{}, fmt.Errorf("file %s: %w", id, ErrNotFound)
	}
	return f, nil
}

// page orders newest first and cuts out what a list call wants.
func page[T any](all []T, key func(T) (time.Time, string), after string, limit int) []T {
	slices.SortFunc(all, func(a, b T) int {
		at, ai := key(a)
		bt, bi := key(b)
		if c := bt.Compare(at); c != 0 {
			return c
		}
		return bytes.Compare([]byte(bi), []byte(ai))
	})
	if after != "" {
		i := slices.IndexFunc(all, func(x T) bool { _, id := key(x); return id == after })
		if i < 0 {
			return nil
		}
		all = all[i+1:]
	}
	return all[:min(limit, len(all))]
}

// Files implements Store.
func (m *Memory) Files(_ context.Context, tenant, purpose, after string, limit int) ([]File, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []File
	for _, f := range m.files {
		if f.Tenant == tenant && (purpose == "" || f.Purpose == purpose) {
			all = append(all, f)
		}
	}
	return page(all, func(f File) (time.Time, string) { return f.Created, f.ID }, after, limit), nil
}

// DeleteFile implements Store.
func (m *Memory) DeleteFile(_ context.Context, id string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.files, id)
	delete(m.chunks, id)
	return nil
}

// WriteChunk implements Store.
func (m *Memory) WriteChunk(_ context.Context, file string, seq int, data []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.chunks[file] == nil {
		m.chunks[file] = map[int][]byte{}
	}
	m.chunks[file][seq] = bytes.Clone(data)
	return nil
}

// ReadChunk implements Store.
func (m *Memory) ReadChunk(_ context.Context, file string, seq int) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	b, ok := m.chunks[file][seq]
	if !ok {
		return nil, fmt.Errorf("chunk %d of file %s: %w", seq, file, ErrNotFound)
	}
	return bytes.Clone(b), nil
}

// SaveBatch implements Store.
func (m *Memory) SaveBatch(_ context.Context, b Batch) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.save(b)
	return nil
}

func (m *Memory) save(b Batch) {
	b.At = maps.Clone(b.At)
	m.batches[b.ID] = b
}

// Batch implements Store.
func (m *Memory) Batch(_ context.Context, id string) (Batch, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	b, ok := m.batches[id]
	if !ok {
		return Batch{}, fmt.Errorf("batch %s: %w", id, ErrNotFound)
	}
	b.At = maps.Clone(b.At)
	return b, nil
}

// Batches implements Store.
func (m *Memory) Batches(_ context.Context, tenant, after string, limit int) ([]Batch, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []Batch
	for _, b := range m.batches {
		if b.Tenant == tenant {
			all = append(all, b)
		}
	}
	return page(all, func(b Batch) (time.Time, string) { return b.Created, b.ID }, after, limit), nil
}

// Unfinished implements Store.
func (m *Memory) Unfinished(context.Context) ([]Batch, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []Batch
	for _, b := range m.batches {
		if !b.Status.Final() {
			b.At = maps.Clone(b.At)
			all = append(all, b)
		}
	}
	slices.SortFunc(all, func(a, b Batch) int { return a.Created.Compare(b.Created) })
	return all, nil
}

// SaveLines implements Store.
func (m *Memory) SaveLines(_ context.Context, b Batch, lines []Line) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.lines[b.ID] == nil {
		m.lines[b.ID] = map[int]Line{}
	}
	for _, l := range lines {
		m.lines[b.ID][l.Number] = Line{l.Number, l.Failed, bytes.Clone(l.Data)}
	}
	m.save(b)
	return nil
}

// Lines implements Store.
func (m *Memory) Lines(_ context.Context, batch string, after, limit int) ([]Line, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []Line
	for n, l := range m.lines[batch] {
		if n > after {
			out = append(out, l)
		}
	}
	slices.SortFunc(out, func(a, b Line) int { return a.Number - b.Number })
	return out[:min(limit, len(out))], nil
}

// DropLines implements Store.
func (m *Memory) DropLines(_ context.Context, batch string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.lines, batch)
	return nil
}
