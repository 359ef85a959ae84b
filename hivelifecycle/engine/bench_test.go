package engine

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// BenchmarkSpawn compares the time from spawn to first token with that of the same server started by hand, in the same
// run, and says how soon a crash is noticed and mended.
func BenchmarkSpawn(b *testing.B) {
	server, model := "/opt/llama-server/llama-server", "/work/shared/data/models/stories260K-chat.gguf"
	if p := os.Getenv("LLAMA_SERVER"); p != "" {
		server = p
	}
	if !exists(server) || !exists(model) {
		b.Skip("no llama-server or no model data")
	}
	var hand, ours, noticed, mended []float64
	for i := 0; b.Loop(); i++ {
		hand = append(hand, byHand(b, server, model))
		o, n, m := supervised(b, model, i)
		ours, noticed, mended = append(ours, o), append(noticed, n), append(mended, m)
	}
	b.ReportMetric(median(hand), "ms-by-hand")
	b.ReportMetric(median(ours), "ms-supervised")
	b.ReportMetric(median(ours)/median(hand), "ratio")
	b.ReportMetric(median(noticed), "ms-to-notice")
	b.ReportMetric(median(mended), "ms-to-replace")
}

func median(v []float64) float64 {
	for i := range v {
		for j := i; j > 0 && v[j] < v[j-1]; j-- {
			v[j], v[j-1] = v[j-1], v[j]
		}
	}
	return v[len(v)/2]
}

func firstToken(b *testing.B, url, key string) {
	req, err := http.NewRequestWithContext(context.Background(), http.MethodPost, url+"/v1/completions", strings.NewReader(`{"prompt":"Once","max_tokens":4,"stream":true}`))
	if err != nil {
		b.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+key)
	res, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	buf := make([]byte, 8)
	if _, err := res.Body.Read(buf); err != nil {
		b.Fatal(err)
	}
}

// byHand is what a shell script does: start, ask for health every millisecond, send the request.
func byHand(b *testing.B, server, model string) float64 {
	port, err := freeTCP()
	if err != nil {
		b.Fatal(err)
	}
	began := time.Now()
	cmd := exec.Command(server, "-m", model, "--host", "127.0.0.1", "--port", fmt.Sprint(port), "-a", "m", "--metrics", "-np", "2", "-c", "1024", "-t", "1", "-tb", "1")
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	url := fmt.Sprintf("http://127.0.0.1:%d", port)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	p := newProber()
	for p.health(context.Background(), strings.TrimPrefix(url, "http://"), "/health", "") != 200 {
		<-tick.C
	}
	firstToken(b, url, "")
	return ms(began)
}

func supervised(b *testing.B, model string, i int) (ready, noticed, mended float64) {
	s, err := New(Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = s.Close(context.Background()) }()
	ctx, id := context.Background(), fmt.Sprint("w", i)
	began := time.Now()
	if _, err := s.Start(ctx, SpawnRequest{WorkerID: id, Model: "m", ModelRef: "file:m", ModelPath: model, Engine: Spec{Name: LlamaCpp}, Slots: 2, Context: 1024, Args: []string{"-t", "1", "-tb", "1"}}); err != nil {
		b.Fatal(err)
	}
	w, err := s.Wait(ctx, id)
	if err != nil {
		b.Fatal(err)
	}
	firstToken(b, w.URL, w.APIKey)
	ready = ms(began)
	began = time.Now()
	wk, _ := s.get(id)
	_, changed := wk.observe()
	_ = syscall.Kill(w.PID, syscall.SIGKILL)
	<-changed
	noticed = ms(began)
	for {
		rec, changed := wk.observe()
		if rec.Restarts == 1 && rec.State == "idle" {
			return ready, noticed, ms(began)
		}
		<-changed
	}
}

func ms(since time.Time) float64 { return float64(time.Since(since).Microseconds()) / 1000 }
