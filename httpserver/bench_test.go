package httpserver_test

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/queen-rbee/queen-rbee/httpserver"
	"github.com/queen-rbee/queen-rbee/httpserver/httpservertest"
)

// sink is a ResponseWriter that costs nothing.
type sink struct{ h http.Header }

func (s *sink) Header() http.Header {
	if s.h == nil {
		s.h = make(http.Header, 8)
	}
	return s.h
}
func (s *sink) WriteHeader(int)             {}
func (s *sink) Write(b []byte) (int, error) { return len(b), nil }

// BenchmarkHandler measures what the server itself costs, without a network: an answer, and refusals of each kind.
func BenchmarkHandler(b *testing.B) {
	f := &httpservertest.Submitter{OnResult: func(context, *httpserver.Request, httpserver.View) (*httpserver.Result, error) {
		return &httpserver.Result{Status: 200, Body: []byte(`{}`)}, nil
	}}
	s, err := httpserver.New(f, httpservertest.Auth{Strict: true}, httpserver.Options{})
	if err != nil {
		b.Fatal(err)
	}
	body := `{"model":"stories","messages":[{"role":"user","content":"` + strings.Repeat("Tell me about bees. ", 50) + `"}],"max_tokens":64,"temperature":0.7}`
	busy := refusing{&coded{code: "SYSTEM_AT_CAPACITY", after: 1e9}}
	full, err := httpserver.New(busy, httpservertest.Auth{Strict: true}, httpserver.Options{})
	if err != nil {
		b.Fatal(err)
	}
	for _, c := range []struct {
		name, key, body string
		s               *httpserver.Server
	}{{"answer", "infer", body, s}, {"refused by the submitter", "infer", body, full}, {"refused for its body", "infer", `{"model":"a","model":"b"}`, s}, {"refused for its key", "", body, s}} {
		b.Run(c.name, func(b *testing.B) {
			h, rd := c.s.Handler(), bytes.NewReader(nil)
			r := httptest.NewRequest("POST", "/v1/chat/completions", nil)
			r.Header.Set("Authorization", "Bearer "+c.key)
			r.ContentLength = int64(len(c.body))
			data := []byte(c.body)
			b.ReportAllocs()
			for b.Loop() {
				rd.Reset(data)
				r.Body = io.NopCloser(rd)
				h.ServeHTTP(&sink{}, r)
			}
		})
	}
}

type refusing struct{ err error }

func (r refusing) Submit(context, *httpserver.Request) (httpserver.Job, error) { return nil, r.err }
