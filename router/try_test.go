//go:build unix

package router

import (
	"bytes"
	"io"
	"net"
	"testing"
)

// TestWriteAtOnce writes what the other side has room for and no more, in order; a connection that the system does not know, or that
// is closed, takes nothing.
func TestWriteAtOnce(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	nc, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	other, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if err := nc.(*net.TCPConn).SetWriteBuffer(4096); err != nil {
		t.Fatal(err)
	}
	c := newConn(nc)
	var sent []byte
	for i := 0; ; i++ {
		p := bytes.Repeat([]byte{byte(i)}, 64<<10)
		n := c.tryWrite(p)
		if sent = append(sent, p[:n]...); n < len(p) {
			break
		}
	}
	if len(sent) == 0 {
		t.Error("nothing was written")
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if n := c.tryWrite([]byte("x")); n != 0 {
		t.Errorf("a closed connection took %d bytes", n)
	}
	got, err := io.ReadAll(other)
	if err != nil || !bytes.Equal(got, sent) {
		t.Errorf("%d bytes arrived of %d, %v", len(got), len(sent), err)
	}
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	if n := newConn(a).tryWrite([]byte("x")); n != 0 {
		t.Errorf("a pipe took %d bytes", n)
	}
}
