package sserelay

import (
	"context"
	"encoding/json"
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
