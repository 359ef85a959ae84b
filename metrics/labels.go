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

// sets caches the options of attribute sets, so that recording builds none. Its size is bounded by the labels.
type sets struct {
	m     sync.Map // key -> metric.MeasurementOption
	names [4]string
	fixed []attribute.KeyValue
}

func newSets(fixed []attribute.KeyValue, names ...string) *sets {
	s := &sets{fixed: fixed}
	copy(s.names[:], names)
	return s
}

func (s *sets) get(k key) metric.MeasurementOption {
	if o, ok := s.m.Load(k); ok {
		return o.(metric.MeasurementOption)
	}
	kvs := append([]attribute.KeyValue(nil), s.fixed...)
	for i, v := range [4]string{k.a, k.b, k.c, k.d} {
		if v != "" && s.names[i] != "" {
			kvs = append(kvs, attribute.String(s.names[i], v))
		}
	}
	o, _ := s.m.LoadOrStore(k, metric.WithAttributeSet(attribute.NewSet(kvs...)))
	return o.(metric.MeasurementOption)
}
