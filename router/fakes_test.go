package router

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait of a test: it is reached only by a failure.
const patience = 20 * time.Second

// --- streams in memory

type fakeStreams struct {
	mu    sync.Mutex
	by    map[string]*fakeStream
	fail  error
	opens int
}

func newStreams() *fakeStreams { return &fakeStreams{by: map[string]*fakeStream{}} }

func (f *fakeStreams) Open(j *Job, recovered bool) (Stream, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.opens++
	if f.fail != nil {
		return nil, f.fail
	}
	if old := f.by[j.ID]; old != nil {
		if !recovered {
			return nil, errors.New("open twice")
		}
		return old, nil
	}
	s := &fakeStream{job: j, idle: make(chan struct{}), grew: make(chan struct{}), over: make(chan struct{})}
	f.by[j.ID] = s
	return s, nil
}

func (f *fakeStreams) get(id string) *fakeStream {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.by[id]
}

type fakeStream struct {
	job       *Job
	mu        sync.Mutex
	text      string
	tokens    int
	frames    int
	refuse    bool
	started   []string
	options   []CopyOptions
	body      []byte
	status    int
	terminals []Result
	readers   int
	idle      chan struct{}
	gone      bool
	notify    func()
	grew      chan struct{}
	over      chan struct{}
	positions []int
	copyErr   error // our own side's failure at the next frame
}

func (s *fakeStream) Started(_ context.Context, worker, _ string, attempt int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.started = append(s.started, fmt.Sprintf("%s/%d", worker, attempt))
	return nil
}

func (s *fakeStream) changed() { close(s.grew); s.grew = make(chan struct{}) }

func (s *fakeStream) Copy(ctx context.Context, body io.ReadCloser, o CopyOptions) (out Outcome, err error) {
	defer body.Close()
	s.mu.Lock()
	s.options = append(s.options, o)
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		out.Tokens = s.tokens
		s.mu.Unlock()
	}()
	br := bufio.NewReader(body)
	event := ""
	for {
		line, err := br.ReadString('\n')
		if err != nil {
			return out, fmt.Errorf("truncated: %w", err)
		}
		line = strings.TrimRight(line, "\r\n")
		if e, ok := strings.CutPrefix(line, "event: "); ok {
			event = e
		}
		data, ok := strings.CutPrefix(line, "data: ")
		if !ok {
			continue
		}
		if done, err := s.event(&out, event, data); done || err != nil {
			return out, err
		}
	}
}

// event takes in one; done says that it was the last.
func (s *fakeStream) event(out *Outcome, event, data string) (done bool, err error) {
	if data == "[DONE]" || event == "end" {
		if out.StopReason == "" {
			out.StopReason = "length"
		}
		return true, nil
	}
	text, finish, err := readFrame(data)
	if err != nil {
		return false, err
	}
	if finish != "" {
		out.StopReason = finish
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.copyErr != nil {
		return false, s.copyErr
	}
	out.Frames++
	s.frames++
	s.text += text
	if text != "" {
		s.tokens++
	}
	s.changed()
	return false, nil
}

func readFrame(data string) (text, finish string, err error) {
	var f struct {
		T       string
		Error   json.RawMessage
		Choices []struct {
			Text   string
			Delta  struct{ Content string }
			Finish string `json:"finish_reason"`
		}
	}
	if err := json.Unmarshal([]byte(data), &f); err != nil {
		return "", "", err
	}
	if f.Error != nil {
		return "", "", errors.New("error from the worker: " + string(f.Error))
	}
	text = f.T
	for _, c := range f.Choices {
		text += c.Text + c.Delta.Content
		finish = c.Finish
	}
	return text, finish, nil
}

func (s *fakeStream) Body(_ context.Context, status int, _ http.Header, body []byte) (Outcome, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status, s.body = status, body
	if status >= 400 {
		return Outcome{}, nil
	}
	return Outcome{StopReason: "length", PromptTokens: 3, Tokens: 5}, nil
}

func (s *fakeStream) terminal(r Result) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.terminals = append(s.terminals, r)
	if len(s.terminals) == 1 {
		close(s.over)
	}
	return nil
}

func (s *fakeStream) End(_ context.Context, r Result) error { return s.terminal(r) }
func (s *fakeStream) Fail(_ context.Context, code, message string) error {
	return s.terminal(Result{State: Failed, Code: code, Message: message})
}

func (s *fakeStream) Queued(p int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.positions = append(s.positions, p)
}

func (s *fakeStream) Prefix() (string, int, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text, s.tokens, !s.refuse
}

func (s *fakeStream) Readers() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.readers
}

func (s *fakeStream) Idle() <-chan struct{} { return s.idle }

func (s *fakeStream) attach() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.readers++
}

// leave is the last reader's going.
func (s *fakeStream) leave() {
	s.mu.Lock()
	s.readers = 0
	if !s.gone {
		s.gone = true
		close(s.idle)
	}
	fn := s.notify
	s.mu.Unlock()
	if fn != nil {
		fn()
	}
}

func (s *fakeStream) Ended() (Result, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.terminals) == 0 {
		return Result{}, false
	}
	return s.terminals[0], true
}

// sees waits until the stream has n tokens.
func (s *fakeStream) sees(t testing.TB, n int) {
	t.Helper()
	late := time.After(patience)
	for {
		s.mu.Lock()
		have, grew := s.tokens, s.grew
		s.mu.Unlock()
		if have >= n {
			return
		}
		select {
		case <-grew:
		case <-late:
			t.Fatalf("only %d tokens of %d", have, n)
		}
	}
}

// --- scheduler: slots and nothing else

type fakeScheduler struct {
	t       testing.TB
	mu      sync.Mutex
	workers []*Worker
	used    map[string]int
	loadOn  string // node on which any model may be loaded; empty = nowhere
	held    int    // reservations that are out
	releases,
	places int
	observed []Outcome
	ignore   bool // ignores Exclude
	evict    []string
	refuses  error // what a job is told that is to go on elsewhere
}

func newScheduler(t testing.TB, ws ...*fakeWorker) *fakeScheduler {
	s := &fakeScheduler{t: t, used: map[string]int{}}
	for _, w := range ws {
		s.workers = append(s.workers, &w.Worker)
	}
	return s
}

func (s *fakeScheduler) add(w Worker) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.workers = append(s.workers, &w)
}

func (s *fakeScheduler) drop(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.workers = slices.DeleteFunc(s.workers, func(w *Worker) bool { return w.ID == id })
}

func (s *fakeScheduler) reserve(id string) func(Outcome) {
	s.used[id]++
	s.held++
	once := false
	return func(Outcome) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if once {
			s.t.Errorf("slot of %q released twice", id)
		}
		once = true
		s.used[id]--
		s.held--
		s.releases++
	}
}

func (s *fakeScheduler) find(j *Job) (Placement, bool) {
	known := false
	for _, w := range s.workers {
		if j.Node != "" && j.Node != w.Node {
			continue
		}
		known = true
		if s.used[w.ID] < w.Slots && (s.ignore || !slices.Contains(j.Exclude, w.ID)) {
			return Placement{Action: Route, Worker: *w, Release: s.reserve(w.ID)}, true
		}
	}
	switch {
	case known:
		return Placement{Action: Wait}, false
	case s.loadOn != "":
		return Placement{Action: Provision, Node: s.loadOn, Evict: s.evict, Release: s.reserve("load")}, true
	}
	return Placement{Action: Reject, Code: "NO_HIVE_AVAILABLE", Reason: "no hive; add one"}, false
}

func (s *fakeScheduler) Place(_ context.Context, j *Job) (Placement, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.places++
	if s.refuses != nil && len(j.Exclude) > 0 {
		return Placement{}, s.refuses
	}
	p, _ := s.find(j)
	return p, nil
}

func (s *fakeScheduler) Pick(_ context.Context, line []*Job) (int, Placement, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, j := range line {
		if p, ok := s.find(j); ok {
			return i, p, nil
		}
	}
	return -1, Placement{}, nil
}

func (s *fakeScheduler) Observe(_ *Job, _ Worker, o Outcome) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.observed = append(s.observed, o)
}

func (s *fakeScheduler) out() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.held
}

// --- queue

type fakeQueue struct {
	mu       sync.Mutex
	jobs     map[string]*Job
	state    map[string]string
	order    []string
	results  map[string][]Result
	commit   chan struct{} // nil: at once
	fail     error
	recover  []*Job
	conflict map[string]bool
	firsts   map[string]string
}

func newQueue() *fakeQueue {
	return &fakeQueue{jobs: map[string]*Job{}, state: map[string]string{}, results: map[string][]Result{}, conflict: map[string]bool{}, firsts: map[string]string{}}
}

type fakePending struct {
	done chan struct{}
	err  error
}

func (p *fakePending) Wait(ctx context.Context) error {
	if p.done != nil {
		select {
		case <-p.done:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return p.err
}

var errDuplicate = errors.New("duplicate")

func (q *fakeQueue) Submit(j *Job, running bool, _, _ string) (Pending, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if j.IdempotencyKey != "" {
		if q.firsts[j.IdempotencyKey] != "" {
			return &fakePending{err: errDuplicate}, nil
		}
		q.firsts[j.IdempotencyKey] = j.ID
	}
	q.jobs[j.ID] = j
	q.order = append(q.order, j.ID)
	q.state[j.ID] = "queued"
	if running {
		q.state[j.ID] = "running"
	}
	return &fakePending{q.commit, q.fail}, nil
}

func (q *fakeQueue) move(id, from, to string) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.state[id] != from || q.conflict[id] {
		return fmt.Errorf("%s is %s: %w", id, q.state[id], ErrConflict)
	}
	q.state[id] = to
	return nil
}

func (q *fakeQueue) Claim(_ context.Context, id, _, _ string) error {
	return q.move(id, "queued", "running")
}
func (q *fakeQueue) Requeue(_ context.Context, id string) error {
	return q.move(id, "running", "queued")
}
func (q *fakeQueue) Started(context.Context, string, string, string, int) error { return nil }

func (q *fakeQueue) Finish(_ context.Context, id string, r Result) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.results[id] = append(q.results[id], r)
	q.state[id] = string(r.State)
	return nil
}

func (q *fakeQueue) Line(_ context.Context, limit int) ([]*Job, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	var out []*Job
	for _, id := range q.order {
		if q.state[id] == "queued" && len(out) < limit {
			out = append(out, q.jobs[id])
		}
	}
	return out, nil
}

func (q *fakeQueue) Recover(context.Context) ([]*Job, error) { return q.recover, nil }

func (q *fakeQueue) stateOf(id string) string {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.state[id]
}

// --- fleet and dialer

type fakeFleet struct {
	mu      sync.Mutex
	changed chan struct{}
	load    func(ctx context.Context, l LoadRequest) (string, error)
	loads   []LoadRequest
	reports map[string][]error
}

func newFleet() *fakeFleet {
	return &fakeFleet{changed: make(chan struct{}, 1), reports: map[string][]error{}}
}

func (f *fakeFleet) Load(ctx context.Context, l LoadRequest) (string, error) {
	f.mu.Lock()
	f.loads = append(f.loads, l)
	fn := f.load
	f.mu.Unlock()
	if fn == nil {
		return "", errors.New("nothing can be loaded")
	}
	return fn(ctx, l)
}

func (f *fakeFleet) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.loads)
}

func (f *fakeFleet) Changed() <-chan struct{} { return f.changed }
func (f *fakeFleet) Report(id string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.reports[id] = append(f.reports[id], err)
}

func (f *fakeFleet) faults(id string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for _, err := range f.reports[id] {
		if err != nil {
			n++
		}
	}
	return n
}

type tcpDialer struct{}

func (tcpDialer) DialWorker(ctx context.Context, w Worker) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "tcp", w.Address)
}

// --- the whole

type rig struct {
	*Router
	t       testing.TB
	sched   *fakeScheduler
	queue   *fakeQueue
	fleet   *fakeFleet
	streams *fakeStreams
	polled  bool // the streams can be parked
	mu      sync.Mutex
	ended   map[string]int
}

func newRig(t testing.TB, o Options, ws ...*fakeWorker) *rig {
	t.Helper()
	g := &rig{t: t, sched: newScheduler(t, ws...), queue: newQueue(), fleet: newFleet(), streams: newStreams(), ended: map[string]int{}}
	g.start(o)
	return g
}

// start makes the router and runs it.
func (g *rig) start(o Options) {
	o.Hooks.OnDone = func(j *Job, _ Result) {
		g.mu.Lock()
		g.ended[j.ID]++
		g.mu.Unlock()
	}
	var streams Streams = g.streams
	if g.polled {
		streams = parkingStreams{g.streams}
	}
	r := New(g.sched, g.queue, g.fleet, tcpDialer{}, streams, o)
	g.Router = r
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan struct{})
	go func() {
		defer close(ran)
		if err := r.Run(ctx); err != nil {
			g.t.Errorf("run: %v", err)
		}
	}()
	g.t.Cleanup(func() { cancel(); <-ran })
}

func (g *rig) submit(j *Job) *Handle {
	g.t.Helper()
	h, err := g.Submit(context.Background(), j)
	if err != nil {
		g.t.Fatalf("submit: %v", err)
	}
	return h
}

func (g *rig) wait(h *Handle) Result {
	g.t.Helper()
	select {
	case <-h.Done():
	case <-time.After(patience):
		g.t.Fatalf("job %s did not end", h.ID())
	}
	s := g.streams.get(h.ID())
	s.mu.Lock()
	n := len(s.terminals)
	s.mu.Unlock()
	g.queue.mu.Lock()
	f := len(g.queue.results[h.ID()])
	g.queue.mu.Unlock()
	g.mu.Lock()
	d := g.ended[h.ID()]
	g.mu.Unlock()
	if n != 1 || f != 1 || d != 1 {
		g.t.Errorf("job %s: %d terminal events, %d records, %d OnDone; want one each", h.ID(), n, f, d)
	}
	return h.Result()
}

// free checks that no reservation stays out; that of a load may end just after the job that it served.
func (g *rig) free() {
	g.t.Helper()
	for late := time.Now().Add(patience); g.sched.out() != 0; <-time.After(time.Millisecond) {
		if time.Now().After(late) {
			g.t.Errorf("%d reservations not released", g.sched.out())
			return
		}
	}
}

func complete(n int) *Job {
	return &Job{Model: "m", Surface: Completion, Stream: true, MaxTokens: n, Body: fmt.Appendf(nil, `{"model":"m","prompt":"P","max_tokens":%d,"stream":true}`, n)}
}

func chat(n int) *Job {
	return &Job{Model: "m", Surface: Chat, Stream: true, MaxTokens: n,
		Body: fmt.Appendf(nil, `{"model":"m","messages":[{"role":"user","content":"P"}],"max_tokens":%d,"stream":true}`, n)}
}

func native(n int) *Job {
	return &Job{Model: "m", Surface: Native, Stream: true, Detached: true, MaxTokens: n, Body: fmt.Appendf(nil, `{"model":"m","prompt":"P","max_tokens":%d,"priority":"batch"}`, n)}
}

// missing fails under RBEE_CI and skips elsewhere.
func missing(t testing.TB, what string) {
	t.Helper()
	if os.Getenv("RBEE_CI") != "" {
		t.Fatalf("%s is needed here", what)
	}
	t.Skipf("%s not found: no llama-server", what)
}
