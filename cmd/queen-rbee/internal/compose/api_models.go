package compose

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/queen-rbee/queen-rbee/cmd/queen-rbee/internal/config"
	"github.com/queen-rbee/queen-rbee/hivelifecycle/engine"
	"github.com/queen-rbee/queen-rbee/hivelifecycle/hiveapi"
	"github.com/queen-rbee/queen-rbee/httpserver"
	"github.com/queen-rbee/queen-rbee/provisioner"
	"github.com/queen-rbee/queen-rbee/registry"
	"github.com/queen-rbee/queen-rbee/retry"
	"github.com/queen-rbee/queen-rbee/scheduler"
)

// modelEntry is a configured model as the provisioner keeps it.
func modelEntry(name string, m config.Model) provisioner.Entry {
	return provisioner.Entry{Name: name, Ref: m.Ref, Engine: m.Engine, Slots: m.Slots, Context: m.Context, TTL: m.TTL.D(), Pin: m.Pin,
		Workers: m.Workers, Set: m.Set, Strip: m.Strip, Args: m.Args}
}

// catalog resolves names and lists models: those that can be loaded and those that external servers have.
type catalog struct {
	f       *fleet
	prov    *provisioner.Provisioner
	since   time.Time
	aliases atomic.Pointer[map[string]string] // as configured
	outside atomic.Pointer[outside]
}

// outside are the models of external servers, with their references, in one snapshot.
type outside struct {
	of   *registry.Snapshot
	refs map[string]string
}

// external finds a model that an external server has; the first one's reference counts.
func (c *catalog) external(name string) (ref string, ok bool) {
	snap := c.f.reg.Snapshot()
	o := c.outside.Load()
	if o == nil || o.of != snap {
		o = &outside{snap, map[string]string{}}
		for _, w := range snap.Workers {
			if _, known := o.refs[w.Model]; w.External && !known {
				o.refs[w.Model] = w.ModelRef
			}
		}
		c.outside.Store(o)
	}
	ref, ok = o.refs[name]
	return ref, ok
}

var _ httpserver.Catalog = (*catalog)(nil)

// resolve gives the entry behind a name that a client used.
func (c *catalog) resolve(name string) (provisioner.Entry, error) {
	ref, ok := c.external(name)
	if ok && !strings.Contains(name, ":") && !c.prov.Listed(name) { // else it may be a configured model's reference
		return provisioner.Entry{Name: name, Ref: ref}, nil
	}
	e, err := c.prov.Resolve(name)
	if err != nil && ok {
		return provisioner.Entry{Name: name, Ref: ref}, nil
	}
	return e, err
}

// needs tells the scheduler what loading each model would take.
func (c *catalog) needs(*registry.Snapshot) map[string]scheduler.Need {
	out := map[string]scheduler.Need{}
	list := c.prov.Entries()
	for alias := range *c.aliases.Load() { // one that names a reference is a model of its own
		if e, err := c.prov.Resolve(alias); err == nil && e.Name == alias {
			list = append(list, e)
		}
	}
	for _, e := range list {
		n := c.prov.Need(e.Ref, e.Slots, e.Context)
		out[e.Name] = scheduler.Need{Memory: n.Memory, LoadBytes: n.LoadBytes, LoadTime: n.LoadTime, Slots: n.Slots, Devices: n.Devices,
			Workers: e.Workers, TTL: e.TTL, Pin: e.Pin}
	}
	return out
}

// Names implements httpserver.Catalog.
func (c *catalog) Names(context.Context) ([]httpserver.ModelName, error) {
	snap := c.f.reg.Snapshot()
	loaded := map[string]bool{}
	for _, w := range snap.Workers {
		if ready(w) {
			loaded[w.Model] = true
		}
	}
	seen := map[string]bool{}
	out := []httpserver.ModelName{}
	add := func(m httpserver.ModelName) {
		if !seen[m.Name] {
			seen[m.Name] = true
			m.Created, m.Loaded = c.since, loaded[m.Name]
			out = append(out, m)
		}
	}
	for _, e := range c.prov.Catalog() {
		owner := "rbee"
		if strings.HasPrefix(e.Ref, "sim:") {
			owner = "simulator"
		}
		add(httpserver.ModelName{Name: e.Name, Ref: e.Ref, OwnedBy: owner, SizeBytes: e.SizeBytes, SHA256: e.SHA256, ContextLength: e.ContextLength, Parameters: e.Parameters})
	}
	for _, w := range snap.Workers {
		if w.External {
			add(httpserver.ModelName{Name: w.Model, Ref: w.ModelRef, OwnedBy: w.ID})
		}
	}
	slices.SortFunc(out, func(a, b httpserver.ModelName) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

// OnHives implements httpserver.Catalog.
func (c *catalog) OnHives(_ context.Context, node string) ([]httpserver.Model, error) {
	snap := c.f.reg.Snapshot()
	if _, ok := snap.Hive(node); node != "" && !ok {
		return nil, errNoNode
	}
	out := []httpserver.Model{}
	for _, h := range snap.Hives {
		if node != "" && h.Name != node {
			continue
		}
		for _, m := range h.Models {
			r := httpserver.Model{ModelRef: m.Ref, Node: h.Name, State: m.State, SizeBytes: m.SizeBytes, SHA256: m.SHA256, Progress: m.Progress,
				ContextLength: m.ContextLength, Parameters: m.Parameters, MemoryEstimate: m.Memory, Message: m.Message}
			if e, ok := c.prov.Named(m.Ref); ok {
				r.Model = e.Name
				if r.MemoryEstimate == 0 {
					r.MemoryEstimate = c.prov.Need(e.Ref, e.Slots, e.Context).Memory
				}
			}
			for _, w := range snap.Workers {
				if w.Node == h.Name && w.ModelRef == m.Ref {
					r.State = map[bool]string{true: "loaded", false: "loading"}[ready(w)]
				}
			}
			out = append(out, r)
		}
		for _, w := range snap.Workers { // a worker may outlive what its hive remembers of the model: after an upgrade, for instance
			if w.Node != h.Name || w.ModelRef == "" || slices.ContainsFunc(out, func(m httpserver.Model) bool { return m.Node == w.Node && m.ModelRef == w.ModelRef }) {
				continue
			}
			r := httpserver.Model{ModelRef: w.ModelRef, Node: h.Name, Model: w.Model, State: map[bool]string{true: "loaded", false: "loading"}[ready(w)]}
			if e, ok := c.prov.Named(w.ModelRef); ok {
				r.Model, r.MemoryEstimate = e.Name, c.prov.Need(e.Ref, e.Slots, e.Context).Memory
			}
			out = append(out, r)
		}
	}
	return append(out, c.coming(node, out)...), nil
}

// coming are the models that are on their way to a hive ("" means all), beside those that are there.
func (c *catalog) coming(node string, there []httpserver.Model) []httpserver.Model {
	var out []httpserver.Model
	for _, d := range c.prov.Downloads() {
		p := d.Progress()
		if p.State.Final() || node != "" && p.Node != node || slices.ContainsFunc(there, func(m httpserver.Model) bool { return m.Node == p.Node && m.ModelRef == p.Ref }) {
			continue
		}
		m := httpserver.Model{ModelRef: p.Ref, Node: p.Node, State: "downloading", SizeBytes: p.BytesTotal, Message: p.Message}
		if p.BytesTotal > 0 {
			m.Progress = float64(p.BytesDone) / float64(p.BytesTotal)
		}
		if e, ok := c.prov.Named(p.Ref); ok {
			m.Model = e.Name
		}
		out = append(out, m)
	}
	return out
}

// Union implements httpserver.Catalog.
func (c *catalog) Union(ctx context.Context) ([]httpserver.Model, error) {
	there, err := c.OnHives(ctx, "")
	if err != nil {
		return nil, err
	}
	out := []httpserver.Model{}
	for _, e := range c.prov.Catalog() {
		n := c.prov.Need(e.Ref, e.Slots, e.Context)
		m := httpserver.Model{Model: e.Name, ModelRef: e.Ref, State: "absent", SizeBytes: e.SizeBytes, SHA256: e.SHA256, ContextLength: e.ContextLength,
			Parameters: e.Parameters, MemoryEstimate: n.Memory, Engine: e.Engine}
		if len(e.Nodes) > 0 {
			m.State, m.Node = "ready", strings.Join(e.Nodes, ",")
		}
		for _, h := range there {
			if (h.Model == e.Name || h.ModelRef == e.Ref) && furthest(h.State) >= furthest(m.State) {
				m.State, m.Progress, m.Message = h.State, h.Progress, h.Message
			}
		}
		out = append(out, m)
	}
	return out, nil
}

// furthest orders the states of a model on several hives.
func furthest(state string) int {
	return slices.Index([]string{"absent", "failed", "downloading", "ready", "loading", "loaded"}, state)
}

// modelsAPI changes what models there are.
type modelsAPI struct {
	c   *catalog
	f   *fleet
	bus *bus
	src *source
	ctx context.Context
}

var _ httpserver.Models = (*modelsAPI)(nil)

// Put implements httpserver.Models.
func (a *modelsAPI) Put(ctx context.Context, name string, raw json.RawMessage) (httpserver.Model, error) {
	var m config.Model
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&m); err != nil {
		return httpserver.Model{}, &codedError{code: "INVALID_REQUEST", msg: "a model entry has the keys of the configuration (ref, engine, slots, ...): " + jsonFault(err)}
	}
	if m.Engine != "" {
		if _, err := engine.Resolve(a.f.engine(modelEntry(name, m))); err != nil {
			return httpserver.Model{}, &codedError{code: "INVALID_REQUEST", msg: "engine " + strconv.Quote(m.Engine) + " is not known here: name one of those that GET /v2/engines lists, or add it to the configuration"}
		}
	}
	if err := knownEngine(name, m.Engine, *a.f.engines.Load()); err != nil {
		return httpserver.Model{}, err
	}
	if err := a.c.prov.Put(ctx, modelEntry(name, m)); err != nil {
		return httpserver.Model{}, err
	}
	a.src.refresh()
	e, err := a.c.prov.Resolve(name)
	if err != nil {
		return httpserver.Model{}, err
	}
	return httpserver.Model{Model: e.Name, ModelRef: e.Ref, State: "absent", Engine: e.Engine, MemoryEstimate: a.c.prov.Need(e.Ref, e.Slots, e.Context).Memory}, nil
}

// jsonFault says what is wrong with a body in words of JSON, not of Go.
func jsonFault(err error) string {
	var te *json.UnmarshalTypeError
	if errors.As(err, &te) && te.Field != "" {
		return te.Field + " can't be a " + te.Value
	}
	return strings.TrimPrefix(err.Error(), "json: ")
}

// Delete implements httpserver.Models.
func (a *modelsAPI) Delete(ctx context.Context, name string) error {
	if err := a.c.prov.Delete(ctx, name); err != nil {
		return err
	}
	a.src.refresh()
	return nil
}

// Download implements httpserver.Models.
func (a *modelsAPI) Download(ctx context.Context, node, ref string) (string, error) {
	e, err := a.f.entryFor(ref)
	if err != nil {
		return "", err
	}
	if node == "" {
		if node, err = a.f.roomiest(); err != nil {
			return "", err
		}
	} else if _, ok := a.f.reg.Snapshot().Hive(node); !ok {
		return "", errNoNode
	}
	d, err := a.f.prov.Start(ctx, node, e.Ref)
	if err != nil {
		return "", err
	}
	a.bus.open(d.ID())
	go func() {
		for p := range d.Events(a.ctx) {
			a.bus.publish(d.ID(), "progress", p, false)
			a.bus.publish("", "download", p, false)
		}
		_, err := d.Wait(a.ctx)
		end := operationEnd{Node: node, State: "ready", Message: e.Ref + " is on " + node}
		if err != nil {
			end = operationEnd{Node: node, State: "failed", Code: codeOf(err), Message: err.Error()}
		}
		a.bus.publish(d.ID(), "end", end, true)
	}()
	return d.ID(), nil
}

// CancelDownload implements httpserver.Models.
func (a *modelsAPI) CancelDownload(_ context.Context, id string) error {
	d, ok := a.f.prov.Download(id)
	if !ok {
		return &codedError{code: "JOB_NOT_FOUND", msg: "no download has this id, or it ended more than an hour ago"}
	}
	if p := d.Progress(); p.State.Final() && p.State != provisioner.Cancelled {
		return &codedError{code: "CONFLICT", msg: "this download has ended already: it is " + string(p.State)}
	}
	d.Cancel()
	return nil
}

// Evict implements httpserver.Models.
func (a *modelsAPI) Evict(ctx context.Context, node, ref string) error {
	e, err := a.f.entryFor(ref)
	if err != nil {
		return err
	}
	if _, ok := a.f.reg.Snapshot().Hive(node); !ok {
		return errNoNode
	}
	return a.f.prov.Evict(ctx, node, e.Ref)
}

// provHives lets the provisioner speak to the hives.
type provHives struct {
	f      *fleet
	listen func(ctx context.Context, node string) (l net.Listener, release func(), err error) // on the loopback of a hive's machine
}

var _ provisioner.Hives = (*provHives)(nil)

// Nodes implements provisioner.Hives.
func (p *provHives) Nodes() []string {
	var out []string
	for _, h := range p.f.reg.Snapshot().Hives {
		if h.Status == registry.StatusOnline {
			out = append(out, h.Name)
		}
	}
	return out
}

func (p *provHives) link(node string) (*hiveLink, error) {
	link, ok := p.f.links.link(node)
	if !ok {
		return nil, &codedError{code: "HIVE_FAILED", msg: fmt.Sprintf("hive %s is not connected: see rbee hive ls", node), after: 5 * time.Second}
	}
	return link, nil
}

// Models implements provisioner.Hives, from what the hive told last.
func (p *provHives) Models(_ context.Context, node string) ([]provisioner.Model, error) {
	h, ok := p.f.reg.Snapshot().Hive(node)
	if !ok {
		return nil, errNoNode
	}
	out := make([]provisioner.Model, len(h.Models))
	for i, m := range h.Models {
		out[i] = provisioner.Model{Ref: m.Ref, Node: node, State: m.State, SizeBytes: m.SizeBytes, SHA256: m.SHA256, Progress: m.Progress,
			ContextLength: m.ContextLength, Parameters: m.Parameters}
	}
	return out, nil
}

// Provision implements provisioner.Hives.
func (p *provHives) Provision(ctx context.Context, node string, spec provisioner.Spec, progress func(provisioner.Progress)) (provisioner.Model, error) {
	link, err := p.link(node)
	if err != nil {
		return provisioner.Model{}, err
	}
	req := p.request(node, spec)
	if len(spec.Peers) > 0 {
		sources, closeDoor, err := p.lend(ctx, node, spec.Peers)
		if err != nil {
			p.f.log.Warn("the hives that have the model can't lend it; it comes from its source", "ref", spec.Ref, "node", node, "error", err)
		}
		defer closeDoor()
		req.Sources = sources
	}
	var id string
	seen := int64(-1) // what was there when we began to look is not counted
	m, err := link.client.Provision(ctx, req, func(h hiveapi.Progress) {
		id = h.ID
		if seen >= 0 && h.BytesDone > seen {
			p.f.met.DownloadBytes(ctx, node, h.BytesDone-seen)
		}
		seen = max(seen, h.BytesDone)
		progress(progressOf(node, h))
	})
	if err != nil {
		if id != "" && errors.Is(context.Cause(ctx), provisioner.ErrCancelled) {
			p.cancelled(link, id)
		}
		var verdict *hiveapi.Error
		if errors.As(err, &verdict) && verdict.Name != "SHUTTING_DOWN" {
			err = retry.Permanent(err) // the hive has tried again itself
		}
		return provisioner.Model{}, err
	}
	return hiveModel(node, m), nil
}

// Evict implements provisioner.Hives.
func (p *provHives) Evict(ctx context.Context, node, ref string) error {
	link, err := p.link(node)
	if err != nil {
		return err
	}
	return link.client.EvictModel(ctx, ref)
}
