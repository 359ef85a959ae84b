package router

import (
	"testing"
	"testing/synctest"
	"time"
)

// TestSharesKeepRoomForOthers floods sixteen slots for one tenant beside another that uses four.
func TestSharesKeepRoomForOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &shares{slots: func(string) int { return 16 }}
		loud, quiet := &Job{Model: "m", Tenant: "loud"}, &Job{Model: "m", Tenant: "quiet"}
		taken := 0 // what the scheduler would know
		start := func(j *Job) bool {
			if taken == 16 || !s.may(j, time.Now()) {
				return false
			}
			taken++
			s.count(j, 0, 1, time.Now())
			return true
		}
		end := func(j *Job, n int) {
			taken -= n
			s.count(j, -n, -n, time.Now())
		}
		fill := func() (n int) {
			for start(loud) {
				n++
			}
			return n
		}
		s.count(loud, 40, 0, time.Now())
		for range 16 {
			if !start(loud) {
				t.Fatal("a tenant that is alone is held back")
			}
		}
		end(loud, 16)
		s.count(quiet, 4, 0, time.Now()) // it asks, and is served
		for range 4 {
			if !s.may(quiet, time.Now()) || !start(quiet) {
				t.Fatal("the quiet tenant is held back")
			}
		}
		if n := fill(); n != 12 {
			t.Errorf("the flood got %d slots beside the quiet tenant's four, want 12", n)
		}
		end(quiet, 4)
		if start(loud) {
			t.Error("the flood takes what the quiet tenant left a moment ago")
		}
		s.count(quiet, 1, 0, time.Now())
		if _, owed := s.judge(quiet, time.Now()); !owed {
			t.Error("the quiet tenant's next job has to wait behind the flood")
		}
		if _, owed := s.judge(loud, time.Now()); owed {
			t.Error("the flood may pass those that wait")
		}
		s.count(quiet, -1, 0, time.Now())
		<-time.After(lately + time.Second) // of the synthetic clock
		if n := fill(); n != 4 {
			t.Errorf("the flood got %d of the four slots that nobody uses any more", n)
		}
	})
}

// TestSharesAreBounded: many tenants that asked once do not empty the workers, and a worker of one slot is never kept free.
func TestSharesAreBounded(t *testing.T) {
	slots := 16
	s := &shares{slots: func(string) int { return slots }}
	for i := range 100 {
		j := &Job{Model: "m", Tenant: string(rune('A' + i))}
		s.count(j, 1, 0, time.Now())
		s.count(j, -1, 0, time.Now())
	}
	loud := &Job{Model: "m", Tenant: "loud"}
	s.count(loud, 50, 0, time.Now())
	n := 0
	for ; s.may(loud, time.Now()); n++ {
		s.count(loud, 0, 1, time.Now())
	}
	if n != 12 {
		t.Errorf("the flood got %d of 16 slots, want three quarters", n)
	}
	s.count(loud, 0, -n, time.Now())
	slots = 1
	if !s.may(loud, time.Now()) {
		t.Error("the only slot is kept free")
	}
}

// TestSharesComeBack: nothing is counted any more once every job has ended, however it ended.
func TestSharesComeBack(t *testing.T) {
	a, b := two(t, ProtocolOpenAI, refuseWith(400, "", `{"error":{"message":"bad"}}`))
	g := newRig(t, Options{Slots: func(string) int { return 2 }}, a, b)
	for i, tenant := range []string{"x", "y", "x", "z"} {
		j := complete(5)
		j.Tenant = tenant
		h := g.submit(j)
		if i == 2 {
			_ = g.Cancel(t.Context(), h.ID())
		}
		g.wait(h)
	}
	g.free()
	s := &g.Router.shares
	s.mu.Lock()
	defer s.mu.Unlock()
	for model, m := range s.models {
		if m.running != 0 || len(m.tenants) != 3 {
			t.Errorf("%s: %+v", model, m)
		}
		for name, u := range m.tenants {
			if u.inside != 0 || u.running != 0 {
				t.Errorf("%s: %+v", name, u)
			}
		}
	}
}

// count is change for a job that has no seat yet.
func (s *shares) count(j *Job, inside, running int, now time.Time) {
	s.mu.Lock()
	at := s.seat(j)
	s.mu.Unlock()
	s.change(at, inside, running, now)
}
