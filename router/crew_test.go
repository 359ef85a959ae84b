package router

import (
	"testing"
	"testing/synctest"
	"time"
)

// waiting is how many wait, and whether somebody will look after them.
func (c *crew) waiting() (n int, looked bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.idle), c.sweeps != nil
}

// Those who wait are used last in, first out, are few, and go when nothing comes.
func TestCrewWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &crew{}
		waiting := make([]*carrier, crewIdle+3)
		for i := range waiting {
			waiting[i] = &carrier{next: make(chan *task, 1)}
			if got, want := c.rest(waiting[i]), i < crewIdle; got != want {
				t.Fatalf("carrier %d may wait: %v", i, got)
			}
		}
		<-time.After(crewLinger / 2)
		job := &task{}
		c.carry(job)
		last := waiting[crewIdle-1]
		if got := <-last.next; got != job {
			t.Fatalf("the last to come got %p, not the job", got)
		}
		if !c.rest(last) {
			t.Fatal("who has carried may not wait again")
		}
		<-time.After(crewLinger/2 + time.Millisecond)
		synctest.Wait()
		for i, w := range waiting[:crewIdle-1] {
			if _, open := <-w.next; open {
				t.Fatalf("carrier %d got a job", i)
			}
		}
		if n, _ := c.waiting(); n != 1 {
			t.Fatalf("%d wait, not the one that came late", n)
		}
		<-time.After(2 * crewLinger)
		synctest.Wait()
		_, open := <-last.next
		if n, looked := c.waiting(); open || n > 0 || looked {
			t.Fatal("the last one waits for ever")
		}
		last = &carrier{next: make(chan *task, 1)}
		c.rest(last)
		c.close()
		if _, open := <-last.next; open || c.rest(last) {
			t.Error("waits after the end")
		}
	})
}

// A streamed job is carried by whoever carried the one before.
func TestCarrierIsUsedAgain(t *testing.T) {
	g := newRig(t, Options{}, startWorker(t, "a", ProtocolOpenAI, answer))
	waits := func() (w *carrier) {
		deadline := time.Now().Add(patience)
		for {
			g.crew.mu.Lock()
			n := len(g.crew.idle)
			if n > 0 {
				w = g.crew.idle[n-1]
			}
			g.crew.mu.Unlock()
			if n == 1 {
				return w
			}
			if n > 1 || time.Now().After(deadline) {
				t.Fatalf("%d carriers wait after one job at a time", n)
			}
			<-time.After(time.Millisecond)
		}
	}
	var first *carrier
	for i := range 5 {
		if res := g.wait(g.submit(complete(3))); res.State != Complete {
			t.Fatalf("%+v", res)
		}
		if w := waits(); i == 0 {
			first = w
		} else if w != first {
			t.Error("another one carried it")
		}
	}
	g.free()
}
