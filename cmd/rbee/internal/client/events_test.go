package client

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
)

// TestJobEventsComeBack cuts a job's stream twice, once in the middle of an event, and lets the queen be not ready in
// between: every event arrives once.
func TestJobEventsComeBack(t *testing.T) {
	var visits atomic.Int32
	var asked []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.Method+" "+r.URL.Path+" "+r.Header.Get("Last-Event-ID"))
		w.Header().Set("X-Rbee-Job-Id", "job_1")
		w.Header().Set("Content-Type", "text/event-stream")
		switch visits.Add(1) {
		case 1:
			_, _ = fmt.Fprint(w, "event: queued\ndata: {}\n\nid: 1\nevent: started\ndata: {}\n\nid: 2\nevent: token\ndata: {\"t\":\"a\"}\n\nid: 3\nevent: tok")
		case 2:
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(503)
			_, _ = fmt.Fprint(w, `{"error":{"code":"SYSTEM_AT_CAPACITY","message":"not ready yet"}}`)
			return
		case 3:
			_, _ = fmt.Fprint(w, "id: 3\nevent: token\ndata: {\"t\":\"b\"}\n\n")
		default:
			_, _ = fmt.Fprint(w, "id: 4\nevent: end\ndata: {}\n\n")
			return
		}
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler) // as if the process had died
	}))
	defer server.Close()
	c, err := New(server.URL, "k", "")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	lost := 0
	err = c.JobEvents(t.Context(), "POST", "/v2/tasks", map[string]string{"model": "demo"}, func() { lost++ }, func(ev Event) error {
		got = append(got, ev.Name+ev.ID)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if s := strings.Join(got, " "); s != "queued started1 token2 token3 end4" {
		t.Errorf("events: %s", s)
	}
	const events = "GET /v2/tasks/job_1/events "
	want := []string{"POST /v2/tasks ", events + "2", events + "2", events + "3"}
	if strings.Join(asked, "|") != strings.Join(want, "|") || lost != 2 {
		t.Errorf("asked %q, lost %d times", asked, lost)
	}
}

// TestJobEventsEnd: what the caller or the queen refuses ends it, and so does a stream without a job.
func TestJobEventsEnd(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			if r.URL.Query().Has("job") {
				w.Header().Set("X-Rbee-Job-Id", "job_1")
			}
			_, _ = fmt.Fprint(w, "id: 1\nevent: token\ndata: {}\n\n")
			return
		}
		w.WriteHeader(404)
		_, _ = fmt.Fprint(w, `{"error":{"code":"JOB_NOT_FOUND","message":"gone"}}`)
	}))
	defer server.Close()
	c, err := New(server.URL, "", "")
	if err != nil {
		t.Fatal(err)
	}
	ignore := func(Event) error { return nil }
	var api *APIError
	if err := c.JobEvents(t.Context(), "POST", "/x?job", nil, func() {}, ignore); !errors.As(err, &api) || api.Code != "JOB_NOT_FOUND" {
		t.Errorf("a job that is gone: %v", err)
	}
	if err := c.JobEvents(t.Context(), "POST", "/x", nil, func() { t.Error("there is nothing to come back to") }, ignore); err != nil {
		t.Errorf("a stream without a job: %v", err)
	}
	stop := errors.New("enough")
	if err := c.JobEvents(t.Context(), "POST", "/x?job", nil, func() {}, func(Event) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("the caller's error: %v", err)
	}
}
