//go:build linux && (amd64 || arm64)

package sqlitequeue

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"unsafe"
)

// aside syncs a file in the kernel's own workers (io_submit(2)) while no thread of this process waits in a system call: that
// would keep the thread which watches over Go's scheduler awake, several thousand times a second, for as long as there are
// commits. Where the kernel, or what guards it, has no such calls, it is fdatasync(2). One call at a time.
type aside struct {
	ctx    uintptr  // aio_context_t; 0: none
	signal *os.File // eventfd(2), which Go's poller waits for; nil: none
	fd     uint32   // of signal
	tried  bool
	call   aioCall
	list   [1]*aioCall
	event  aioEvent
	count  [8]byte
}

// aioCall is struct iocb of linux/aio_abi.h, little endian.
type aioCall struct {
	_            uint64 // data
	_            uint32 // key
	_            uint32 // rw_flags
	opcode       uint16
	_            int16 // reqprio
	fd           uint32
	_            [4]uint64 // buf, nbytes, offset, reserved2
	flags, resfd uint32
}

// aioEvent is struct io_event.
type aioEvent struct {
	_   [2]uint64 // data, obj
	res int64
	_   int64 // res2
}

const (
	aioDatasync = 3 // IOCB_CMD_FDSYNC
	aioSignals  = 1 // IOCB_FLAG_RESFD
)

// sync is fdatasync(2).
func (a *aside) sync(f *os.File) error {
	if a.open() {
		if done, err := a.submit(f); done {
			return err
		}
		a.give() // it is not to be had after all: a file system without it, say
	}
	return datasync(f)
}

// open makes what is needed, once; it reports whether it is there.
func (a *aside) open() bool {
	if a.tried {
		return a.signal != nil
	}
	a.tried = true
	if _, _, errno := syscall.Syscall(syscall.SYS_IO_SETUP, 1, uintptr(unsafe.Pointer(&a.ctx)), 0); errno != 0 {
		a.ctx = 0
		return false
	}
	fd, _, errno := syscall.RawSyscall(syscall.SYS_EVENTFD2, 0, syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if errno != 0 {
		a.give()
		return false
	}
	a.signal, a.fd = os.NewFile(fd, "eventfd"), uint32(fd)
	return true
}

// submit has the kernel sync a file and waits for that. done is false when it did not take it.
func (a *aside) submit(f *os.File) (done bool, err error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return true, err
	}
	var errno syscall.Errno
	if err := raw.Control(func(fd uintptr) { // it takes hold of the file itself
		a.call = aioCall{opcode: aioDatasync, fd: uint32(fd), flags: aioSignals, resfd: a.fd}
		a.list[0] = &a.call
		_, _, errno = syscall.RawSyscall(syscall.SYS_IO_SUBMIT, a.ctx, 1, uintptr(unsafe.Pointer(&a.list)))
	}); err != nil {
		return true, err
	}
	if errno != 0 {
		return false, nil
	}
	if _, err := a.signal.Read(a.count[:]); err != nil {
		return true, fmt.Errorf("wait for the sync of %s: %w", f.Name(), err)
	}
	n, _, errno := syscall.RawSyscall6(syscall.SYS_IO_GETEVENTS, a.ctx, 1, 1, uintptr(unsafe.Pointer(&a.event)), 0, 0)
	switch {
	case errno != 0 || n != 1:
		return true, fmt.Errorf("result of the sync of %s: %w", f.Name(), errors.Join(errno, os.ErrInvalid))
	case a.event.res < 0:
		return true, &os.PathError{Op: "fdatasync", Path: f.Name(), Err: syscall.Errno(-a.event.res)}
	}
	return true, nil
}

// give gives back what open made.
func (a *aside) give() {
	if a.signal != nil {
		_ = a.signal.Close()
		a.signal = nil
	}
	if a.ctx != 0 {
		_, _, _ = syscall.Syscall(syscall.SYS_IO_DESTROY, a.ctx, 0, 0)
		a.ctx = 0
	}
}

// close ends it; nothing may be under way.
func (a *aside) close() {
	a.tried = true
	a.give()
}
