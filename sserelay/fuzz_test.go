package sserelay

import (
	"encoding/json"
	"errors"
	"io"
	"net/http/httptest"
	"strings"
	"testing"
)

// FuzzJSON holds the scanner against encoding/json.
func FuzzJSON(f *testing.F) {
	for _, s := range []string{`{"a":1}`, `{"a":[1,2,{"b":"\u00e9"}],"c":-0.5e+3}`, `{}`, `{"a":tru}`, `{"a":01}`, `{"a":"\x"}`, `[]`, `{"a":1}}`, "{\"a\":\"\n\"}"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		var want map[string]json.RawMessage
		valid := json.Unmarshal([]byte(in), &want) == nil && want != nil
		got := map[string]string{}
		ok := eachField([]byte(in), func(k, v []byte) bool {
			got[unquote(append(append([]byte{'"'}, k...), '"'))] = string(v)
			return true
		})
		if strings.Count(in, "[")+strings.Count(in, "{") > maxDepth {
			return // ours refuses deeper nesting
		}
		if ok != valid {
			t.Fatalf("%q: valid %v, encoding/json says %v", in, ok, valid)
		}
		if !ok {
			return
		}
		for k, v := range want {
			if got[k] != strings.TrimSpace(string(v)) {
				t.Fatalf("%q: %q is %q, want %q", in, k, got[k], v)
			}
		}
	})
}

// FuzzRelay sends anything as a worker's answer and reads it in every view: nothing panics, every event is well
// formed, ids are consecutive, there is exactly one end, and never a [DONE] after a failure.
func FuzzRelay(f *testing.F) {
	f.Add(chatStream("a", "b"), uint8(Chat), false)
	f.Add(execStream(0, "a", "b"), uint8(Execute), true)
	f.Add(second("x")+"\r\r", uint8(Completion), true)
	f.Add("data: {\"choices\":[{\"index\":3,\"text\":\"x\",\"logprobs\":{\"tokens\":[1]}}],\"usage\":{\"prompt_tokens\":1e99}}\r\n\r\n", uint8(Completion), false)
	f.Add("event: token\ndata: {\"t\":null,\"delta\":{\"choices\":[]}}\n\n", uint8(Execute), false)
	f.Add("id: 5\ndata\n\n:x\ndata: [DONE]", uint8(Raw), false)
	f.Add("\x00\xff", uint8(Bytes), false)
	f.Fuzz(func(t *testing.T, in string, proto uint8, again bool) {
		p := Protocol((proto+4)%5) + 1
		if len(in) > 1<<13 {
			return
		}
		ctx := t.Context()
		s, err := NewHub(nil, Options{Window: 4 << 10}).Open(ctx, "j\"1", StreamOptions{Model: "m\n"})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Started(ctx, "w", "n", 1); err != nil {
			t.Fatal(err)
		}
		o := CopyOptions{Protocol: p, StripUsage: again, StripVerbose: true}
		out, err := s.Copy(ctx, io.NopCloser(strings.NewReader(in)), o)
		if err != nil && again {
			o.Continuation = &Continuation{Stop: []string{"b", "END"}}
			out, err = s.Copy(ctx, io.NopCloser(strings.NewReader(in)), o)
		}
		if out.Complete != (err == nil) {
			t.Fatalf("complete %v with %v", out.Complete, err)
		}
		if err != nil {
			s.Fail(ctx, "WORKER_FAILED", "x\ny")
		} else {
			s.End(ctx, Result{Finish: out.Finish})
		}
		for format := range FormatRaw + 1 {
			checkView(t, s, format, p, err != nil)
		}
	})
}

func checkView(t *testing.T, s *Stream, format Format, p Protocol, failed bool) {
	w := httptest.NewRecorder()
	err := s.Serve(t.Context(), w, View{Format: format, IDs: true, IncludeUsage: true})
	var e *Error
	if err != nil && !(failed && (errors.As(err, &e) || errors.Is(err, ErrAborted))) {
		t.Fatalf("format %d: %v", format, err)
	}
	got := w.Body.String()
	a, rerr := s.Result(t.Context(), View{Format: format})
	if failed != (rerr != nil) {
		t.Fatalf("format %d: result %v of a stream that failed: %v", format, rerr, failed)
	}
	if format == FormatRaw {
		return
	}
	if rerr == nil && p != Raw && p != Bytes && !json.Valid(a.Body) {
		t.Fatalf("format %d: %q", format, a.Body)
	}
	if format == FormatOllamaChat || format == FormatOllamaGenerate {
		for _, line := range strings.Split(strings.TrimSuffix(got, "\n"), "\n") {
			if line != "" && !json.Valid([]byte(line)) {
				t.Fatalf("format %d: line %q", format, line)
			}
		}
		return
	}
	checkEvents(t, got, format, failed && err == nil)
}

func checkEvents(t *testing.T, got string, format Format, failed bool) {
	p := NewParser(strings.NewReader(got), ParserOptions{})
	ends, errs, n := 0, 0, 0
	for {
		ev, err := p.Next()
		if err != nil {
			break
		}
		if n++; ev.ID != itoa(n) {
			t.Fatalf("format %d: event %d has id %q in %q", format, n, ev.ID, got)
		}
		if ends > 0 {
			t.Fatalf("format %d: something after the end in %q", format, got)
		}
		data := string(ev.Data)
		if format != FormatNative && strings.TrimSpace(data) == "[DONE]" {
			ends++
			continue
		}
		if !json.Valid(ev.Data) {
			t.Fatalf("format %d: data %q", format, data)
		}
		switch {
		case format != FormatNative: // a worker's own event names pass
		case string(ev.Type) == "end":
			ends++
		case string(ev.Type) == "error":
			errs++
		}
		if strings.HasPrefix(data, `{"error":{"message":"x\ny"`) {
			errs++
		}
	}
	if failed && (errs == 0 || ends > 0) || !failed && ends > 1 {
		t.Fatalf("format %d, failed %v: %d ends, %d errors in %q", format, failed, ends, errs, got)
	}
}

func itoa(n int) string {
	b, _ := json.Marshal(n)
	return string(b)
}
