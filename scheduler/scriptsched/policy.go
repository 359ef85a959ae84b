package scriptsched

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/queen-rbee/queen-rbee/scheduler"
	"go.starlark.net/resolve"
	"go.starlark.net/starlark"
	"go.starlark.net/syntax"
)

// ScriptError is a failure with its place in the script.
type ScriptError struct {
	File      string
	Line, Col int
	Err       error
}

// Error is file:line:column: message.
func (e *ScriptError) Error() string {
	if e.Line == 0 {
		return fmt.Sprintf("%s: %v", e.File, e.Err)
	}
	return fmt.Sprintf("%s:%d:%d: %v", e.File, e.Line, e.Col, e.Err)
}

// Unwrap gives the cause.
func (e *ScriptError) Unwrap() error { return e.Err }

// Code is the contract's code for a policy that a client sent.
func (e *ScriptError) Code() string { return "INVALID_REQUEST" }

// Policy is a compiled script; it implements scheduler.Policy and may be used by several schedulers.
type Policy struct {
	info                    scheduler.PolicyInfo
	schedule, choose, evict starlark.Callable
	limits                  Limits
	pool                    sync.Pool
}

var _ scheduler.Policy = (*Policy)(nil)

// runner is a thread with its budget, reused between runs.
type runner struct {
	thread *starlark.Thread
	budget *budget
	call   call
	args   starlark.Tuple
}

// Compile makes a policy of Starlark source, or of YAML rules when the name ends in .yaml or .yml.
func Compile(name string, src []byte, limits Limits) (*Policy, error) {
	language, code := "starlark", src
	if ext := filepath.Ext(name); ext == ".yaml" || ext == ".yml" {
		out, err := Rules(name, src)
		if err != nil {
			return nil, err
		}
		language, code = "yaml", []byte(out)
	}
	sum := sha256.Sum256(src)
	p := &Policy{limits: limits.withDefaults(), info: scheduler.PolicyInfo{Name: name, Hash: hex.EncodeToString(sum[:8]), Language: language}}
	if err := bounded(code); err != nil {
		return nil, &ScriptError{File: name, Err: err}
	}
	globals, err := p.load(name, code)
	if err != nil {
		return nil, place(name, err)
	}
	for fn, dst := range map[string]*starlark.Callable{"schedule": &p.schedule, "select_worker": &p.choose, "evict": &p.evict} {
		if v, ok := globals[fn]; ok {
			f, ok := v.(starlark.Callable)
			if !ok {
				return nil, &ScriptError{File: name, Err: fmt.Errorf("%s is a %s, not a function", fn, v.Type())}
			}
			*dst = f
		}
	}
	if p.schedule == nil && p.choose == nil && p.evict == nil {
		return nil, &ScriptError{File: name, Err: errors.New("it defines none of schedule(job, workers, hives), select_worker(job, workers), evict(need, candidates)")}
	}
	p.pool.New = func() any { return p.runner() }
	return p, nil
}

// bounded refuses sources that could overrun the parser.
func bounded(src []byte) error {
	if len(src) > maxSource {
		return fmt.Errorf("the source has %d bytes: at most %d", len(src), maxSource)
	}
	depth, deepest := 0, 0
	for _, c := range src {
		switch c {
		case '(', '[', '{':
			depth++
			deepest = max(deepest, depth)
		case ')', ']', '}':
			depth = max(depth-1, 0)
		}
	}
	if deepest > maxNesting {
		return fmt.Errorf("brackets are nested %d deep: at most %d", deepest, maxNesting)
	}
	for line := range bytes.SplitSeq(src, []byte("\n")) {
		if len(line) > 4096 {
			return errors.New("a line is longer than 4096 bytes")
		}
	}
	return nil
}

// load parses, rewrites and runs the top level, within the budget.
func (p *Policy) load(name string, src []byte) (globals starlark.StringDict, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("the script could not be compiled: %v", r)
		}
	}()
	opts := &syntax.FileOptions{}
	f, err := opts.Parse(name, src, 0)
	if err != nil {
		return nil, err
	}
	if err := rewrite(f); err != nil {
		return nil, err
	}
	env := predeclared()
	prog, err := starlark.FileProgram(f, env.Has)
	if err != nil {
		return nil, err
	}
	r := p.runner()
	r.budget.arm(r.thread)
	globals, err = prog.Init(r.thread, env)
	if err != nil && r.budget.cause != nil {
		err = fmt.Errorf("%w", errors.Join(r.budget.cause, err))
	}
	globals.Freeze()
	return globals, err
}

func (p *Policy) runner() *runner {
	r := &runner{thread: &starlark.Thread{Name: p.info.Name}, budget: &budget{limits: p.limits}, args: make(starlark.Tuple, 3)}
	r.thread.SetLocal(budgetKey, r.budget)
	return r
}

// Info names the policy.
func (p *Policy) Info() scheduler.PolicyInfo { return p.info }

// Choose runs schedule, or select_worker where there is no schedule.
func (p *Policy) Choose(_ context.Context, v *scheduler.View, job *scheduler.Job) (scheduler.Choice, error) {
	if p.schedule == nil && p.choose == nil {
		return scheduler.Choice{Native: true}, nil
	}
	r := p.pool.Get().(*runner)
	defer p.pool.Put(r)
	r.call = call{view: v, job: job}
	r.args[0], r.args[1], r.args[2] = jobValue{c: &r.call}, workersValue{c: &r.call, all: true}, hivesValue{c: &r.call, all: true}
	fn, n := p.schedule, 3
	if fn == nil {
		fn, n = p.choose, 2
	}
	out, err := p.run(r, fn, r.args[:n])
	r.call = call{}
	if err != nil {
		return scheduler.Choice{}, err
	}
	switch out := out.(type) {
	case starlark.NoneType:
		return scheduler.Choice{Native: true}, nil
	case choiceValue:
		return out.c, nil
	case workerValue:
		return scheduler.Choice{Action: scheduler.Route, Worker: out.w.ID}, nil
	}
	return scheduler.Choice{}, &ScriptError{File: p.info.Name, Err: fmt.Errorf("%s returned a %s: want route(...), provision(...), queue(...), reject(...), a worker or None", fn.Name(), out.Type())}
}

// run calls a function within the budget.
func (p *Policy) run(r *runner, fn starlark.Callable, args starlark.Tuple) (out starlark.Value, err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &ScriptError{File: p.info.Name, Err: fmt.Errorf("the script failed: %v", v)}
		}
	}()
	r.budget.call = &r.call
	r.budget.arm(r.thread)
	out, err = starlark.Call(r.thread, fn, args, nil)
	r.budget.call = nil
	if err != nil {
		if r.budget.cause != nil {
			err = joined{r.budget.cause, err}
		}
		return nil, place(p.info.Name, err)
	}
	return out, nil
}

// joined is a cause with the error that shows where.
type joined struct{ cause, at error }

// Error is the cause's.
func (j joined) Error() string { return j.cause.Error() }

// Unwrap gives both.
func (j joined) Unwrap() []error { return []error{j.cause, j.at} }

// place finds the line of an error.
func place(name string, err error) error {
	var eval *starlark.EvalError
	if errors.As(err, &eval) {
		for i := len(eval.CallStack) - 1; i >= 0; i-- {
			if pos := eval.CallStack[i].Pos; pos.Filename() == name {
				cause := err
				if e, ok := err.(*starlark.EvalError); ok {
					cause = errors.New(e.Msg)
				}
				return &ScriptError{File: name, Line: int(pos.Line), Col: int(pos.Col), Err: cause}
			}
		}
	}
	var syn syntax.Error
	if errors.As(err, &syn) {
		return &ScriptError{File: name, Line: int(syn.Pos.Line), Col: int(syn.Pos.Col), Err: errors.New(syn.Msg)}
	}
	var names resolve.ErrorList
	if errors.As(err, &names) && len(names) > 0 {
		return &ScriptError{File: name, Line: int(names[0].Pos.Line), Col: int(names[0].Pos.Col), Err: errors.New(names[0].Msg)}
	}
	return &ScriptError{File: name, Err: errors.New(strings.TrimPrefix(err.Error(), name+": "))}
}

// Evictor asks the script's evict(need, candidates) for the workers to stop, and next when the script has
// none, fails, or answers too little.
func (p *Policy) Evictor(next scheduler.Evictor, now func() time.Time) scheduler.Evictor {
	return &evictor{p: p, next: next, now: now}
}

type evictor struct {
	p    *Policy
	next scheduler.Evictor
	now  func() time.Time
}

// Plan runs the script over the candidates.
func (e *evictor) Plan(node, device string, need int64, candidates []scheduler.Worker) ([]string, time.Duration, bool) {
	if e.p.evict == nil || need <= 0 {
		return e.fall(node, device, need, candidates)
	}
	r := e.p.pool.Get().(*runner)
	defer e.p.pool.Put(r)
	r.call = call{job: &scheduler.Job{Node: node}}
	if e.now != nil {
		r.call.at = e.now()
	}
	for _, w := range candidates {
		r.call.workers = append(r.call.workers, scheduler.WorkerView{Worker: w, Kept: true})
	}
	r.args[0], r.args[1] = integer(need), workersValue{c: &r.call, all: true}
	out, err := e.p.run(r, e.p.evict, r.args[:2])
	seq, ok := out.(starlark.Sequence)
	if err != nil || !ok {
		return e.fall(node, device, need, candidates)
	}
	var ids []string
	var freed int64
	iter := seq.Iterate()
	defer iter.Done()
	var v starlark.Value
	for iter.Next(&v) {
		if w, ok := v.(workerValue); ok {
			ids, freed = append(ids, w.w.ID), freed+w.w.Memory
		}
	}
	if freed < need {
		return e.fall(node, device, need, candidates)
	}
	return ids, 0, true
}

func (e *evictor) fall(node, device string, need int64, candidates []scheduler.Worker) ([]string, time.Duration, bool) {
	if e.next == nil {
		return nil, 0, need <= 0
	}
	return e.next.Plan(node, device, need, candidates)
}
