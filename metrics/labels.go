package metrics

import (
	"sync"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// other stands for every value beyond a label's bound.
const other = "other"

// bound lets through the first max distinct values of a label.
type bound struct {
	mu   sync.RWMutex
	max  int
	seen map[string]struct{}
}

func newBound(max int) *bound { return &bound{max: max, seen: make(map[string]struct{})} }

func (b *bound) value(v string) string {
	if v == "" {
		return ""
	}
	b.mu.RLock()
	_, ok := b.seen[v]
	full := len(b.seen) >= b.max
	b.mu.RUnlock()
	switch {
	case ok:
		return v
	case full || len(v) > 128:
		return other
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.seen) >= b.max {
		return other
	}
	b.seen[v] = struct{}{}
	return v
}

// key names one attribute set; unused fields are empty.
type key struct{ a, b, c, d string }

// labels is one attribute set in the forms that instruments take; ready slices save an allocation a call.
type labels struct {
	record  []metric.RecordOption
	add     []metric.AddOption
	observe []metric.ObserveOption
}

// sets caches attribute sets, so that recording builds none. Its size is bounded by the labels.
type sets struct {
	mu    sync.RWMutex
	m     map[key]*labels
	names [4]string
	fixed []attribute.KeyValue
}

func newSets(fixed []attribute.KeyValue, names ...string) *sets {
	s := &sets{fixed: fixed, m: make(map[key]*labels)}
	copy(s.names[:], names)
	return s
}

func (s *sets) get(k key) *labels {
	s.mu.RLock()
	l := s.m[k]
	s.mu.RUnlock()
	if l != nil {
		return l
	}
	kvs := append([]attribute.KeyValue(nil), s.fixed...)
	for i, v := range [4]string{k.a, k.b, k.c, k.d} {
		if v != "" && s.names[i] != "" {
			kvs = append(kvs, attribute.String(s.names[i], v))
		}
	}
	o := metric.WithAttributeSet(attribute.NewSet(kvs...))
	l = &labels{[]metric.RecordOption{o}, []metric.AddOption{o}, []metric.ObserveOption{o}}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.m[k] = l
	return l
}
