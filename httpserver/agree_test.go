package httpserver

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/gorilla/mux"
)

// The short cuts of the server, each held against the long way.

// TestIndexAgreesWithTheMux: what is found by the whole path is what the mux finds, for each route, method and spelling, and
// no path without a pattern is missed.
func TestIndexAgreesWithTheMux(t *testing.T) {
	s, err := New(nobody{}, nobody{}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	filled := strings.NewReplacer("{job_id}", "events", "{id:.+}", "a/b", "{id}", "list", "{name}", "list", "{node}", "list", "{rest:.+}", "files/x", "{rest:.*}", "",
		"{file_id}", "content", "{batch_id}", "cancel", "{worker_id}", "list", "{operation}", "x")
	found := 0
	for _, rt := range s.routes {
		p := filled.Replace(rt.path)
		for _, spelling := range []string{p, p + "/", "/" + p, strings.ToUpper(p), strings.Replace(p, "/", "%2F", 2), strings.Replace(p, "s", "%73", 1), p + "%20", p + "?a=b", p + ";x", p + "/..", p + "%00", p + "é"} {
			for _, method := range []string{"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "get", "post", ""} {
				u, err := url.ParseRequestURI(spelling)
				if err != nil {
					continue
				}
				r := &http.Request{Method: method, URL: u, Header: http.Header{}, Host: "localhost"}
				var want *route
				var m mux.RouteMatch
				if s.mux.Match(r, &m) && m.MatchErr == nil {
					want, _ = m.Handler.(*route)
				}
				got := s.exact(r)
				if got != nil {
					found++
					if got != want || len(m.Vars) != 0 {
						t.Errorf("%s %s: the index has %v, the mux %v with %v", method, spelling, got, want, m.Vars)
					}
				} else if want != nil && u.RawPath == "" && u.Path == want.path {
					t.Errorf("%s %s: the index does not know it", method, spelling)
				}
			}
		}
	}
	if found < 50 {
		t.Errorf("only %d were found", found)
	}
}

// FuzzIndex looks for paths about which the index and the mux do not agree.
func FuzzIndex(f *testing.F) {
	s, err := New(nobody{}, nobody{}, Options{})
	if err != nil {
		f.Fatal(err)
	}
	for _, rt := range s.routes {
		f.Add(rt.method, rt.path)
	}
	f.Add("POST", "/v1/chat%2fcompletions")
	f.Fuzz(func(t *testing.T, method, path string) {
		u, err := url.ParseRequestURI(path)
		if err != nil {
			return
		}
		r := &http.Request{Method: method, URL: u, Header: http.Header{}, Host: "localhost"}
		if got := s.exact(r); got != nil {
			var m mux.RouteMatch
			if !s.mux.Match(r, &m) || m.MatchErr != nil || m.Handler != http.Handler(got) || len(m.Vars) != 0 {
				t.Fatalf("%s %q: the index has %s %s, the mux %v", method, path, got.method, got.path, m)
			}
		}
	})
}

// FuzzErrorText: the short way to write an error is byte for byte encoding/json's.
func FuzzErrorText(f *testing.F) {
	for _, s := range []string{"", "plain", `quote " and \`, "<a> & b", "\x00\x1f\x7f\x80\xff", "é \u2028 \u2029 😀", "tab\tnewline\n"} {
		f.Add(s, "model")
		f.Add("text", s)
	}
	f.Fuzz(func(t *testing.T, message, param string) {
		for _, code := range []string{CodeInvalidRequest, CodeRateLimited, CodeUnauthenticated, CodeInternal} {
			info, _ := lookup(code)
			p := problem{code: code, message: message, param: param, status: info.status, info: info}
			for _, face := range []face{faceNative, faceOpenAI, faceOllama} {
				got, ok := p.brief([]byte("x"), face, param)
				if want := p.full([]byte("x"), face, param); !ok || string(got) != string(want) {
					t.Fatalf("%v: %s, want %s", face, got, want)
				}
			}
		}
	})
}

// TestBriefLeavesDetails: an error whose details are shown is written the long way, and the short way is the same for others.
func TestBriefLeavesDetails(t *testing.T) {
	for _, c := range []struct {
		details map[string]any
		brief   [3]bool // native, OpenAI, Ollama
	}{
		{map[string]any{"job_id": "x"}, [3]bool{false, true, true}}, {map[string]any{"loading": 1}, [3]bool{}}, {map[string]any{"loading": nil}, [3]bool{false, true, true}},
		{map[string]any{}, [3]bool{true, true, true}}, {nil, [3]bool{true, true, true}},
	} {
		p := problem{code: CodeConflict, message: "m", status: 409, details: c.details}
		for _, face := range []face{faceNative, faceOpenAI, faceOllama} {
			b, ok := p.brief(nil, face, "c")
			if ok != c.brief[face] || ok && string(b) != string(p.full(nil, face, "c")) {
				t.Errorf("%v %v: %v %s", c.details, face, ok, b)
			}
		}
	}
}

type tellsStatus struct{ error }

func (tellsStatus) Status() int { return 418 }

type tellsMore struct{ error }

func (tellsMore) Code() string              { return CodeConflict }
func (tellsMore) RetryAfter() time.Duration { return time.Hour }
func (tellsMore) Details() map[string]any   { return map[string]any{"more": true} }
func (tellsMore) Header() http.Header       { return http.Header{"A": {"b"}} }

// TestFacetsAreErrorsAs: one walk finds of each interface what errors.As finds.
func TestFacetsAreErrorsAs(t *testing.T) {
	own := &Error{ErrCode: CodeSystemAtCapacity, Message: "busy", Param: "p", Retry: time.Second, Facts: map[string]any{"a": 1}}
	for _, err := range []error{nil, io.EOF, own, tellsStatus{own}, tellsMore{io.EOF}, fmt.Errorf("a: %w", tellsMore{own}), fmt.Errorf("a: %w, %w", own, tellsMore{io.EOF}),
		errors.Join(io.EOF, tellsStatus{io.EOF}, fmt.Errorf("b: %w", errors.Join(own, tellsMore{io.EOF}))), errors.Join(tellsMore{io.EOF}, own), errors.Join(io.EOF, nil, io.ErrClosedPipe)} {
		var got, want facets
		got.of(err)
		errors.As(err, &want.own)
		errors.As(err, &want.coder)
		errors.As(err, &want.status)
		errors.As(err, &want.retry)
		errors.As(err, &want.details)
		errors.As(err, &want.header)
		if got != want {
			t.Errorf("%v: %+v, want %+v", err, got, want)
		}
	}
}

// FuzzPromptChars: one walk through the messages finds what the value alone does.
func FuzzPromptChars(f *testing.F) {
	f.Add(`[{"role":"user","content":"Once \u0041é"},{"role":"assistant","tool_calls":[{"function":{"arguments":"{}"}}]},{"role":"user","content":[{"type":"text","text":"x"},5]}]`)
	f.Add(`[{"\u0072ole":"user","reasoning_content":"a\\","content":null}]`)
	f.Fuzz(func(t *testing.T, messages string) {
		req, _, err := ParseRequest("/v1/chat/completions", []byte(`{"model":"m","messages":`+messages+`}`), 0)
		if err != nil || !json.Valid([]byte(messages)) {
			return
		}
		if diff := cmp.Diff(chars([]byte(strings.TrimSpace(messages)), 0), req.PromptChars); diff != "" {
			t.Fatalf("%q: %s", messages, diff)
		}
	})
}
