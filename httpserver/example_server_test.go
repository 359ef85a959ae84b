package httpserver_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/queen-rbee/queen-rbee/httpserver"
	"github.com/queen-rbee/queen-rbee/httpserver/httpservertest"
)

// The server needs something that runs jobs and something that knows callers; here both are test doubles.
func Example() {
	s, err := httpserver.New(&httpservertest.Submitter{}, httpservertest.Auth{}, httpserver.Options{Catalog: httpservertest.Models{}})
	if err != nil {
		fmt.Println(err)
		return
	}
	ts := httptest.NewServer(s.Handler())
	defer ts.Close()
	resp, err := http.Post(ts.URL+"/v1/completions", "application/json", strings.NewReader(`{"model":"stories","prompt":"Once","max_tokens":4}`))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = resp.Body.Close() }()
	b, _ := io.ReadAll(resp.Body)
	fmt.Println(resp.StatusCode, strings.Contains(string(b), "Once upon a time"))
	// Output: 200 true
}
