package hiveapi

import (
	"net/http"
	"net/http/httptest"
	"testing"
)

func TestCallsCarryTheirRequest(t *testing.T) {
	var got Request
	var path string
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got, path = RequestOf(r.Header), r.URL.Path
		_, _ = w.Write([]byte("{}"))
	}))
	defer srv.Close()
	c, err := New(srv.URL, "token", Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	want := Request{CorrelationID: "req-1", Traceparent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}
	if err := c.SetLogLevel(WithRequest(t.Context(), want), "debug"); err != nil {
		t.Fatal(err)
	}
	if got != want || path != PathLogLevel {
		t.Errorf("%+v at %s", got, path)
	}
	if _, err := c.Status(t.Context()); err != nil || got != (Request{}) {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestRequestOfRefusesWhatIsNotWellFormed(t *testing.T) {
	h := http.Header{"X-Correlation-Id": {"a b\n"}, "Traceparent": {"00-xyz"}}
	if r := RequestOf(h); r != (Request{}) {
		t.Errorf("%+v", r)
	}
}

func TestSpanEventsChangeNoState(t *testing.T) {
	s := State{Epoch: 1, Seq: 4, Workers: []Worker{{WorkerID: "w"}}}
	if !s.Apply(Event{Kind: EventSpan, Epoch: 1, Seq: 5, Span: &Span{Name: "spawn"}}) || s.Seq != 5 || len(s.Workers) != 1 {
		t.Errorf("%+v", s)
	}
}
