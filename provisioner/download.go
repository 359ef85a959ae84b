package provisioner

import (
	"context"
	"crypto/rand"
	"errors"
	"slices"
	"sync"
	"time"
)

// Download is one background job that brings a model to a machine. Any number of readers may follow it.
type Download struct {
	id, node, ref string
	created       time.Time
	cancel        context.CancelCauseFunc

	mu      sync.Mutex
	last    Progress
	changed chan struct{} // closed and replaced with each change
	done    chan struct{}
	model   Model
	err     error
	retired time.Time
}

// ID names the download.
func (d *Download) ID() string { return d.id }

// Progress is its state now.
func (d *Download) Progress() Progress {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.last
}

// Wait returns when the download has ended, or ctx. A waiter that leaves does not stop it.
func (d *Download) Wait(ctx context.Context) (Model, error) {
	select {
	case <-d.done:
		return d.model, d.err
	case <-ctx.Done():
		return Model{}, ctx.Err()
	}
}

// Cancel stops the download for all who wait. Cancelling one that has ended does nothing.
func (d *Download) Cancel() { d.cancel(ErrCancelled) }

// Events gives the state now and each later one up to the final one, then closes. A slow reader misses
// states in between, never the final one.
func (d *Download) Events(ctx context.Context) <-chan Progress {
	out := make(chan Progress)
	go func() {
		defer close(out)
		for {
			d.mu.Lock()
			p, changed := d.last, d.changed
			d.mu.Unlock()
			select {
			case out <- p:
			case <-ctx.Done():
				return
			}
			if p.State.Final() {
				return
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
		}
	}()
	return out
}

func (d *Download) set(change func(*Progress)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.last.State.Final() {
		return
	}
	change(&d.last)
	close(d.changed)
	d.changed = make(chan struct{})
}

// Ensure returns when the machine has the model: one job however many ask, and none when it is there.
// When ctx ends the caller leaves, the job goes on.
func (p *Provisioner) Ensure(ctx context.Context, node, nameOrRef string) (Model, error) {
	d, err := p.Start(ctx, node, nameOrRef)
	if err != nil {
		return Model{}, err
	}
	return d.Wait(ctx)
}

// Start begins to bring the model to the machine in the background, or joins the job that does. It is
// durable: a job that did not end before this process does goes on in the next life (Resume).
func (p *Provisioner) Start(ctx context.Context, node, nameOrRef string) (*Download, error) {
	e, err := p.ResolveRef(nameOrRef)
	if err != nil {
		return nil, err
	}
	return p.start(ctx, Record{ID: "dl-" + rand.Text()[:20], Node: node, Ref: e.Ref, Created: p.o.Now()})
}

func (p *Provisioner) start(ctx context.Context, rec Record) (*Download, error) {
	key := jobKey{rec.Node, rec.Ref}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, &Error{Kind: ErrClosed, Model: rec.Ref, Node: rec.Node}
	}
	if d, ok := p.running[key]; ok {
		return d, nil
	}
	p.retireLocked()
	// one that an earlier life left for this very pair keeps its id
	if i := slices.IndexFunc(p.waiting, func(w Record) bool { return w.Node == rec.Node && w.Ref == rec.Ref }); i >= 0 {
		rec = p.waiting[i]
		p.waiting = slices.Delete(p.waiting, i, i+1)
	}
	// the caller's values (its trace, say) go with the job, its end does not
	jobCtx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	unhook := context.AfterFunc(p.ctx, func() { cancel(context.Cause(p.ctx)) })
	d := &Download{id: rec.ID, node: rec.Node, ref: rec.Ref, created: rec.Created, cancel: cancel,
		changed: make(chan struct{}), done: make(chan struct{}),
		last: Progress{ID: rec.ID, Node: rec.Node, Ref: rec.Ref, State: Resolving, At: p.o.Now()}}
	p.running[key], p.downloads[d.id] = d, d
	p.jobs.Go(func() {
		defer unhook()
		p.run(jobCtx, d, rec)
	})
	return d, nil
}

// retireLocked forgets downloads that ended long ago.
func (p *Provisioner) retireLocked() {
	limit := p.o.Now().Add(-p.o.Keep)
	for id, d := range p.downloads {
		d.mu.Lock()
		old := !d.retired.IsZero() && d.retired.Before(limit)
		d.mu.Unlock()
		if old {
			delete(p.downloads, id)
		}
	}
}

// Download finds one that runs, or ended within Options.Keep.
func (p *Provisioner) Download(id string) (*Download, bool) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	d, ok := p.downloads[id]
	return d, ok
}

// Downloads lists them, the oldest first.
func (p *Provisioner) Downloads() []*Download {
	p.mu.RLock()
	defer p.mu.RUnlock()
	out := make([]*Download, 0, len(p.downloads))
	for _, d := range p.downloads {
		out = append(out, d)
	}
	slices.SortFunc(out, func(a, b *Download) int { return a.created.Compare(b.created) })
	return out
}

// Resume continues what an earlier life left unfinished on a machine; call it when the machine is back.
func (p *Provisioner) Resume(ctx context.Context, node string) {
	p.mu.RLock()
	var mine []Record
	for _, r := range p.waiting {
		if r.Node == node {
			mine = append(mine, r)
		}
	}
	p.mu.RUnlock()
	for _, r := range mine {
		if _, err := p.start(ctx, r); err != nil {
			return
		}
	}
}

// run is the job of one download.
func (p *Provisioner) run(ctx context.Context, d *Download, rec Record) {
	defer d.cancel(nil)
	if !fetched(rec.Ref) {
		// nothing to continue after a restart
	} else if err := p.store.SaveDownload(ctx, rec); err != nil {
		p.log.Warn("download not recorded; it would not survive a restart", "id", rec.ID, "error", err)
	}
	ref := p.there(ctx, rec.Node, p.pin(ctx, rec.Ref))
	spec := Spec{Ref: ref, Peers: p.peers(ctx, rec.Node, rec.Ref, ref)}
	parsed, err := ParseRef(ref)
	var m Model
	if err == nil {
		attempt := func(ctx context.Context) (err error) {
			if p.o.Token != nil {
				spec.Token = p.o.Token(parsed)
			}
			m, err = p.hives.Provision(ctx, rec.Node, spec, func(now Progress) { d.report(now, p.o.Now()) })
			return err
		}
		if p.o.Retry != nil {
			err = p.o.Retry(ctx, "provision", attempt)
		} else {
			err = attempt(ctx)
		}
	}
	if p.ctx.Err() != nil && err != nil {
		p.end(d, rec, Model{}, &Error{Kind: ErrClosed, Model: rec.Ref, Node: rec.Node, Message: "the queen stopped; the download goes on when she is back"}, true)
		return
	}
	switch {
	case errors.Is(context.Cause(ctx), ErrCancelled) && err != nil:
		err = &Error{Kind: ErrCancelled, Model: rec.Ref, Node: rec.Node}
	case err != nil:
		err = &Error{Kind: ErrProvision, Model: rec.Ref, Node: rec.Node, Err: err}
	default:
		m.Node = rec.Node
		p.settle(rec.Ref, ref, m)
	}
	p.end(d, rec, m, err, false)
}

// settle learns from a model that arrived: its numbers, and the commit where nobody could pin it before.
func (p *Provisioner) settle(written, pinned string, m Model) {
	for _, ref := range []string{written, pinned} {
		m.Ref = ref
		p.Learn(m)
	}
	r, err := ParseRef(pinned)
	if err == nil && !r.Pinned() && commitHash(m.Commit) {
		r.Revision = m.Commit
		p.mu.Lock()
		p.pins[written] = r.String()
		p.mu.Unlock()
	}
}

func (d *Download) report(now Progress, at time.Time) {
	d.set(func(last *Progress) {
		state := now.State
		if state == "" || state.Final() { // the end is this side's to say
			state = last.State
		}
		*last = Progress{ID: d.id, Node: d.node, Ref: d.ref, State: state, File: now.File, BytesDone: now.BytesDone, BytesTotal: now.BytesTotal,
			Rate: now.Rate, ETASeconds: now.ETASeconds, Message: now.Message, At: at}
	})
}

// end settles a download, forgets its record unless it is to go on later, and tells all who wait.
func (p *Provisioner) end(d *Download, rec Record, m Model, err error, later bool) {
	if !later && fetched(rec.Ref) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(p.ctx), 5*time.Second)
		if derr := p.store.DeleteDownload(ctx, rec.ID); derr != nil {
			p.log.Warn("download record not removed", "id", rec.ID, "error", derr)
		}
		cancel()
	}
	p.mu.Lock()
	delete(p.running, jobKey{rec.Node, rec.Ref})
	p.mu.Unlock()
	d.model, d.err = m, err
	d.set(func(last *Progress) {
		last.At, last.Rate, last.ETASeconds, last.File = p.o.Now(), 0, 0, ""
		var coded *Error
		switch {
		case err == nil:
			last.State, last.Message = Ready, ""
			last.BytesDone, last.BytesTotal = m.SizeBytes, m.SizeBytes
		case errors.Is(err, ErrCancelled):
			last.State, last.Message, last.Code = Cancelled, err.Error(), "CANCELLED"
		default:
			last.State, last.Message = Failed, err.Error()
			if errors.As(err, &coded) {
				last.Code = coded.Code()
			}
		}
	})
	d.mu.Lock()
	d.retired = p.o.Now()
	d.mu.Unlock()
	close(d.done)
}

// peers are the other machines that have the model.
func (p *Provisioner) peers(ctx context.Context, node string, refs ...string) []Peer {
	if !fetched(refs[0]) {
		return nil
	}
	have := p.onHives(ctx)
	var out []Peer
	for _, ref := range slices.Compact(refs) {
		for _, m := range have[ref] {
			if m.Node != node && onDisk(m.State) {
				out = append(out, Peer{Node: m.Node, SHA256: m.SHA256})
			}
		}
	}
	return out
}

// fetched says that a reference's files come over the network. A path means something on its own machine
// only, and a simulated model has no files.
func fetched(ref string) bool {
	r, err := ParseRef(ref)
	return err == nil && (r.Scheme == SchemeHF || r.Scheme == SchemeHTTPS || r.Scheme == SchemeOllama)
}
