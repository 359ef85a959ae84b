package hiveapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"
)

const token = "0123456789abcdef"

func serve(t *testing.T, h http.HandlerFunc) *Client {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	c, err := New(srv.URL, token, Options{WatchIdle: 200 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func TestNewRefusesWhatIsNoAddress(t *testing.T) {
	for _, bad := range []string{"", "ftp://x", "http://", "http://u:p@h", "http://h?x=1", "http://[::1", "::"} {
		if _, err := New(bad, token, Options{}); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

func TestHandshake(t *testing.T) {
	var sent string
	answer := func(id, tok string) *Client {
		return serve(t, func(w http.ResponseWriter, r *http.Request) {
			sent += r.Header.Get("Authorization")
			_ = json.NewEncoder(w).Encode(Health{ID: id, Proof: Proof(tok, id, r.URL.Query().Get("nonce"))})
		})
	}
	if h, err := answer("hive_a", token).Handshake(t.Context(), "hive_a"); err != nil || h.ID != "hive_a" {
		t.Error(h, err)
	}
	if _, err := answer("hive_b", token).Handshake(t.Context(), "hive_a"); !errors.Is(err, ErrHandshake) {
		t.Error("another hive:", err)
	}
	if _, err := answer("hive_a", "another token...").Handshake(t.Context(), "hive_a"); !errors.Is(err, ErrHandshake) {
		t.Error("another token:", err)
	}
	replay := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(Health{ID: "hive_a", Proof: Proof(token, "hive_a", "an old nonce")})
	})
	if _, err := replay.Handshake(t.Context(), "hive_a"); !errors.Is(err, ErrHandshake) {
		t.Error("a replayed proof:", err)
	}
	if sent != "" {
		t.Error("the token went to a stranger")
	}
}

func TestErrorsCarryTheHivesWords(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case PathSpawn:
			w.Header().Set("Retry-After", "7")
			w.WriteHeader(503)
			_, _ = io.WriteString(w, `{"error":{"code":"INSUFFICIENT_VRAM","message":"use a smaller model","details":{"need":1}}}`)
		case PathStatus:
			w.WriteHeader(401)
			_, _ = io.WriteString(w, "nope")
		case PathWorkers:
			http.Redirect(w, r, "http://169.254.169.254/", http.StatusFound)
		case PathModels:
			_, _ = io.WriteString(w, "<html>")
		case PathWorkerShutdown:
			w.WriteHeader(404)
			_, _ = io.WriteString(w, `{"error":{"code":"WORKER_NOT_FOUND","message":"gone"}}`)
		}
	})
	_, err := c.Spawn(t.Context(), SpawnRequest{})
	var e *Error
	if !errors.As(err, &e) || e.Code() != "INSUFFICIENT_VRAM" || e.RetryAfter() != 7*time.Second || e.Details()["need"] != 1.0 || !strings.Contains(err.Error(), "use a smaller model") {
		t.Error(err)
	}
	if _, err := c.Status(t.Context()); !errors.Is(err, ErrUnauthorized) {
		t.Error(err)
	}
	if _, err := c.Workers(t.Context()); !errors.Is(err, ErrProtocol) || !strings.Contains(err.Error(), "redirect") {
		t.Error("a redirect:", err)
	}
	if _, err := c.Models(t.Context()); !errors.Is(err, ErrProtocol) {
		t.Error(err)
	}
	if err := c.ShutdownWorker(t.Context(), ShutdownWorkerRequest{}); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
}

func TestAnswersAreBounded(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, strings.Repeat(" ", 5000)) }))
	defer srv.Close()
	c, err := New(srv.URL, token, Options{MaxBody: 1000})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if _, err := c.Status(t.Context()); !errors.Is(err, ErrProtocol) {
		t.Error(err)
	}
}

func TestDialIsUsed(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _ = json.NewEncoder(w).Encode(Health{Node: r.Host}) }))
	defer srv.Close()
	c, err := New("10.255.255.1:9", token, Options{Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
		if addr != "10.255.255.1:9" {
			return nil, fmt.Errorf("asked for %s", addr)
		}
		return (&net.Dialer{}).DialContext(ctx, network, srv.Listener.Addr().String())
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if h, err := c.Health(t.Context()); err != nil || h.Node != "10.255.255.1:9" {
		t.Error(h, err)
	}
}

func TestWatch(t *testing.T) {
	events := []Event{
		{Kind: EventState, Epoch: 1, Seq: 1, State: &State{Epoch: 1, Seq: 1, Workers: []Worker{{WorkerID: "a"}}}},
		{Kind: EventWorker, Epoch: 1, Seq: 2, Worker: &Worker{WorkerID: "a", State: WorkerIdle}},
		{Kind: EventGone, Epoch: 1, Seq: 3, Worker: &Worker{WorkerID: "a"}},
	}
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer "+token {
			t.Error("no token")
		}
		for _, ev := range events {
			b, _ := json.Marshal(ev)
			_, _ = fmt.Fprintf(w, ": x\r\nevent: %s\r\ndata: %s\r\n\r\n", ev.Kind, b)
		}
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done() // silent from now on
	})
	var got []Event
	err := c.Watch(t.Context(), func(ev Event) error { got = append(got, ev); return nil })
	if !errors.Is(err, ErrSilent) {
		t.Error("a silent hive:", err)
	}
	if !reflect.DeepEqual(got, events) {
		t.Errorf("%+v", got)
	}
	enough := errors.New("enough")
	if err := c.Watch(t.Context(), func(Event) error { return enough }); !errors.Is(err, enough) {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	if err := c.Watch(ctx, func(Event) error { cancel(); return nil }); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestWaitWorker(t *testing.T) {
	for _, tc := range []struct {
		events []Event
		code   string
	}{
		{[]Event{{Kind: EventState, State: &State{Workers: []Worker{{WorkerID: "w", State: WorkerLoading}}}}, {Kind: EventWorker, Worker: &Worker{WorkerID: "w", State: WorkerIdle}}}, ""},
		{[]Event{{Kind: EventState, State: &State{Workers: []Worker{{WorkerID: "w", State: WorkerFailed, Message: "bad model"}}}}}, "WORKER_FAILED"},
		{[]Event{{Kind: EventState, State: &State{}}}, "WORKER_NOT_FOUND"},
		{[]Event{{Kind: EventState, State: &State{Workers: []Worker{{WorkerID: "w"}}}}, {Kind: EventGone, Worker: &Worker{WorkerID: "w", Message: "oom", ErrorCode: "INSUFFICIENT_VRAM"}}}, "INSUFFICIENT_VRAM"},
	} {
		c := serve(t, func(w http.ResponseWriter, r *http.Request) {
			for _, ev := range tc.events {
				b, _ := json.Marshal(ev)
				_, _ = fmt.Fprintf(w, "data: %s\n\n", b)
			}
		})
		w, err := c.WaitWorker(t.Context(), "w", func(Worker) {})
		var e *Error
		if tc.code == "" && (err != nil || w.State != WorkerIdle) || tc.code != "" && (!errors.As(err, &e) || e.Code() != tc.code) {
			t.Errorf("%s: %+v %v", tc.code, w, err)
		}
	}
}

func TestProvision(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			_ = json.NewEncoder(w).Encode(Progress{ID: "dl 1", State: ModelDownloading})
			return
		}
		if r.URL.Path != PathProvision+"/dl 1/events" {
			t.Error(r.URL.Path)
		}
		_, _ = io.WriteString(w, "event: downloading\ndata: {\"state\":\"downloading\",\"bytes_done\":5}\n\nevent: ready\ndata: {\"state\":\"ready\",\"model\":{\"model_ref\":\"x\",\"size_bytes\":9}}\n\n")
	})
	var seen []ModelState
	m, err := c.Provision(t.Context(), ProvisionRequest{ModelRef: "x"}, func(p Progress) { seen = append(seen, p.State) })
	if err != nil || m.SizeBytes != 9 || len(seen) != 3 {
		t.Error(m, err, seen)
	}
	c = serve(t, func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(Progress{State: ModelFailed, Code: "MODEL_NOT_FOUND", Message: "no such file"})
	})
	_, err = c.Provision(t.Context(), ProvisionRequest{}, nil)
	var e *Error
	if !errors.As(err, &e) || e.Code() != "MODEL_NOT_FOUND" {
		t.Error(err)
	}
}

func TestApplyRefusesOldNews(t *testing.T) {
	s := State{Epoch: 2, Seq: 5, Workers: []Worker{{WorkerID: "a", State: WorkerIdle}}}
	before := s.Workers
	if s.Apply(Event{Kind: EventGone, Epoch: 1, Seq: 9, Worker: &Worker{WorkerID: "a"}}) || s.Apply(Event{Kind: EventGone, Epoch: 2, Seq: 4, Worker: &Worker{WorkerID: "a"}}) {
		t.Error("old news were believed")
	}
	if !s.Apply(Event{Kind: EventWorker, Epoch: 2, Seq: 6, Worker: &Worker{WorkerID: "a", State: WorkerBusy}}) || s.Workers[0].State != WorkerBusy {
		t.Error("news were not believed")
	}
	if before[0].State != WorkerIdle {
		t.Error("a copy that somebody holds has changed")
	}
	if !s.Apply(Event{Kind: EventModel, Epoch: 2, Seq: 7, Model: &Model{ModelRef: "m"}}) || len(s.Models) != 1 {
		t.Error("a model")
	}
	if !s.Apply(Event{Kind: EventBeat, Epoch: 3, Seq: 1, Devices: []Device{{ID: "cpu"}}, Disk: &Disk{Free: 1}}) || s.Devices[0].ID != "cpu" || s.Disk.Free != 1 || s.Epoch != 3 {
		t.Error("a beat")
	}
}

func TestSecretsStayOutOfLogs(t *testing.T) {
	var buf bytes.Buffer
	log := slog.New(slog.NewTextHandler(&buf, nil))
	log.Info("x", "w", Worker{WorkerID: "w", APIKey: "SECRET"}, "r", SpawnRequest{APIKey: "SECRET", Env: map[string]string{"K": "SECRET"}}, "s", Source{URL: "u", Authorization: "SECRET"})
	if strings.Contains(buf.String(), "SECRET") {
		t.Error(buf.String())
	}
}

func TestSpecHashAndDuration(t *testing.T) {
	a := EngineSpec{Name: "x", Env: map[string]string{"A": "1", "B": "2"}, ReadyTimeout: Duration(90 * time.Second)}
	b, err := json.Marshal(a)
	if err != nil {
		t.Fatal(err)
	}
	var c EngineSpec
	if err := json.Unmarshal(b, &c); err != nil || c.Hash() != a.Hash() || c.ReadyTimeout != a.ReadyTimeout {
		t.Errorf("%s %v", b, err)
	}
	c.Args = []string{"-x"}
	if c.Hash() == a.Hash() {
		t.Error("different specs have one hash")
	}
	for in, want := range map[string]Duration{`"2m"`: Duration(2 * time.Minute), `1.5`: Duration(1500 * time.Millisecond), `""`: 0} {
		var d Duration
		if err := json.Unmarshal([]byte(in), &d); err != nil || d != want {
			t.Errorf("%s: %v %v", in, d, err)
		}
	}
	for _, bad := range []string{`"soon"`, `-1`, `1e300`, `{}`} {
		var d Duration
		if json.Unmarshal([]byte(bad), &d) == nil {
			t.Errorf("%s was taken", bad)
		}
	}
}

func TestCapabilitiesServe(t *testing.T) {
	c := Capabilities{Chat: true, Paths: []string{"/v1/rerank", "/v1/audio/*"}}
	for path, want := range map[string]bool{"/v1/chat/completions": true, "/v1/completions": false, "/v1/rerank": true, "/v1/audio/speech": true, "/v1/audio": false, "/v1/x": false} {
		if c.Serves(path) != want {
			t.Errorf("%s: %v", path, !want)
		}
	}
}

func FuzzReadEvents(f *testing.F) {
	f.Add([]byte("event: a\ndata: {}\n\n"))
	f.Add([]byte("data: a\r\ndata: b\r\n\r\n: c\ndata"))
	f.Fuzz(func(t *testing.T, b []byte) {
		n := 0
		err := readEvents(bytes.NewReader(b), func() {}, func(string, []byte) error { n++; return nil })
		if !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, ErrProtocol) {
			t.Errorf("%v", err)
		}
		if n > len(b)/2+1 {
			t.Errorf("%d events of %d bytes", n, len(b))
		}
	})
}

func FuzzErrorBody(f *testing.F) {
	f.Add([]byte(`{"error":{"code":"X","message":"y"}}`), 503)
	f.Fuzz(func(t *testing.T, b []byte, status int) {
		if err := errorFrom(&http.Response{StatusCode: status, Header: http.Header{}}, b); err == nil || err.Error() == "" {
			t.Error("no error")
		}
	})
}

// A large fleet's hives beat less often: the hive is told, and its silence is borne for longer.
func TestWatchEvery(t *testing.T) {
	asked := make(chan string, 2)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- r.URL.RawQuery
		http.Error(w, "no", http.StatusTeapot)
	}))
	defer srv.Close()
	c, err := New(srv.URL, token, Options{})
	if err != nil {
		t.Fatal(err)
	}
	for beat, want := range map[time.Duration]string{0: "", 20 * time.Second: "beat=20"} {
		if err := c.WatchEvery(t.Context(), beat, func(Event) error { return nil }); err == nil {
			t.Error("a refused watch ended without an error")
		}
		if got := <-asked; got != want {
			t.Errorf("for %s the hive was asked %q, want %q", beat, got, want)
		}
	}
}
