package engine_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"

	"github.com/queen-rbee/queen-rbee/hivelifecycle/engine"
)

func Example() {
	ctx := context.Background()
	self, _ := os.Executable() // a program whose main calls sim.Main when its first argument is "sim-worker"
	sup, err := engine.New(engine.Options{SimCommand: []string{self, "sim-worker"}})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = sup.Close(ctx) }()

	_, err = sup.Start(ctx, engine.SpawnRequest{WorkerID: "w1", ModelRef: "sim:demo?ttft=1ms&itl=0s", Engine: engine.Spec{Name: engine.Sim}})
	if err != nil {
		fmt.Println(err)
		return
	}
	w, err := sup.Wait(ctx, "w1")
	if err != nil {
		fmt.Println(err)
		return
	}
	req, _ := http.NewRequestWithContext(ctx, http.MethodPost, w.URL+"/v1/execute", strings.NewReader(`{"prompt":"hello","max_tokens":2}`))
	req.Header.Set("Authorization", "Bearer "+w.APIKey)
	res, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = res.Body.Close() }()
	b, _ := io.ReadAll(res.Body)
	fmt.Println(w.State, strings.Count(string(b), "event: token"))
	// Output: idle 2
}
