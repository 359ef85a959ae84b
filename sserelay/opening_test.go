package sserelay

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
)

// The identity is that of the first chunk, however large it is and however often it is asked for.
func TestOpening(t *testing.T) {
	for _, size := range []int{1, 100, 2 << 10, 100 << 10} {
		var o opening
		if id := o.ident(); id.id != nil {
			t.Errorf("an identity of nothing: %q", id.id)
		}
		for i := range 3 {
			o.learn(fmt.Appendf(nil, `data: {"id":"c%d","created":%d,"model":"m%d","choices":[{"index":0,"delta":{"content":%q}}]}`+"\n", i, i, i, strings.Repeat("x", size)))
		}
		if cap(o.block) > 4<<10 {
			t.Errorf("%d bytes of a chunk of %d are kept", cap(o.block), size)
		}
		for range 2 {
			if id := o.ident(); string(id.id) != `"c0"` || string(id.created) != "0" || string(id.model) != `"m0"` {
				t.Errorf("size %d: %q %q %q", size, id.id, id.created, id.model)
			}
		}
	}
}

// silent is a polled reader that has said what it had.
type silent struct{ said string }

func (s *silent) Read(p []byte) (int, error) {
	n := copy(p, s.said)
	s.said = s.said[n:]
	return n, nil
}

// A silent stream's parser holds neither a buffer nor an event that lies in one: the buffer is somebody else's by then.
func TestSilentParserHoldsNothing(t *testing.T) {
	h := NewHub(nil, Options{})
	p := NewParser(&silent{"data: one\n\n"}, ParserOptions{})
	p.poll(h)
	if ev, err := p.Next(); err != nil || string(ev.Data) != "one" {
		t.Fatalf("%q %v", ev.Data, err)
	}
	if _, err := p.Next(); !errors.Is(err, errAgain) {
		t.Fatal(err)
	}
	if p.buf != nil || p.box != nil || p.ev.Raw != nil || p.ev.Data != nil || p.ev.Type != nil {
		t.Errorf("it holds %d bytes, and of the event %q", cap(p.buf), p.ev.Raw)
	}
	p.r = io.LimitReader(nil, 0)
	if _, err := p.Next(); !errors.Is(err, io.EOF) {
		t.Errorf("%v", err)
	}
}
