package poll

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"runtime/debug"
	"sync"
	"syscall"
	"unsafe"
)

// Loop is one goroutine that waits for many connections. Make one with New, end it with Close. Its methods may be called
// from any goroutine.
type Loop struct {
	ep   int
	file *os.File
	wait syscall.RawConn
	bell int // an eventfd, written to when there is something besides the connections
	log  *slog.Logger
	done chan struct{}

	mu      sync.Mutex
	watches map[uint64]*Watch
	last    uint64
	kicked  []*Watch
	later   []func()
	rung    bool
	closed  bool
}

// Watch is one connection in a Loop.
type Watch struct {
	l      *Loop
	raw    syscall.RawConn
	key    uint64
	events uint32
	fn     func()
	over   bool // guarded by the loop's mu
	paused bool // likewise
	kicked bool // likewise
}

const (
	readable = syscall.EPOLLIN | syscall.EPOLLRDHUP
	edge     = 1 << 31 // EPOLLET, which the syscall package has as a negative number
	oneShot  = 1 << 30
)

// New starts a loop. The logger hears of callbacks that panicked.
func New(log *slog.Logger) (*Loop, error) {
	ep, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("poll: %w", err)
	}
	fd, _, errno := syscall.Syscall(syscall.SYS_EVENTFD2, 0, syscall.O_CLOEXEC|syscall.O_NONBLOCK, 0)
	if errno != 0 {
		_ = syscall.Close(ep)
		return nil, fmt.Errorf("poll: %w", errno)
	}
	l := &Loop{ep: ep, log: log, bell: int(fd), done: make(chan struct{}), watches: make(map[uint64]*Watch)}
	if err := syscall.EpollCtl(ep, syscall.EPOLL_CTL_ADD, l.bell, &syscall.EpollEvent{Events: syscall.EPOLLIN | edge}); err != nil {
		return nil, errors.Join(fmt.Errorf("poll: %w", err), l.shut())
	}
	if err := syscall.SetNonblock(ep, true); err != nil {
		return nil, errors.Join(fmt.Errorf("poll: %w", err), l.shut())
	}
	l.file = os.NewFile(uintptr(ep), "epoll")
	if l.wait, err = l.file.SyscallConn(); err != nil {
		return nil, errors.Join(fmt.Errorf("poll: %w", err), l.shut())
	}
	go l.run()
	return l, nil
}

// Close ends the loop: no callback runs any more when it returns. It must not be called from one.
func (l *Loop) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		<-l.done
		return nil
	}
	l.closed = true
	l.strike()
	l.mu.Unlock()
	<-l.done
	return l.shut()
}

// shut closes the descriptors, each once: their numbers may be somebody else's soon.
func (l *Loop) shut() error {
	err := syscall.Close(l.bell)
	if l.file != nil {
		return errors.Join(err, l.file.Close()) // which owns ep
	}
	return errors.Join(err, syscall.Close(l.ep))
}

// Readable returns a watch, paused as yet, that has fn called on the loop's goroutine whenever there is something to read
// from c, or its other side is gone, until Stop. fn must not block and must take what there is, or Pause. ok is false when c
// is not a connection of the system, or the loop is closed.
func (l *Loop) Readable(c net.Conn, fn func()) (w *Watch, ok bool) { return l.add(c, readable, fn) }

// Gone has fn called on the loop's goroutine, once, when the other side of c closes it, until Stop.
func (l *Loop) Gone(c net.Conn, fn func()) (w *Watch, ok bool) {
	if w, ok = l.add(c, syscall.EPOLLRDHUP|edge|oneShot, fn); ok {
		w.Resume()
	}
	return w, ok
}

func (l *Loop) add(c net.Conn, events uint32, fn func()) (*Watch, bool) {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return nil, false
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return nil, false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, false
	}
	l.last++
	w := &Watch{l: l, raw: raw, key: l.last, events: events, fn: fn, paused: true}
	l.watches[w.key] = w
	return w, true
}

// control tells the system what is wanted; the loop's mu is held.
func (w *Watch) control(op int) error {
	if w.l.closed {
		return net.ErrClosed
	}
	ev := syscall.EpollEvent{Events: w.events, Fd: int32(uint32(w.key)), Pad: int32(uint32(w.key >> 32))}
	var err error
	if e := w.raw.Control(func(fd uintptr) { err = syscall.EpollCtl(w.l.ep, op, int(fd), &ev) }); e != nil {
		return e // closed: the system has forgotten it by itself
	}
	return err
}

// Later has fn called on the loop's goroutine once the callbacks of this round have been: what they have in common is
// done once.
func (l *Loop) Later(fn func()) {
	l.mu.Lock()
	l.later = append(l.later, fn)
	l.mu.Unlock()
	l.ring()
}

// Stop ends the watch. A callback may be under way still, unless Stop is called from it.
func (w *Watch) Stop() {
	w.l.mu.Lock()
	defer w.l.mu.Unlock()
	if w.over {
		return
	}
	w.over = true
	delete(w.l.watches, w.key)
	if !w.paused {
		_ = w.control(syscall.EPOLL_CTL_DEL)
	}
}

// Pause ends the callbacks until Resume.
func (w *Watch) Pause() {
	w.l.mu.Lock()
	defer w.l.mu.Unlock()
	if !w.over && !w.paused {
		w.paused = true
		_ = w.control(syscall.EPOLL_CTL_DEL)
	}
}

// Resume undoes Pause.
func (w *Watch) Resume() {
	w.l.mu.Lock()
	defer w.l.mu.Unlock()
	if w.over || !w.paused {
		return
	}
	w.paused = false
	if w.control(syscall.EPOLL_CTL_ADD) != nil { // closed meanwhile
		w.kick()
	}
}

// Kick has the callback called soon whatever the connection says, for instance because it was closed on this side, of
// which the system tells nobody. A paused watch is not kicked, but looks when it is resumed.
func (w *Watch) Kick() {
	w.l.mu.Lock()
	defer w.l.mu.Unlock()
	if !w.over && !w.paused {
		w.kick()
	}
}

// kick is Kick with the loop's mu held.
func (w *Watch) kick() {
	if w.kicked {
		return
	}
	w.kicked = true
	w.l.kicked = append(w.l.kicked, w)
	w.l.ringLocked()
}

func (l *Loop) ring() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ringLocked()
}

// ringLocked wakes the loop, once a round; mu is held.
func (l *Loop) ringLocked() {
	if l.rung || l.closed {
		return
	}
	l.rung = true
	l.strike()
}

// strike writes to the bell; mu is held.
func (l *Loop) strike() {
	var one [8]byte
	binary.NativeEndian.PutUint64(one[:], 1)
	_, _ = syscall.Write(l.bell, one[:])
}

func (l *Loop) run() {
	defer close(l.done)
	events := make([]syscall.EpollEvent, 256)
	var r round
	for {
		var n int
		var err error
		werr := l.wait.Read(func(fd uintptr) bool {
			n, err = waitNow(fd, events)
			return n != 0
		})
		if werr != nil {
			return
		}
		if err != nil && !errors.Is(err, syscall.EINTR) {
			l.log.Error("poll: the loop ended", "error", err)
			return
		}
		l.mu.Lock()
		if l.closed {
			l.mu.Unlock()
			return
		}
		l.rung = true // until this round is over nobody needs to ring
		for _, ev := range events[:max(n, 0)] {
			key := uint64(uint32(ev.Fd)) | uint64(uint32(ev.Pad))<<32
			if w := l.watches[key]; w != nil {
				r.batch = append(r.batch, w)
			}
		}
		for l.due(&r) {
			l.mu.Unlock()
			l.serve(&r)
			l.mu.Lock()
		}
		l.rung = false
		l.mu.Unlock()
	}
}

// round is what the loop calls back at a time; its memory is used again.
type round struct {
	batch []*Watch
	later []func()
}

// due adds who was kicked and what is to be done later; false when there is nothing. mu is held.
func (l *Loop) due(r *round) bool {
	for _, w := range l.kicked {
		w.kicked = false
		r.batch = append(r.batch, w)
	}
	clear(l.kicked)
	l.kicked = l.kicked[:0]
	return !l.closed && (len(r.batch) > 0 || len(l.later) > 0)
}

// serve makes the calls of a round: what is to be done later includes what these calls ask for.
func (l *Loop) serve(r *round) {
	for _, w := range r.batch {
		l.turn(w)
	}
	clear(r.batch)
	r.batch = r.batch[:0]
	l.mu.Lock()
	r.later, l.later = l.later, r.later[:0]
	l.mu.Unlock()
	for _, fn := range r.later {
		l.call(fn)
	}
	clear(r.later)
}

// turn calls a watch back, unless it was stopped or paused since it was found due: by a callback before it, or by its own,
// where the system and Kick both asked for it.
func (l *Loop) turn(w *Watch) {
	l.mu.Lock()
	due := !w.over && !w.paused
	if due && w.events&oneShot != 0 {
		w.over = true
		delete(l.watches, w.key)
		_ = w.control(syscall.EPOLL_CTL_DEL)
	}
	l.mu.Unlock()
	if due {
		l.call(w.fn)
	}
}

// waitNow is epoll_wait(2) that does not wait. The scheduler need not hear of it.
func waitNow(fd uintptr, events []syscall.EpollEvent) (int, error) {
	n, _, errno := syscall.RawSyscall6(syscall.SYS_EPOLL_PWAIT, fd, uintptr(unsafe.Pointer(&events[0])), uintptr(len(events)), 0, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// call runs a callback; a panic is a fault of one stream and must not end all of them.
func (l *Loop) call(fn func()) {
	defer func() {
		if v := recover(); v != nil {
			l.log.Error("poll: a callback panicked", "panic", fmt.Sprint(v), "stack", string(debug.Stack()))
		}
	}()
	fn()
}
