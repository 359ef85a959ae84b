package engine

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// foreign says whether somebody outside the group of pgid listens on a local address. Where that can't be told, it is
// taken for ours.
func foreign(address string, pgid int) bool {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		return false
	}
	inodes := listeners(n)
	if len(inodes) == 0 {
		return false
	}
	looked, owns := holds(pgid, inodes) // most often the leader itself; looking at everybody costs milliseconds
	if owns {
		return false
	}
	for _, pid := range group(pgid) {
		l, owns := holds(pid, inodes)
		if owns {
			return false
		}
		looked = looked || l
	}
	return looked
}

// holds says whether a process has one of the sockets open; looked is false when that can't be read.
func holds(pid int, inodes map[string]bool) (looked, owns bool) {
	links, err := filepath.Glob("/proc/" + strconv.Itoa(pid) + "/fd/*")
	if err != nil {
		return false, false
	}
	for _, l := range links {
		to, err := os.Readlink(l)
		if err != nil {
			continue
		}
		if looked = true; inodes[to] {
			return true, true
		}
	}
	return looked, false
}

// listeners are the sockets that listen on a port, as /proc/PID/fd names them. The kernel is asked for the listening
// ones only: /proc/net/tcp takes tens of milliseconds on a machine with many connections.
func listeners(port int) map[string]bool {
	out := map[string]bool{}
	for _, family := range []byte{syscall.AF_INET, syscall.AF_INET6} {
		if err := diagnose(family, port, out); err != nil {
			return readListeners(port)
		}
	}
	return out
}

// diagnose dumps the listening sockets of a family over a NETLINK_SOCK_DIAG socket.
func diagnose(family byte, port int, out map[string]bool) error {
	const sockDiag, byFamily, listen, reqLen, msgLen = 4, 20, 10, 56, 72
	fd, err := syscall.Socket(syscall.AF_NETLINK, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC, sockDiag)
	if err != nil {
		return err
	}
	defer func() { _ = syscall.Close(fd) }()
	_ = syscall.SetsockoptTimeval(fd, syscall.SOL_SOCKET, syscall.SO_RCVTIMEO, &syscall.Timeval{Sec: 1})
	req := make([]byte, syscall.NLMSG_HDRLEN+reqLen)
	binary.NativeEndian.PutUint32(req[0:], uint32(len(req)))
	binary.NativeEndian.PutUint16(req[4:], byFamily)
	binary.NativeEndian.PutUint16(req[6:], syscall.NLM_F_REQUEST|syscall.NLM_F_DUMP)
	body := req[syscall.NLMSG_HDRLEN:]
	body[0], body[1] = family, syscall.IPPROTO_TCP
	binary.NativeEndian.PutUint32(body[4:], 1<<listen)
	if err := syscall.Sendto(fd, req, 0, &syscall.SockaddrNetlink{Family: syscall.AF_NETLINK}); err != nil {
		return err
	}
	buf := make([]byte, 32<<10)
	for {
		n, _, err := syscall.Recvfrom(fd, buf, 0)
		if err != nil {
			return err
		}
		msgs, err := syscall.ParseNetlinkMessage(buf[:n])
		if err != nil {
			return err
		}
		for _, m := range msgs {
			switch {
			case m.Header.Type == syscall.NLMSG_DONE:
				return nil
			case m.Header.Type == syscall.NLMSG_ERROR || len(m.Data) < msgLen:
				return errors.New("the kernel does not list its sockets")
			case int(binary.BigEndian.Uint16(m.Data[4:])) == port:
				out[fmt.Sprintf("socket:[%d]", binary.NativeEndian.Uint32(m.Data[68:]))] = true
			}
		}
	}
}

// readListeners is the slow way.
func readListeners(port int) map[string]bool {
	out := map[string]bool{}
	suffix := fmt.Sprintf(":%04X", port)
	for _, file := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		b, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(b)) {
			f := strings.Fields(line)
			if len(f) > 9 && f[3] == "0A" && strings.HasSuffix(f[1], suffix) {
				out["socket:["+f[9]+"]"] = true
			}
		}
	}
	return out
}

// group lists the processes of a process group.
func group(pgid int) []int {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil
	}
	var out []int
	for _, s := range stats {
		b, err := os.ReadFile(s)
		i := bytes.LastIndexByte(b, ')')
		if err != nil || i < 0 {
			continue
		}
		f := strings.Fields(string(b[i+1:]))
		if len(f) < 3 || f[2] != strconv.Itoa(pgid) {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(s))); err == nil {
			out = append(out, pid)
		}
	}
	return out
}
