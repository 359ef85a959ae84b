package batches_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/queen-rbee/queen-rbee/httpserver"
	"github.com/queen-rbee/queen-rbee/httpserver/batches"
	"github.com/queen-rbee/queen-rbee/httpserver/httpservertest"
)

func Example() {
	submitter := &httpservertest.Submitter{}
	b, err := batches.New(batches.NewMemory(), submitter, batches.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = b.Run(ctx) }()
	defer func() { cancel(); <-done }()

	s, err := httpserver.New(submitter, httpservertest.Auth{}, httpserver.Options{Batches: b})
	if err != nil {
		fmt.Println(err)
		return
	}
	ts := httptest.NewServer(s.Handler())
	defer ts.Close()
	resp, err := http.Post(ts.URL+"/v1/batches", "application/json", strings.NewReader(`{"input_file_id":"file-none","endpoint":"/v1/chat/completions","completion_window":"24h"}`))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = resp.Body.Close() }()
	fmt.Println(resp.StatusCode, resp.Header.Get("X-Rbee-Error"))
	// Output: 404 NOT_FOUND
}
