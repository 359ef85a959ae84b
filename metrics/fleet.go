package metrics

import (
	"context"
	"errors"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// Fleet is what the gauges show, read when somebody scrapes.
type Fleet struct {
	Queue   []Depth
	Hives   []Hive
	Workers []Workers
}

// Depth is how many jobs wait.
type Depth struct {
	Priority string
	Jobs     int
}

// Hive is one hive as the gauges show it.
type Hive struct {
	Name    string
	Up      bool
	Devices []Device
}

// Device is one device's memory.
type Device struct {
	ID          string
	Total, Free int64
}

// Workers counts the workers of one model in one state on one hive.
type Workers struct {
	Hive, Model, State string
	Count              int
}

// ObserveFleet shows on each scrape what source returns then: queue depth, hives, device memory, workers by state. The
// source must be quick: read a snapshot. stop ends it.
func (i *Instruments) ObserveFleet(source func() Fleet) (stop func() error, err error) {
	gauge := func(name, unit, text string) metric.Int64ObservableGauge {
		g, e := i.meter.Int64ObservableGauge(name, metric.WithUnit(unit), metric.WithDescription(text))
		err = errors.Join(err, e)
		return g
	}
	depth := gauge(nameQueueDepth, "", "Jobs in the waiting line, by priority")
	up := gauge(nameHiveUp, "", "1 while a hive answers")
	vram := gauge(nameVRAM, "By", "Device memory of a hive, by state")
	workers := gauge(nameWorkers, "", "Workers by hive, model and state")
	if err != nil {
		return nil, err
	}
	reg, err := i.meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		f := source()
		for _, d := range f.Queue {
			o.ObserveInt64(depth, int64(d.Jobs), i.byPriority.get(key{a: d.Priority}).observe...)
		}
		for _, h := range f.Hives {
			i.observeHive(o, up, vram, h)
		}
		for _, w := range f.Workers {
			o.ObserveInt64(workers, int64(w.Count), metric.WithAttributes(attribute.String(keyHive, i.hives.value(w.Hive)),
				attribute.String(keyName, i.models.value(w.Model)), attribute.String(keyState, i.ops.value(w.State))))
		}
		return nil
	}, depth, up, vram, workers)
	if err != nil {
		return nil, err
	}
	return reg.Unregister, nil
}

func (i *Instruments) observeHive(o metric.Observer, up, vram metric.Int64Observable, h Hive) {
	hive := attribute.String(keyHive, i.hives.value(h.Name))
	n := int64(0)
	if h.Up {
		n = 1
	}
	o.ObserveInt64(up, n, metric.WithAttributes(hive))
	for _, d := range h.Devices {
		device := attribute.String(keyDevice, i.devices.value(d.ID))
		o.ObserveInt64(vram, d.Free, metric.WithAttributes(hive, device, attribute.String(keyState, "free")))
		o.ObserveInt64(vram, max(d.Total-d.Free, 0), metric.WithAttributes(hive, device, attribute.String(keyState, "used")))
	}
}
