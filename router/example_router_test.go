package router_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/queen-rbee/queen-rbee/router"
)

// Route one request: one worker, no store, no fleet, a stream that prints.
func Example() {
	worker := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "text/event-stream")
		fmt.Fprint(w, "data: {\"choices\":[{\"text\":\"Once upon a time\"}]}\n\ndata: [DONE]\n\n")
	}))
	defer worker.Close()

	one := router.Worker{ID: "w1", Node: "here", Address: worker.Listener.Addr().String(), Protocol: router.ProtocolOpenAI, Slots: 1}
	r := router.New(scheduler{one}, queue{}, fleet{}, dialer{}, streams{}, router.Options{})
	ctx := context.Background()
	go func() { _ = r.Run(ctx) }()

	h, err := r.Submit(ctx, &router.Job{Model: "tales", Surface: router.Completion, Stream: true, Body: []byte(`{"prompt":"Tell","stream":true}`)})
	if err != nil {
		fmt.Println(err)
		return
	}
	<-h.Done()
	id, node := h.Worker()
	fmt.Println(h.Result().State, "on", id, "at", node)
	_ = r.Drain(ctx)
	// Output:
	// data: {"choices":[{"text":"Once upon a time"}]}
	// complete on w1 at here
}

type scheduler struct{ w router.Worker }

func (s scheduler) Place(context.Context, *router.Job) (router.Placement, error) {
	return router.Placement{Action: router.Route, Worker: s.w, Release: func(router.Outcome) {}}, nil
}

func (s scheduler) Pick(context.Context, []*router.Job) (int, router.Placement, error) {
	return -1, router.Placement{}, nil
}

func (s scheduler) Observe(*router.Job, router.Worker, router.Outcome) {}

type queue struct{}

type stored struct{}

func (stored) Wait(context.Context) error { return nil }

func (queue) Submit(*router.Job, bool, string, string) (router.Pending, error) { return stored{}, nil }
func (queue) Claim(context.Context, string, string, string) error              { return nil }
func (queue) Started(context.Context, string, string, string, int) error       { return nil }
func (queue) Requeue(context.Context, string) error                            { return nil }
func (queue) Finish(context.Context, string, router.Result) error              { return nil }
func (queue) Line(context.Context, int) ([]*router.Job, error)                 { return nil, nil }
func (queue) Recover(context.Context) ([]*router.Job, error)                   { return nil, nil }

type fleet struct{}

func (fleet) Load(context.Context, router.LoadRequest) (string, error) { return "", router.ErrNotFound }
func (fleet) Changed() <-chan struct{}                                 { return nil }
func (fleet) Report(string, error)                                     {}

type dialer struct{}

func (dialer) DialWorker(ctx context.Context, w router.Worker) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "tcp", w.Address)
}

type streams struct{}

func (streams) Open(*router.Job, bool) (router.Stream, error) { return stream{}, nil }

type stream struct{}

func (stream) Started(context.Context, string, string, int) error { return nil }

func (stream) Copy(_ context.Context, body io.ReadCloser, _ router.CopyOptions) (router.Outcome, error) {
	defer body.Close()
	out := router.Outcome{}
	for lines := bufio.NewScanner(body); lines.Scan(); {
		switch line := lines.Text(); {
		case line == "data: [DONE]":
			out.StopReason = "stop"
			return out, nil
		case strings.HasPrefix(line, "data: "):
			out.Frames++
			fmt.Println(line)
		}
	}
	return out, io.ErrUnexpectedEOF
}

func (stream) Body(context.Context, int, http.Header, []byte) (router.Outcome, error) {
	return router.Outcome{}, nil
}
func (stream) End(context.Context, router.Result) error   { return nil }
func (stream) Fail(context.Context, string, string) error { return nil }
func (stream) Queued(int)                                 {}
func (stream) Prefix() (string, int, bool)                { return "", 0, false }
func (stream) Readers() int                               { return 1 }
func (stream) Idle() <-chan struct{}                      { return nil }
func (stream) Ended() (router.Result, bool)               { return router.Result{}, false }
