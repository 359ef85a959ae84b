package sserelay

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"
)

// A token that is handed from the goroutine that reads the worker to the one that writes the client costs two
// scheduler passes. So a reader that waits lends its writer: where an attached stream has exactly one reader, the
// goroutine that reads the worker writes to it as well. A client that does not read then holds its own worker back,
// as with a plain proxy, until its write deadline. With more readers, or a detached job, each reader writes by itself.

// loan is the part of a server that decides who may use it.
type loan struct {
	own    sync.Mutex // held by whoever uses the server; its own goroutine holds it except while it waits
	ctx    context.Context
	taking func(uint64, Meta, []byte) bool // server.take: a method value costs an allocation each time it is made
	gone   bool                            // the server is finished
	result error
	loans  uint64 // so far; guarded by the stream's mu
	lent   bool   // guarded by the stream's mu
}

// lend makes the server usable by the writing side while it waits; own is held afterwards.
func (sv *server) lend(ctx context.Context) {
	sv.own.Lock()
	sv.ctx, sv.taking = ctx, sv.take
	sv.s.mu.Lock()
	sv.r.sv = sv
	sv.s.mu.Unlock()
}

// takeBack ends that for good.
func (sv *server) takeBack() {
	sv.gone = true
	sv.own.Unlock()
	sv.s.mu.Lock()
	sv.r.sv = nil
	sv.s.mu.Unlock()
}

// pumpSafely is pump for a goroutine that serves others as well: a panic ends this reader alone.
func (sv *server) pumpSafely() (done bool, err error) {
	defer func() {
		if v := recover(); v != nil {
			sv.s.hub.o.Logger.Error("panic while a reader was served", "job_id", sv.s.id, "panic", fmt.Sprint(v), "stack", string(debug.Stack()))
			done, err = true, errPanic
		}
	}()
	return sv.pump()
}

var errPanic = errors.New("panic while a reader was served")

// pump writes everything there is for the reader. done says that it has all. own is held.
func (sv *server) pump() (done bool, err error) {
	for {
		p, err := sv.s.scan(sv.ctx, sv.r, sv.taking)
		if err != nil {
			return true, sv.broken(err)
		}
		if done, err := sv.step(p); done || err != nil {
			return true, err
		}
		if !p.more || sv.stuck {
			return false, nil
		}
		if err := sv.ctx.Err(); err != nil {
			return true, err
		}
	}
}

// flush brings frames that were published without a wake to the readers. mayWait says that whoever calls may be held up by a
// reader; on the poller's goroutine that would hold up every stream.
func (s *Stream) flush(mayWait bool) {
	var room [4]*server
	s.mu.Lock()
	lent := s.borrow(room[:0], mayWait)
	s.mu.Unlock()
	for _, sv := range lent {
		s.serve(sv)
	}
}

// serve passes what is new to a reader whose server was borrowed.
func (s *Stream) serve(sv *server) {
	done, err := sv.pumpSafely()
	if sv.conn != nil {
		if sv.stuck && err == nil {
			go sv.unstick(done)
			return
		}
		sv.conclude(done, err)
		sv.restore()
		return
	}
	s.mu.Lock()
	sv.lent = false
	if done || err != nil {
		sv.gone, sv.result = true, err
		s.wake(true)
	}
	s.mu.Unlock()
	sv.own.Unlock()
}

// borrow collects the servers that the writing side may use, with own held, and wakes the other readers; mu is held. A
// connection that was taken over never makes it wait, unless its reader is so far behind that it needs the journal; any other
// only where nothing but its own worker waits then.
func (s *Stream) borrow(lent []*server, mayWait bool) []*server {
	alone := mayWait && !s.o.Detached && !s.parked && len(s.readers) == 1
	for _, r := range s.readers {
		sv := r.sv
		if sv == nil || sv.conn == nil && !alone || sv.conn != nil && r.pos < s.win.base || !sv.own.TryLock() {
			s.wakeOne(r)
			continue
		}
		if sv.gone {
			sv.own.Unlock()
			s.wakeOne(r)
			continue
		}
		sv.lent = true
		sv.loans++
		lent = append(lent, sv)
	}
	return lent
}

// interrupt cuts a reader in whose connection the writing side is stuck, so that a cancelled job ends.
func (s *Stream) interrupt() {
	const grace = 100 * time.Millisecond // a write that is not stuck is over by then
	stuck := func() (*server, uint64) {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, r := range s.readers {
			if r.sv != nil && r.sv.lent && r.sv.conn == nil { // one that was taken over holds nobody up
				return r.sv, r.sv.loans
			}
		}
		return nil, 0
	}
	sv, turn := stuck()
	if sv == nil {
		return
	}
	time.AfterFunc(grace, func() {
		if again, same := stuck(); again == sv && same == turn {
			_ = sv.rc.SetWriteDeadline(time.Now())
		}
	})
}
