package metrics

import (
	"context"
	"sync"
	"sync/atomic"

	"go.opentelemetry.io/otel/metric"
)

// sample is one value for a histogram; one of the two is set.
type sample struct {
	seconds metric.Float64Histogram
	whole   metric.Int64Histogram
	v       float64
	labels  *labels
}

// buffered is how many values wait at most for an instrument to take them.
const buffered = 256

// buffer holds values back until there are many or somebody reads the instruments: recording one by one, each with cold
// caches, costs several times as much. It is never behind what a reader sees.
type buffer struct {
	mu    sync.Mutex
	list  []sample
	spare []sample
	order sync.Mutex // held while values are handed on
}

// add keeps values for later; whoever fills the buffer hands them all on.
func (b *buffer) add(list ...sample) {
	b.mu.Lock()
	if b.list == nil {
		b.list = make([]sample, 0, buffered)
	}
	b.list = append(b.list, list...)
	full := len(b.list) > buffered-len(list)
	b.mu.Unlock()
	if full {
		b.flush()
	}
}

// flush hands on what waits.
func (b *buffer) flush() {
	b.order.Lock()
	defer b.order.Unlock()
	b.mu.Lock()
	list := b.list
	b.list, b.spare = b.spare, nil
	b.mu.Unlock()
	ctx := context.Background()
	for i := range list {
		if s := &list[i]; s.seconds != nil {
			s.seconds.Record(ctx, s.v, s.labels.record...)
		} else {
			s.whole.Record(ctx, int64(s.v), s.labels.record...)
		}
	}
	b.mu.Lock()
	b.spare = list[:0]
	b.mu.Unlock()
}

// outcome are the label sets of one way for a request to end.
type outcome struct {
	active                          *gauge
	request, byModel, input, output *labels
}

// outcomes caches them. Only labels that the bounds leave as they are have a place in it, so that it is bounded too.
type outcomes struct {
	mu sync.RWMutex
	m  map[key]*outcome
}

// outcome finds the labels for the end of a request.
func (i *Instruments) outcome(r *Request) *outcome {
	k := key{r.Operation, r.Model, class(r.Status), r.Code}
	i.outcomes.mu.RLock()
	o := i.outcomes.m[k]
	i.outcomes.mu.RUnlock()
	if o != nil {
		return o
	}
	op, model, code := i.ops.value(r.Operation), i.models.value(r.Model), i.codes.value(r.Code)
	o = &outcome{active: i.serving.get(op, i.byOp), request: i.request.get(key{op, model, k.c, code}), byModel: i.byModel.get(key{a: op, b: model}),
		input: i.byTokens.get(key{a: op, b: model, c: "input"}), output: i.byTokens.get(key{a: op, b: model, c: "output"})}
	if op == r.Operation && model == r.Model && code == r.Code {
		i.outcomes.mu.Lock()
		i.outcomes.m[k] = o
		i.outcomes.mu.Unlock()
	}
	return o
}

// gauge is a number that goes up and down, with its labels.
type gauge struct {
	n      atomic.Int64
	labels *labels
}

// gauges are the ones of all operations.
type gauges struct {
	mu sync.RWMutex
	m  map[string]*gauge
}

func (g *gauges) get(op string, sets *sets) *gauge {
	g.mu.RLock()
	one := g.m[op]
	g.mu.RUnlock()
	if one != nil {
		return one
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if one = g.m[op]; one == nil {
		one = &gauge{labels: sets.get(key{a: op})}
		g.m[op] = one
	}
	return one
}

// observe shows all of them.
func (g *gauges) observe(o metric.Observer, active metric.Int64Observable) {
	g.mu.RLock()
	defer g.mu.RUnlock()
	for _, one := range g.m {
		o.ObserveInt64(active, one.n.Load(), one.labels.observe...)
	}
}
