package httpserver_test

import (
	stdcontext "context"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/queen-rbee/queen-rbee/httpserver"
	"github.com/queen-rbee/queen-rbee/httpserver/httpservertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type rig struct {
	f   *httpservertest.Submitter
	s   *httpserver.Server
	url string

	client *http.Client
}

func newRig(t testing.TB, strict bool, o httpserver.Options) *rig {
	t.Helper()
	f := &httpservertest.Submitter{Limits: http.Header{"X-Ratelimit-Limit-Requests": {"60"}}}
	s, err := httpserver.New(f, httpservertest.Auth{Strict: strict}, o)
	if err != nil {
		t.Fatal(err)
	}
	ts := httptest.NewServer(s.Handler())
	t.Cleanup(ts.Close)
	return &rig{f: f, s: s, url: ts.URL, client: ts.Client()}
}

func (r *rig) do(t testing.TB, method, path, body string, header ...string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequest(method, r.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	resp, err := r.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(b)
}

// context keeps the signatures of hooks short.
type context = stdcontext.Context

// try sends a request and reads its whole answer.
func (r *rig) try(method, path, body string) (string, error) {
	req, err := http.NewRequest(method, r.url+path, strings.NewReader(body))
	if err != nil {
		return "", err
	}
	resp, err := r.client.Do(req)
	if err != nil {
		return "", err
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	return string(b), err
}

func contains(s string, any ...string) bool {
	for _, a := range any {
		if strings.Contains(s, a) {
			return true
		}
	}
	return false
}

// long reports whether the long forms of tests are wanted.
func long() bool { return os.Getenv("RBEE_LONG") == "1" }

type slashModels struct{ httpservertest.Models }

func (slashModels) Names(stdcontext.Context) ([]httpserver.ModelName, error) {
	return []httpserver.ModelName{{Name: "org/model", OwnedBy: "rbee"}, {Name: "stories", OwnedBy: "simulator"}}, nil
}
