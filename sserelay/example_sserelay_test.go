package sserelay_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/queen-rbee/queen-rbee/sserelay"
)

// Relay any upstream's event stream; a reader that lost its connection goes on where it was.
func Example() {
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		io.WriteString(w, "data: one\n\ndata: two\n\ndata: three\n\n")
	}))
	defer upstream.Close()

	ctx := context.Background()
	hub := sserelay.NewHub(nil, sserelay.Options{}) // nil: a journal in memory
	stream, err := hub.Open(ctx, "job-1", sserelay.StreamOptions{})
	if err != nil {
		fmt.Println(err)
		return
	}
	go func() {
		resp, err := http.Get(upstream.URL)
		if err != nil {
			stream.Fail(ctx, "WORKER_FAILED", err.Error())
			return
		}
		out, err := stream.Copy(ctx, resp.Body, sserelay.CopyOptions{Protocol: sserelay.Raw, ContentType: resp.Header.Get("Content-Type")})
		if err != nil {
			stream.Fail(ctx, "WORKER_FAILED", err.Error())
			return
		}
		stream.End(ctx, sserelay.Result{Finish: out.Finish})
	}()
	relay := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		view := sserelay.View{Format: sserelay.FormatRaw, IDs: true, LastEventID: r.Header.Get("Last-Event-ID")}
		stream.Serve(r.Context(), w, view)
	}))
	defer relay.Close()

	req, _ := http.NewRequest("GET", relay.URL, nil)
	req.Header.Set("Last-Event-ID", "1") // the first event came through before the connection broke
	<-stream.Done()
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer resp.Body.Close()
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		if line := lines.Text(); strings.TrimSpace(line) != "" {
			fmt.Println(line)
		}
	}
	// Output:
	// id: 2
	// data: two
	// id: 3
	// data: three
}
