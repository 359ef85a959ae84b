package router

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// A life is what the standard library's contexts would be: err, cause, end and children.
func TestLifeIsAContext(t *testing.T) {
	why := errors.New("why")
	l := &life{}
	child, cancelChild := context.WithCancel(l)
	defer cancelChild()
	ran := make(chan error, 2)
	context.AfterFunc(l, func() { ran <- context.Cause(l) })
	if stop := context.AfterFunc(l, func() { ran <- errors.New("stopped, and ran") }); !stop() {
		t.Error("it can't be stopped")
	}
	early := l.Done()
	if l.Err() != nil || l.why() != nil || context.Cause(l) != nil || l.Value("x") != nil || child.Err() != nil {
		t.Fatal("over before it ended")
	}
	l.cancel(why)
	l.cancel(errCut) // too late
	<-early
	<-l.Done()
	if !errors.Is(l.Err(), context.Canceled) || l.why() != why || context.Cause(l) != why {
		t.Errorf("%v, %v, %v", l.Err(), l.why(), context.Cause(l))
	}
	if !errors.Is(child.Err(), context.Canceled) || context.Cause(child) != why { // at once, not by and by
		t.Errorf("child: %v, %v", child.Err(), context.Cause(child))
	}
	if got := <-ran; got != why {
		t.Error(got)
	}
	late, cancelLate := context.WithTimeout(l, time.Hour)
	defer cancelLate()
	if context.Cause(late) != why {
		t.Errorf("a child of the dead: %v", context.Cause(late))
	}
	context.AfterFunc(l, func() { ran <- nil })
	if err := <-ran; err != nil {
		t.Error(err)
	}
	late2 := l.AfterFunc(func() { ran <- nil })
	if <-ran; late2() {
		t.Error("what has run was stopped")
	}
}

func TestLifeHasADeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &life{}
		l.limit(time.Now().Add(time.Second))
		if at, ok := l.Deadline(); !ok || time.Until(at) != time.Second {
			t.Error(at, ok)
		}
		<-time.After(999 * time.Millisecond)
		if l.Err() != nil {
			t.Fatal("early")
		}
		<-time.After(time.Millisecond)
		<-l.Done()
		if !errors.Is(l.Err(), context.DeadlineExceeded) || context.Cause(l) != errDeadline {
			t.Errorf("%v, %v", l.Err(), context.Cause(l))
		}
		past := &life{}
		past.limit(time.Now())
		if past.why() != errDeadline {
			t.Error("a deadline that has passed")
		}
		if _, ok := (&life{}).Deadline(); ok {
			t.Error("a deadline that nobody gave")
		}
	})
}

// Contexts under a life are hooks, not goroutines that wait, and an attempt costs nothing of its own.
func TestLifeCostsNothing(t *testing.T) {
	n := testing.AllocsPerRun(100, func() {
		var l life
		g := guard{}
		g.begin(&l, time.Hour, time.Hour)
		g.release()
		l.cancel(errCancelled)
	})
	if n > 2 { // the two themselves
		t.Errorf("%v allocations", n)
	}
	l := &life{}
	_, cancel := context.WithCancel(l)
	hung := l.hooks != nil
	if cancel(); !hung || l.hooks != nil {
		t.Errorf("hooks with a child: %v, afterwards: %v", hung, l.hooks != nil)
	}
}

// closing counts the closing of a connection.
type closing struct {
	cannedConn
	n atomic.Int32
}

func (c *closing) Close() error { c.n.Add(1); return nil }

func dueOf(c *conn) time.Time {
	c.dog.mu.Lock()
	defer c.dog.mu.Unlock()
	return c.dog.due
}

func guarded(t *testing.T, l *life, c *conn, first, inter time.Duration) *guard {
	t.Helper()
	g := &guard{}
	g.begin(l, first, inter)
	if !g.hold(c) {
		t.Fatal("over before it began")
	}
	return g
}

// Attempts that follow each other on a connection share its timer, and each has its own limits all the same.
func TestWatchdog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nc := &closing{}
		c, l := newConn(nc), &life{}
		defer l.cancel(errCancelled)
		begun := time.Now()
		g := guarded(t, l, c, 10*time.Second, 3*time.Second)
		if !g.release() {
			t.Fatal("not good")
		}
		for range 5 { // the first one's timer runs on
			<-time.After(time.Second)
			if g := guarded(t, l, c, 10*time.Second, 3*time.Second); !g.release() {
				t.Fatal("not good")
			}
			if dueOf(c).Sub(begun) != 10*time.Second {
				t.Fatal("set anew")
			}
		}
		<-time.After(20 * time.Second) // it fired, with nobody there
		if nc.n.Load() != 0 || !dueOf(c).IsZero() {
			t.Fatal("an idle connection was closed")
		}
		g = guarded(t, l, c, 10*time.Second, 3*time.Second)
		g.touch()
		for range 5 {
			<-time.After(2900 * time.Millisecond)
			g.touch()
		}
		if !g.release() {
			t.Fatal("expired while bytes came")
		}
		g = guarded(t, l, c, 10*time.Second, 3*time.Second) // the timer fires for the one before, and is set anew
		<-time.After(9999 * time.Millisecond)
		if g.why(errTruncated) != errTruncated {
			t.Error("the limit of another attempt")
		}
		<-time.After(time.Millisecond)
		synctest.Wait()
		if g.why(errTruncated) != errFirstToken || nc.n.Load() != 1 {
			t.Errorf("%v, closed %d times", g.why(errTruncated), nc.n.Load())
		}
		if g.release() {
			t.Error("a connection that was closed is called good")
		}
	})
}

// A shorter limit than the one that the timer was set for is kept, and so is the silence between two tokens.
func TestWatchdogShorterLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &life{}
		defer l.cancel(errCancelled)
		c := newConn(&closing{})
		guarded(t, l, c, time.Hour, time.Hour).release()
		g := guarded(t, l, c, time.Second, time.Minute)
		<-time.After(time.Second)
		synctest.Wait()
		if g.why(errTruncated) != errFirstToken {
			t.Error("the shorter limit is not kept")
		}
		c = newConn(&closing{})
		g = guarded(t, l, c, time.Hour, time.Second)
		g.touch()
		<-time.After(time.Second + 1)
		synctest.Wait()
		if g.why(errTruncated) != errInterToken {
			t.Error("silence is not noticed")
		}
	})
}

// The end of a job closes the connection of the attempt that is under way, and of no other.
func TestLifeShutsItsGuard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		one, two := &closing{}, &closing{}
		l := &life{}
		g := guarded(t, l, newConn(one), time.Hour, time.Hour)
		g.release()
		g2 := guarded(t, l, newConn(two), time.Hour, time.Hour)
		l.cancel(errClientGone)
		synctest.Wait()
		if one.n.Load() != 0 || two.n.Load() != 1 || g2.why(net.ErrClosed) != errClientGone {
			t.Errorf("closed %d and %d times, %v", one.n.Load(), two.n.Load(), g2.why(net.ErrClosed))
		}
		late := &guard{}
		late.begin(l, time.Hour, time.Hour)
		synctest.Wait()
		if c := (&closing{}); late.hold(newConn(c)) || c.n.Load() != 1 {
			t.Error("an attempt of a job that is over goes on")
		}
	})
}
