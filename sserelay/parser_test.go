package sserelay

import (
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// got is what a parser made of an event.
type got struct{ Type, Data, ID string }

func parseAll(r io.Reader) (events []got, retry time.Duration, err error) {
	p := NewParser(r, ParserOptions{})
	for {
		ev, err := p.Next()
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return events, p.Retry(), err
		}
		events = append(events, got{string(ev.Type), string(ev.Data), ev.ID})
	}
}

// The cases of web-platform-tests eventsource/format-*, in our words.
var formatCases = []struct {
	name, in string
	want     []got
	retry    time.Duration
}{
	{"a byte-order mark is skipped", "\ufeffdata:1\n\n\ufeffdata:2\n\ndata:3\n\n", []got{{"", "1", ""}, {"", "3", ""}}, 0},
	{"a second byte-order mark is a part of the field", "\ufeff\ufeffdata:1\n\ndata:2\n\ndata:3\n\n", []got{{"", "2", ""}, {"", "3", ""}}, 0},
	{"comments", "data:1\r:\x00\n:\r\ndata:2\n:" + strings.Repeat("x", 2<<10) + "\rdata:3\n:data:fail\r:" + strings.Repeat("y", 2<<10) + "\ndata:4\n\n",
		[]got{{"", "1\n2\n3\n4", ""}}, 0},
	{"data before a final empty line is no event", "retry:1000\ndata:test1\n\nid:test\ndata:test2", []got{{"", "test1", ""}}, time.Second},
	{"data fields", "data:\n\ndata\ndata\n\ndata:test\n\n", []got{{"", "", ""}, {"", "\n", ""}, {"", "test", ""}}, 0},
	{"event", "event:test\ndata:x\n\ndata:x\n\n", []got{{"test", "x", ""}, {"", "x", ""}}, 0},
	{"an empty event is a message", "event: \ndata:data\n\n", []got{{"", "data", ""}}, 0},
	{"the last event field counts", "event:a\nevent:b\ndata:x\n\n", []got{{"b", "x", ""}}, 0},
	{"id", "id: one\ndata:1\n\ndata:2\n\nid: two\ndata: 3\n\n", []got{{"", "1", "one"}, {"", "2", "one"}, {"", "3", "two"}}, 0},
	{"an empty id resets", "id: one\ndata:1\n\nid\ndata:2\n\n", []got{{"", "1", "one"}, {"", "2", ""}}, 0},
	{"an id without data counts", "id:7\n\ndata:x\n\n", []got{{"", "x", "7"}}, 0},
	{"an id with a null character is ignored", "id:one\nid:a\x00b\ndata:x\n\n", []got{{"", "x", "one"}}, 0},
	{"field parsing", "data:\x00\ndata:  2\rData:1\ndata\x00:2\ndata:1\r\x00data:4\nda-ta:3\rdata_5\ndata:3\rdata:\r\n data:32\ndata:4\n\n",
		[]got{{"", "\x00\n 2\n1\n3\n\n4", ""}}, 0},
	{"retry", "retry:03000\ndata:x\n\n", []got{{"", "x", ""}}, 3 * time.Second},
	{"a bogus retry is ignored", "retry:3000\nretry:1000x\ndata:x\n\n", []got{{"", "x", ""}}, 3 * time.Second},
	{"an empty retry is ignored", "retry:400\nretry\ndata:test\n\n", []got{{"", "test", ""}}, 400 * time.Millisecond},
	{"an unknown field is ignored", "data:test\n data\ndata\nfoobar:xxx\njustsometext\n:thisisacommentyay\n\n", []got{{"", "test\n", ""}}, 0},
	{"one leading space is dropped", "data:\ttest\rdata: \ndata:test\n\n", []got{{"", "\ttest\n\ntest", ""}}, 0},
	{"line ends", "data:test\r\ndata\ndata:test\r\n\r\n", []got{{"", "test\n\ntest", ""}}, 0},
	{"CR only", "data:a\r\rdata:b\r\r", []got{{"", "a", ""}, {"", "b", ""}}, 0},
	{"null characters pass", "data:\x00\n\n\n\n", []got{{"", "\x00", ""}}, 0},
	{"UTF-8 passes", "data:ok…\n\n", []got{{"", "ok…", ""}}, 0},
	{"blank lines alone are nothing", "\n\r\n\r\n\n\revent:x\n\ndata:1\n\n", []got{{"", "1", ""}}, 0},
}

func TestParserFormat(t *testing.T) {
	for _, tc := range formatCases {
		for how, r := range map[string]io.Reader{
			"whole":    strings.NewReader(tc.in),
			"bytewise": iotest.OneByteReader(strings.NewReader(tc.in)),
			"halves":   iotest.HalfReader(strings.NewReader(tc.in)),
			"with EOF": iotest.DataErrReader(strings.NewReader(tc.in)),
		} {
			events, retry, err := parseAll(r)
			if err != nil {
				t.Errorf("%s, %s: %v", tc.name, how, err)
			}
			if diff := cmp.Diff(tc.want, events); diff != "" {
				t.Errorf("%s, %s (-want +got):\n%s", tc.name, how, diff)
			}
			if retry != tc.retry {
				t.Errorf("%s, %s: retry %v", tc.name, how, retry)
			}
		}
	}
}

func TestParserBounds(t *testing.T) {
	var limit *LimitError
	for name, in := range map[string]io.Reader{
		"a line without an end":   io.MultiReader(strings.NewReader("data:"), endless{}),
		"a line of 2 MiB":         strings.NewReader("data:" + strings.Repeat("x", 2<<20) + "\n\n"),
		"an event without an end": strings.NewReader(strings.Repeat("data:x\n", 1<<19)),
		"endless comments":        strings.NewReader(strings.Repeat(":x\n", 1<<20)),
	} {
		p := NewParser(in, ParserOptions{})
		_, err := p.Next()
		if !errors.As(err, &limit) || limit.Code() != "WORKER_FAILED" {
			t.Errorf("%s: %v", name, err)
		}
		if cap(p.buf) > 5<<20 {
			t.Errorf("%s: a buffer of %d bytes", name, cap(p.buf))
		}
		if _, again := p.Next(); again != err {
			t.Errorf("%s: then %v", name, again)
		}
	}
}

// endless is a worker that never ends its line.
type endless struct{}

func (endless) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = 'x'
	}
	return len(b), nil
}

func TestParserReportsTheReadersError(t *testing.T) {
	broken := errors.New("connection reset")
	p := NewParser(io.MultiReader(strings.NewReader("data:1\n\ndata:2"), iotest.ErrReader(broken)), ParserOptions{})
	if ev, err := p.Next(); err != nil || string(ev.Data) != "1" {
		t.Fatal(ev, err)
	}
	if _, err := p.Next(); !errors.Is(err, broken) {
		t.Fatal(err)
	}
	if string(p.Pending()) != "data:2" {
		t.Errorf("pending %q", p.Pending())
	}
}

func TestParserRawIsTheEventsOwnLines(t *testing.T) {
	in := ":c\nevent: x\r\ndata: 1\r\n\r\ndata: 2\nid: 4\n\n"
	p := NewParser(iotest.OneByteReader(strings.NewReader(in)), ParserOptions{})
	want := []string{":c\nevent: x\r\ndata: 1\r\n", "data: 2\nid: 4\n"}
	for _, w := range want {
		ev, err := p.Next()
		if err != nil || string(ev.Raw) != w {
			t.Errorf("raw %q (%v), want %q", ev.Raw, err, w)
		}
	}
}

// reference parses a whole stream the plain way, line by line, as the standard words it.
func reference(in string) (events []got) {
	in = strings.TrimPrefix(in, "\ufeff")
	in = strings.ReplaceAll(strings.ReplaceAll(in, "\r\n", "\n"), "\r", "\n")
	lines := strings.Split(in, "\n")
	var data, typ, id string
	for _, line := range lines[:len(lines)-1] { // what follows the last line end is incomplete
		if line == "" {
			if data != "" {
				events = append(events, got{typ, strings.TrimSuffix(data, "\n"), id})
			}
			data, typ = "", ""
			continue
		}
		field, value, found := strings.Cut(line, ":")
		if found && field == "" {
			continue
		}
		value = strings.TrimPrefix(value, " ")
		switch field {
		case "data":
			data += value + "\n"
		case "event":
			typ = value
		case "id":
			if !strings.Contains(value, "\x00") {
				id = value
			}
		}
	}
	return events
}

// splitReader cuts the stream at places that come from the fuzzer.
type splitReader struct {
	in   string
	cuts []byte
}

func (s *splitReader) Read(b []byte) (int, error) {
	if s.in == "" {
		return 0, io.EOF
	}
	n := len(s.in)
	if len(s.cuts) > 0 {
		n = min(n, int(s.cuts[0])%7+1)
		s.cuts = s.cuts[1:]
	}
	n = copy(b, s.in[:n])
	s.in = s.in[n:]
	return n, nil
}

func FuzzParser(f *testing.F) {
	for _, tc := range formatCases {
		f.Add(tc.in, []byte{1, 2, 3})
	}
	f.Add("data: {\"a\":1}\r\r\n\r", []byte{0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, in string, cuts []byte) {
		if len(in) > 1<<12 {
			return
		}
		events, _, err := parseAll(&splitReader{in, cuts})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(reference(in), events); diff != "" {
			t.Fatalf("%q (-reference +parser):\n%s", in, diff)
		}
	})
}
