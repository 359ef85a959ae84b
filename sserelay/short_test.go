package sserelay

import (
	"errors"
	"fmt"
	"io"
	"net/http/httptest"
	"regexp"
	"slices"
	"testing/synctest"

	"context"
	"encoding/json"
	"github.com/google/go-cmp/cmp"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// whole is a short answer as a worker sends it.
const whole = `{"id":"chatcmpl-w","object":"chat.completion","created":1700000000,"model":"m.gguf","system_fingerprint":"fp","choices":[{"index":0,` +
	`"message":{"role":"assistant","content":"The quick brown fox jumps over the lazy dog, and the slow brown dog does not mind at all."},"logprobs":null,` +
	`"finish_reason":"stop"}],"usage":{"prompt_tokens":128,"completion_tokens":24,"total_tokens":152}}`

// carryWhole carries a job whose worker answers at once with one body, on the goroutine of its only reader.
func carryWhole(ctx context.Context, h *Hub, job string, v View) (*Answer, error) {
	s, err := h.Open(ctx, job, StreamOptions{Model: "tiny"})
	if err != nil {
		return nil, err
	}
	v.Carry = func() {
		_ = s.Started(ctx, "worker-1", "local", 1)
		out, _ := s.Body(ctx, Chat, http.StatusOK, http.Header{"Content-Type": {"application/json"}}, []byte(whole))
		_ = s.End(ctx, Result{Finish: out.Finish, PromptTokens: out.PromptTokens, OutputTokens: out.OutputTokens})
	}
	return s.Result(ctx, v)
}

func BenchmarkShortAnswer(b *testing.B) {
	h := NewHub(nil, Options{})
	b.ReportAllocs()
	for i := range b.N {
		if _, err := carryWhole(b.Context(), h, "job_"+strconv.Itoa(i), View{Format: FormatChat}); err != nil {
			b.Fatal(err)
		}
	}
}

// skipStringSlowly is skipString byte by byte.
func skipStringSlowly(b []byte, i int) int {
	for i++; i < len(b); i++ {
		switch {
		case b[i] == '"':
			return i + 1
		case b[i] < ' ':
			return -1
		case b[i] != '\\':
			continue
		}
		if i++; i < len(b) && strings.IndexByte(`"\/bfnrt`, b[i]) >= 0 {
			continue
		}
		if i >= len(b) || b[i] != 'u' || i+4 >= len(b) || !isHex(b[i+1]) || !isHex(b[i+2]) || !isHex(b[i+3]) || !isHex(b[i+4]) {
			return -1
		}
		i += 4
	}
	return -1
}

// FuzzSkipString holds the scan of eight bytes at once against the one byte by byte, and what is quoted and unquoted against encoding/json.
func FuzzSkipString(f *testing.F) {
	for _, s := range []string{`"plain"`, `"eight by`, "\"a\\\"\x80\xff\x7f\x1f\"", `"` + strings.Repeat("x", 40) + `\u00e9"`, `"!!!!!!!!"`, `"[[[[[]]]]]"`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for i := range min(len(b), 12) {
			if got, want := skipString(b, i), skipStringSlowly(b, i); got != want {
				t.Fatalf("skipString(%q, %d) = %d, want %d", b, i, got, want)
			}
		}
		var want, again string
		if q := quote(nil, string(b)); utf8.Valid(b) && (json.Unmarshal(q, &again) != nil || again != string(b) || unquote(q) != again) {
			t.Fatalf("%q quoted is %q", b, q)
		}
		if len(b) > 1 && b[0] == '"' && json.Unmarshal(b, &want) == nil && unquote(b[:skipString(b, 0)]) != want {
			t.Fatalf("%q unquoted is %q, want %q", b, unquote(b), want)
		}
	})
}

func TestStamp(t *testing.T) {
	zone := time.FixedZone("x", 3600)
	for _, at := range []time.Time{time.Unix(0, 0), time.Unix(1700000000, 7e6), time.Date(2026, 2, 3, 4, 5, 6, 999999999, zone), time.Date(2026, 1, 1, 0, 30, 0, 12e6, zone)} {
		if got, want := string(appendStamp(nil, at)), at.UTC().Format("2006-01-02T15:04:05.000Z07:00"); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

// frozen is what a reader that comes in the middle of a carried answer sees, and what the journal has then.
func frozen(t *testing.T, h *Hub, j Journal, at string) (kinds []Kind) {
	t.Helper()
	if err := j.Read(t.Context(), "j", 0, func(_ uint64, meta uint32, _ []byte) error {
		kinds = append(kinds, Meta(meta).Kind())
		return nil
	}); err != nil {
		t.Errorf("%s: %v", at, err)
	}
	return kinds
}

// TestShortAnswerIsOneGroup: nothing of it is journalled before its end, all of it then, and its reader gets the worker's own bytes.
func TestShortAnswerIsOneGroup(t *testing.T) {
	j := NewMemoryJournal(MemoryOptions{})
	h := NewHub(j, Options{})
	s, err := h.Open(t.Context(), "j", StreamOptions{Model: "tiny"})
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	a, err := s.Result(ctx, View{Format: FormatChat, Carry: func() {
		_ = s.Started(ctx, "w1", "local", 1)
		_, _ = s.Body(ctx, Chat, 200, http.Header{"Content-Type": {"application/json"}}, []byte(whole))
		if got := frozen(t, h, j, "before the end"); len(got) != 0 || s.Frames() != 2 {
			t.Errorf("before the end: %v journalled, %d frames", got, s.Frames())
		}
		_ = s.End(ctx, Result{Finish: "stop", OutputTokens: 24, Decode: 1500 * time.Microsecond})
	}})
	if err != nil || string(a.Body) != whole || a.Status != 200 || a.ContentType != "application/json" {
		t.Fatalf("%+v, %v", a, err)
	}
	if got, want := frozen(t, h, j, "at the end"), []Kind{KindStarted, KindBody, KindEnd}; !slices.Equal(got, want) {
		t.Errorf("journalled %v, want %v", got, want)
	}
	if ended, r, err := s.Ended(); !ended || err != nil || r != (Result{Finish: "stop", OutputTokens: 24, Decode: time.Millisecond}) {
		t.Errorf("ended %v, %+v, %v", ended, r, err)
	}
	select {
	case <-s.Done():
	default:
		t.Error("not done")
	}
	if err := s.End(ctx, Result{}); !errors.Is(err, ErrEnded) || h.Len() != 0 {
		t.Errorf("a second end: %v; %d streams in memory", err, h.Len())
	}
}

// TestEveryViewOfAShortAnswer: each view of a carried answer, and of a failure, is what it is when it is taken in frame by frame: at
// once, later, and from the journal; also where the journal takes nothing.
func TestEveryViewOfAShortAnswer(t *testing.T) {
	type end func(*Stream)
	ctx := t.Context()
	header := http.Header{"Content-Type": {"application/json"}}
	body := func(p Protocol, status int, b string) end {
		return func(s *Stream) { _, _ = s.Body(ctx, p, status, header, []byte(b)) }
	}
	ends := map[string][]end{
		"chat":    {body(Chat, 200, whole), func(s *Stream) { _ = s.End(ctx, Result{Finish: "stop", OutputTokens: 24}) }},
		"raw":     {body(Raw, 201, `[1]`), func(s *Stream) { _ = s.End(ctx, Result{}) }},
		"empty":   {body(Raw, 200, ``), func(s *Stream) { _ = s.End(ctx, Result{}) }},
		"large":   {body(Raw, 200, strings.Repeat("x", 2*holdBytes)), func(s *Stream) { _ = s.End(ctx, Result{}) }},
		"refused": {body(Chat, 422, `{"error":{"message":"no"}}`), func(s *Stream) { _ = s.Fail(ctx, "WORKER_FAILED", "no") }},
		"failed":  {func(s *Stream) { _ = s.Fail(ctx, "WORKER_FAILED", "it \"died\"") }},
		"second": {body(Chat, 500, `{}`), func(s *Stream) { _ = s.Started(ctx, "w2", "other", 2) }, body(Chat, 200, whole),
			func(s *Stream) { _ = s.End(ctx, Result{Finish: "stop"}) }},
		"streamed": {func(s *Stream) {
			_, _ = s.Copy(ctx, io.NopCloser(strings.NewReader(chatStream("a", "b"))), CopyOptions{Protocol: Chat})
		}, func(s *Stream) { _ = s.End(ctx, Result{Finish: "stop", OutputTokens: 2}) }},
	}
	at := regexp.MustCompile(`"(started|created)_at":"[^"]*"`)
	say := func(a *Answer, err error) string {
		if err != nil {
			return "error: " + err.Error()
		}
		return fmt.Sprintf("%d %v %s", a.Status, a.ContentType, at.ReplaceAll(a.Body, nil))
	}
	for name, steps := range ends {
		for f := FormatNative; f <= FormatRaw; f++ {
			for _, broken := range []bool{false, true} {
				run := func(carried bool) (got []string) {
					var j Journal = NewMemoryJournal(MemoryOptions{})
					if broken {
						j = brokenJournal{}
					}
					h := NewHub(j, Options{})
					s, err := h.Open(ctx, "j", StreamOptions{Model: "tiny", Created: time.Unix(1700000000, 0)})
					if err != nil {
						t.Fatal(err)
					}
					all := func() {
						_ = s.Started(ctx, "w1", "local", 1)
						for _, step := range steps {
							step(s)
						}
					}
					if !carried {
						h.bulk = nil // frame by frame
					}
					got = append(got, say(s.Result(ctx, View{Format: f, Model: "tiny", Carry: all})))
					got = append(got, say(s.Result(ctx, View{Format: f, Model: "tiny"})))
					if r, err := h.Replay(ctx, "j"); err == nil {
						got = append(got, say(r.Result(ctx, View{Format: f, Model: "tiny"})))
						w := httptest.NewRecorder()
						err := r.Serve(ctx, w, View{Format: f, Model: "tiny", Eager: true})
						got = append(got, at.ReplaceAllString(w.Body.String(), ""), fmt.Sprint(err))
					} else if !broken {
						t.Errorf("%s: %v", name, err)
					}
					return got
				}
				if diff := cmp.Diff(run(false), run(true)); diff != "" {
					t.Errorf("%s, format %d, broken %v (-as ever +carried):\n%s", name, f, broken, diff)
				}
			}
		}
	}
}

// brokenJournal takes nothing.
type brokenJournal struct{}

func (brokenJournal) Append(context.Context, string, uint64, uint32, []byte) error {
	return errors.New("disk full")
}
func (brokenJournal) Buffer(string, uint64, uint32, []byte) error { return errors.New("disk full") }
func (brokenJournal) BufferAll(string, uint64, []uint32, []int, []byte) error {
	return errors.New("disk full")
}
func (brokenJournal) Read(context.Context, string, uint64, func(uint64, uint32, []byte) error) error {
	return nil
}

// TestHeldFramesAreShown: whoever comes while an answer is carried sees what there is, and after a moment it is journalled in any case.
func TestHeldFramesAreShown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, late := range []bool{false, true} {
			j := NewMemoryJournal(MemoryOptions{})
			h := NewHub(j, Options{})
			ctx := t.Context()
			s, err := h.Open(ctx, "j", StreamOptions{Model: "tiny"})
			if err != nil {
				t.Fatal(err)
			}
			served := make(chan string, 1)
			a, err := s.Result(ctx, View{Format: FormatChat, Carry: func() {
				_ = s.Started(ctx, "w1", "local", 1)
				if late {
					<-time.After(4 * holdFor)
				} else {
					go func() { served <- serve(t, s, View{IDs: true}) }()
					synctest.Wait()
				}
				if got := frozen(t, h, j, "while it is carried"); !slices.Equal(got, []Kind{KindStarted}) {
					t.Errorf("late %v: journalled %v", late, got)
				}
				_, _ = s.Body(ctx, Chat, 200, http.Header{}, []byte(whole))
				_ = s.End(ctx, Result{Finish: "stop"})
			}})
			if err != nil || string(a.Body) != whole {
				t.Fatalf("late %v: %+v, %v", late, a, err)
			}
			if late {
				continue
			}
			if got := <-served; !strings.Contains(got, "id: 1\nevent: started\n") || !strings.Contains(got, "\nid: 3\nevent: end\n") {
				t.Errorf("the other reader saw %q", got)
			}
		}
	})
}

// TestCarrierWhoLeaves: a client that leaves while its own goroutine carries the job is missed soon.
func TestCarrierWhoLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, leave := context.WithCancel(t.Context())
		s, err := NewHub(nil, Options{}).Open(ctx, "j", StreamOptions{})
		if err != nil {
			t.Fatal(err)
		}
		gone := make(chan time.Time, 1)
		s.OnIdle(func() { gone <- time.Now() })
		begun := time.Now()
		_, err = s.Result(ctx, View{Carry: func() {
			_ = s.Started(t.Context(), "w1", "local", 1)
			leave()
			if at := <-gone; at.Sub(begun) > 2*holdFor {
				t.Errorf("missed after %v", at.Sub(begun))
			}
			_ = s.Fail(t.Context(), "CANCELLED", "nobody reads")
		}})
		if e := (*Error)(nil); !errors.As(err, &e) || e.Code() != "CANCELLED" {
			t.Errorf("%v", err)
		}
	})
}
