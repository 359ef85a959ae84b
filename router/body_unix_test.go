//go:build unix

package router

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
)

// trickle is a connection whose bytes come when the test wants: reading without waiting really asks the system.
type trickle struct {
	net.Conn
	t        testing.TB
	rd, wr   int
	rest     []byte
	rnd      *rand.Rand
	finished bool
}

func newTrickle(t testing.TB, raw []byte, rnd *rand.Rand) *trickle {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.SetNonblock(fds[0], true); err != nil {
		t.Fatal(err)
	}
	return &trickle{t: t, rd: fds[0], wr: fds[1], rest: raw, rnd: rnd}
}

func (c *trickle) close() {
	_ = syscall.Close(c.rd)
	if !c.finished {
		_ = syscall.Close(c.wr)
	}
}

// more has some bytes come, or the end.
func (c *trickle) more() {
	if len(c.rest) == 0 {
		if !c.finished {
			c.finished = true
			_ = syscall.Close(c.wr)
		}
		return
	}
	n := 1 + c.rnd.IntN(min(len(c.rest), 1<<c.rnd.IntN(10)))
	if _, err := syscall.Write(c.wr, c.rest[:n]); err != nil {
		c.t.Fatal(err)
	}
	c.rest = c.rest[n:]
}

// Read is the ordinary way: it waits, here by having more come.
func (c *trickle) Read(p []byte) (int, error) {
	for {
		n, err := syscall.Read(c.rd, p)
		switch {
		case errors.Is(err, syscall.EAGAIN):
			c.more()
		case err != nil:
			return 0, err
		case n == 0 && len(p) > 0:
			return 0, io.EOF
		default:
			return n, nil
		}
	}
}

func (c *trickle) SyscallConn() (syscall.RawConn, error) { return trickleRaw{c}, nil }

type trickleRaw struct{ c *trickle }

func (r trickleRaw) Control(fn func(fd uintptr)) error { fn(uintptr(r.c.rd)); return nil }
func (r trickleRaw) Write(func(fd uintptr) bool) error { return errors.ErrUnsupported }
func (r trickleRaw) Read(fn func(fd uintptr) bool) error {
	if !fn(uintptr(r.c.rd)) {
		r.c.t.Error("a read without waiting waits")
	}
	return nil
}

// unframe reads an answer's body with streamBody, from some point on without waiting.
func unframe(t testing.TB, raw []byte, rnd *rand.Rand) (data []byte, err error, over bool) {
	t.Helper()
	tr := newTrickle(t, raw, rnd)
	defer tr.close()
	c := newConn(tr)
	resp, err := c.response(true)
	if err != nil {
		t.Fatalf("header: %v", err)
	}
	b := bodyOf(c, &resp)
	polls := rnd.IntN(4) // 0: never
	buf := make([]byte, 1+rnd.IntN(2048))
	idle := 0
	for {
		if polls > 0 && rnd.IntN(polls) == 0 {
			b.polled = true
		}
		n, err := b.Read(buf[:1+rnd.IntN(len(buf))])
		data = append(data, buf[:n]...)
		switch {
		case err != nil:
			if _, again := b.Read(buf); b.state == bodyOver && !errors.Is(again, io.EOF) {
				t.Errorf("after the end: %v", again)
			}
			return data, err, b.over()
		case n == 0 && !b.polled:
			t.Fatal("0 bytes and no error from a read that waits")
		case n == 0:
			if idle++; idle > 4*len(raw)+100 {
				t.Fatal("the body does not end")
			}
			tr.more()
		}
	}
}

// plainly reads the body as net/http does.
func plainly(t testing.TB, raw []byte) ([]byte, error) {
	t.Helper()
	resp, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(raw)), nil)
	if err != nil {
		t.Fatalf("header: %v", err)
	}
	data, err := io.ReadAll(resp.Body)
	if err == nil {
		err = io.EOF
	}
	return data, err
}

const chunkedHeader = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"

// frameUp puts data into chunks, with everything that the framing may have.
func frameUp(data []byte, rnd *rand.Rand) []byte {
	var b bytes.Buffer
	for len(data) > 0 {
		n := 1 + rnd.IntN(min(len(data), 1<<rnd.IntN(12)))
		format := []string{"%x", "%X", "0%x", "000%X"}[rnd.IntN(4)]
		fmt.Fprintf(&b, format, n)
		b.WriteString([]string{"", "", " ", ";a=b", ";a=\"x y\";c", "  \t"}[rnd.IntN(6)])
		b.WriteString("\r\n")
		b.Write(data[:n])
		b.WriteString("\r\n")
		data = data[n:]
	}
	b.WriteString([]string{"0", "0000", "0;last"}[rnd.IntN(3)] + "\r\n")
	for range rnd.IntN(3) {
		b.WriteString("X-Trailer: some value\r\n")
	}
	b.WriteString("\r\n")
	return b.Bytes()
}

func kindOfEnd(err error) string {
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF), strings.HasSuffix(err.Error(), "unexpected EOF reading trailer"),
		strings.HasSuffix(err.Error(), "suspiciously long trailer after chunked body"): // net/http's words for one without its end
		return "cut"
	case errors.Is(err, io.EOF):
		return "whole"
	}
	return "bad"
}

// FuzzStreamBody holds streamBody against net/http. What is framed as it should be, whole or cut, gives the same in both. Of
// what is not, streamBody may take more than net/http: line ends of LF alone, spaces and anything else behind a size, long
// lines, trailers of any look. It never gives other data than net/http does, and refuses nothing that net/http takes, except
// sizes of 16 digits.
func FuzzStreamBody(f *testing.F) {
	f.Add([]byte("data: one\n\ndata: two\n\n"), uint64(1), -1)
	f.Add(bytes.Repeat([]byte("data: many\n\n"), 500), uint64(2), -1)
	f.Add([]byte("data: cut\n\n"), uint64(3), 9)
	f.Add([]byte("5\r\nhello\r\n0\r\n\r\n"), uint64(4), -2)
	f.Add([]byte("5;x\nhello\n0\nA: b\n\n"), uint64(5), -2)
	f.Add([]byte("fffffffffffffff\r\nhello"), uint64(6), -2)
	f.Add([]byte("0000000000000001\r\nx\r\n0\r\n\r\n"), uint64(7), -2)
	f.Add([]byte("3\r\nabcX\r\n0\r\n\r\n"), uint64(8), -2)
	f.Add([]byte("\r\n"), uint64(9), -2)
	f.Add([]byte("0\r\n\r\nHTTP/1.1 200 OK\r\n"), uint64(10), -2)
	f.Fuzz(func(t *testing.T, in []byte, seed uint64, cut int) {
		if len(in) > 1<<14 {
			return
		}
		rnd := rand.New(rand.NewPCG(seed, 0))
		framed := in
		if cut >= -1 {
			framed = frameUp(in, rnd)
			if cut >= 0 {
				framed = framed[:cut%(len(framed)+1)]
			}
		}
		raw := append([]byte(chunkedHeader), framed...)
		want, wantErr := plainly(t, raw)
		got, gotErr, over := unframe(t, raw, rnd)
		same := bytes.Equal(got, want) && kindOfEnd(gotErr) == kindOfEnd(wantErr)
		switch {
		case same && over && kindOfEnd(gotErr) != "whole":
			t.Fatalf("a connection with a broken answer is called good: %v", gotErr)
		case same:
		case cut >= -1:
			t.Fatalf("%q\nnet/http: %q %v\nours:     %q %v", framed, want, wantErr, got, gotErr)
		case kindOfEnd(wantErr) == "whole" && !hasLongSize(framed):
			t.Fatalf("%q is taken by net/http: %q\nours: %q %v", framed, want, got, gotErr)
		case !bytes.HasPrefix(got, want) && !bytes.HasPrefix(want, got):
			t.Fatalf("%q\nnet/http: %q %v\nours:     %q %v", framed, want, wantErr, got, gotErr)
		}
	})
}

func hasLongSize(b []byte) bool {
	digits := 0
	for _, c := range b {
		if strings.IndexByte("0123456789abcdefABCDEF", c) < 0 {
			digits = 0
		} else if digits++; digits > 15 {
			return true
		}
	}
	return false
}

func TestStreamBody(t *testing.T) {
	long := strings.Repeat("x", maxFraming)
	for name, tc := range map[string]struct {
		header, body, want, end string
		over                    bool
	}{
		"chunks":                        {chunkedHeader, "5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n", "hello!", "whole", true},
		"upper and lower case, zeros":   {chunkedHeader, "00A\r\n0123456789\r\nb\r\n0123456789a\r\n00\r\n\r\n", "01234567890123456789a", "whole", true},
		"extensions":                    {chunkedHeader, "5;a=b;c=\"d e\"\r\nhello\r\n0;x\r\n\r\n", "hello", "whole", true},
		"trailers":                      {chunkedHeader, "5\r\nhello\r\n0\r\nA: b\r\nC: d\r\n\r\n", "hello", "whole", true},
		"LF alone":                      {chunkedHeader, "5\nhello\n0\n\n", "hello", "whole", true},
		"data that looks like framing":  {chunkedHeader, "7\r\n0\r\n\r\n5\r\r\n0\r\n\r\n", "0\r\n\r\n5\r", "whole", true},
		"more after the end":            {chunkedHeader, "5\r\nhello\r\n0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", "hello", "whole", false},
		"no end":                        {chunkedHeader, "5\r\nhello\r\n", "hello", "cut", false},
		"cut in the data":               {chunkedHeader, "5\r\nhel", "hel", "cut", false},
		"cut in a size":                 {chunkedHeader, "5", "", "cut", false},
		"cut in the trailer":            {chunkedHeader, "5\r\nhello\r\n0\r\nA: b\r\n", "hello", "cut", false},
		"size of 15 digits":             {chunkedHeader, "000000000000005\r\nhello\r\n0\r\n\r\n", "hello", "whole", true},
		"size of 16 digits":             {chunkedHeader, "0000000000000005\r\nhello\r\n0\r\n\r\n", "", "bad", false},
		"size too large":                {chunkedHeader, "ffffffffffffffffff\r\nhello", "", "bad", false},
		"no size":                       {chunkedHeader, "\r\nhello", "", "bad", false},
		"an extension without a size":   {chunkedHeader, ";x\r\nhello", "", "bad", false},
		"a negative size":               {chunkedHeader, "-5\r\nhello\r\n", "", "bad", false},
		"a prefix":                      {chunkedHeader, "0x5\r\nhello\r\n", "", "bad", false},
		"data longer than its size":     {chunkedHeader, "5\r\nhello!\r\n0\r\n\r\n", "hello", "bad", false},
		"an extension without end":      {chunkedHeader, "5;" + long, "", "bad", false},
		"trailers without end":          {chunkedHeader, "5\r\nhello\r\n0\r\n" + strings.Repeat("A: b\r\n", maxFraming/6+1), "hello", "bad", false},
		"a length":                      {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", "hello", "hello", "whole", true},
		"more than the length":          {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", "hello!", "hello", "whole", false},
		"less than the length":          {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", "hell", "hell", "cut", false},
		"a length of nothing":           {"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "", "", "whole", true},
		"until the connection's end":    {"HTTP/1.1 200 OK\r\n\r\n", "hello 5\r\n", "hello 5\r\n", "whole", false},
		"until the end, and nothing":    {"HTTP/1.0 200 OK\r\n\r\n", "", "", "whole", false},
		"an informational answer first": {"HTTP/1.1 100 Continue\r\n\r\n" + chunkedHeader, "1\r\nx\r\n0\r\n\r\n", "x", "whole", true},
	} {
		t.Run(name, func(t *testing.T) {
			for seed := range uint64(40) {
				got, err, over := unframe(t, []byte(tc.header+tc.body), rand.New(rand.NewPCG(seed, 1)))
				// what stands behind the end is only seen where it came with the end: the pool looks again before it uses a connection
				if string(got) != tc.want || kindOfEnd(err) != tc.end || over && !tc.over && tc.end != "whole" || !over && tc.over {
					t.Fatalf("seed %d: %q, %v, over %v", seed, got, err, over)
				}
			}
		})
	}
}

// TestWhatFollowsTheBodyIsSeen: an answer that comes in one piece with more behind its end leaves no connection for the pool.
func TestWhatFollowsTheBodyIsSeen(t *testing.T) {
	for _, polled := range []bool{false, true} {
		raw := chunkedHeader + "1\r\nx\r\n0\r\n\r\n!"
		tr := newTrickle(t, nil, rand.New(rand.NewPCG(1, 1)))
		if _, err := syscall.Write(tr.wr, []byte(raw)); err != nil {
			t.Fatal(err)
		}
		c := newConn(tr)
		resp, err := c.response(true)
		if err != nil {
			t.Fatal(err)
		}
		b := bodyOf(c, &resp)
		b.polled = polled
		if got, err := io.ReadAll(&b); string(got) != "x" || err != nil {
			t.Fatalf("%q %v", got, err)
		}
		if b.over() {
			t.Error("the connection is called good")
		}
		tr.close()
	}
}
