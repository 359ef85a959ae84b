package router

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

// Workers die, hang, refuse and come back, clients leave and cancel, at random: each job gets exactly one terminal event,
// what was emitted is always a prefix of the right answer, the whole of it when the job is complete, and nothing is left
// behind: no slot, no goroutine (TestMain), no task.
func TestPropertyOneTerminalEach(t *testing.T) {
	rounds, jobs := 4, 60
	if os.Getenv("RBEE_LONG") != "" {
		rounds = 200
	}
	for seed := range rounds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { chaos(t, uint64(seed), jobs) })
	}
}

// mood is a worker whose behaviour changes at random with each request.
func mood(rnd func(int) int) script {
	return func(w *fakeWorker, c *call) bool {
		if c.path == "/v1/cancel" {
			reply(c.conn, 200, "", "{}")
			return true
		}
		at := begun(c) + rnd(6)
		switch rnd(12) {
		case 0:
			return dieAt(0)(w, c)
		case 1, 2:
			return dieAt(at)(w, c)
		case 3:
			return hangAt(at)(w, c)
		case 4:
			return refuseWith(503, "", "busy")(w, c)
		case 5:
			return refuseWith(500, "", `{"error":{"message":"oops"}}`)(w, c)
		case 6:
			return refuseWith(400, "", `{"error":{"message":"bad"}}`)(w, c)
		case 7:
			return answerUntil(at, func(_ *fakeWorker, c *call) { chunk(c.conn, "data: {broken\n\n") })(w, c)
		}
		return answer(w, c)
	}
}

func chaos(t *testing.T, seed uint64, jobs int) {
	var rmu sync.Mutex
	src := rand.New(rand.NewPCG(seed, 7))
	rnd := func(n int) int {
		rmu.Lock()
		defer rmu.Unlock()
		return src.IntN(n)
	}
	var ws []*fakeWorker
	for i := range 4 {
		w := startWorker(t, fmt.Sprintf("w%d", i), []string{ProtocolOpenAI, ProtocolExecute}[i%2], mood(rnd))
		w.Capabilities.CancelCall = i%2 == 1
		w.Slots = 1 + i%3
		ws = append(ws, w)
	}
	g := newRig(t, Options{FirstToken: 60 * time.Millisecond, InterToken: 60 * time.Millisecond, Reply: 60 * time.Millisecond,
		RescueWait: 200 * time.Millisecond, QueueTimeout: patience}, ws...)
	kinds := []func(int) *Job{complete, chat, native, func(n int) *Job {
		j := complete(n)
		j.Stream, j.Body = false, fmt.Appendf(nil, `{"prompt":"P","max_tokens":%d}`, n)
		j.Inline = rnd(2) == 0
		return j
	}, func(n int) *Job {
		j := chat(n)
		j.Inline = true
		return j
	}}
	var wg sync.WaitGroup
	handles := make([]*Handle, jobs)
	for i := range jobs {
		wg.Add(1)
		go func() {
			defer wg.Done()
			j := kinds[rnd(len(kinds))](1 + rnd(8))
			j.ID = fmt.Sprintf("s%d-%d", seed, i)
			h, err := g.Submit(context.Background(), j)
			if err != nil {
				t.Errorf("submit: %v", err)
				return
			}
			handles[i] = h
			if j.Inline {
				wg.Go(func() { h.Carry() })
			}
			s := g.streams.get(j.ID)
			s.attach()
			switch pause := time.Duration(rnd(40)) * time.Millisecond; rnd(5) {
			case 0:
				<-time.After(pause)
				s.leave()
			case 1:
				<-time.After(pause)
				_ = g.Cancel(context.Background(), j.ID)
			}
		}()
	}
	wg.Wait()
	for _, h := range handles {
		if h == nil {
			continue
		}
		res := g.wait(h)
		s := g.streams.get(h.ID())
		if n := h.Job().MaxTokens; !strings.HasPrefix(whole(n), s.text) {
			t.Errorf("job %s emitted %q: no prefix of the answer", h.ID(), s.text)
		} else if res.State == Complete && s.body == nil && s.text != whole(n) {
			t.Errorf("job %s is complete with %q", h.ID(), s.text)
		}
	}
	g.mu.Lock()
	for id, n := range g.ended {
		if n != 1 {
			t.Errorf("job %s: OnDone %d times", id, n)
		}
	}
	g.mu.Unlock()
	if g.waits.Load() {
		t.Error("somebody is still said to wait")
	}
	if st := g.Stats(); st.Running+st.Waiting != 0 {
		t.Errorf("left behind: %+v", st)
	}
	g.free()
}
