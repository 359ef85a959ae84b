package sim

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fast is a simulator without waiting.
func fast(t *testing.T, query string) *httptest.Server {
	t.Helper()
	c, err := ParseRef("sim:test?ttft=0s&itl=0s" + query)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(New(c, Options{Exit: func(int) { panic(http.ErrAbortHandler) }}))
	t.Cleanup(srv.Close)
	return srv
}

func post(t *testing.T, url, body string) (int, string) {
	t.Helper()
	res, err := http.Post(url, "application/json", strings.NewReader(body))
	if err != nil {
		return 0, err.Error()
	}
	defer func() { _ = res.Body.Close() }()
	b, _ := io.ReadAll(res.Body)
	http.DefaultClient.CloseIdleConnections()
	return res.StatusCode, string(b)
}

type answer struct {
	Choices []struct {
		Text    string
		Message struct{ Content string }
		Reason  string `json:"finish_reason"`
	}
	Usage struct {
		Prompt     int `json:"prompt_tokens"`
		Completion int `json:"completion_tokens"`
		Details    struct {
			Cached int `json:"cached_tokens"`
		} `json:"prompt_tokens_details"`
	}
}

func complete(t *testing.T, srv *httptest.Server, prompt string, n int) answer {
	t.Helper()
	body, _ := json.Marshal(map[string]any{"prompt": prompt, "max_tokens": n})
	if n < 0 {
		body, _ = json.Marshal(map[string]any{"prompt": prompt})
	}
	code, out := post(t, srv.URL+"/v1/completions", string(body))
	var a answer
	if err := json.Unmarshal([]byte(out), &a); err != nil || code != 200 || len(a.Choices) != 1 {
		t.Fatalf("%d %s", code, out)
	}
	return a
}

func TestVocabulary(t *testing.T) {
	seen := map[string]bool{}
	for _, w := range vocabulary() {
		if seen[w] || strings.ContainsAny(w, ` "\`) {
			t.Errorf("word %q", w)
		}
		seen[w] = true
	}
	if len(seen) != 256 {
		t.Errorf("%d words", len(seen))
	}
}

// TestContinuation cuts answers anywhere: prompt and text so far go on with the same rest.
func TestContinuation(t *testing.T) {
	srv := fast(t, "")
	rng := rand.New(rand.NewPCG(1, 2))
	for range 60 {
		prompt := []string{"Once upon a time", "hello ", "", "two words ", "a list:\n- one\n- two ", "über Größe "}[rng.IntN(6)]
		n, cut := 1+rng.IntN(40), 0
		whole := complete(t, srv, prompt, n).Choices[0].Text
		if strings.Count(whole, " ") != n {
			t.Fatalf("%q has not %d tokens", whole, n)
		}
		cut = rng.IntN(n + 1)
		words := strings.SplitAfter(whole, " ")
		head := strings.Join(words[:cut], "")
		rest := complete(t, srv, prompt+head, n-cut)
		if n == cut {
			continue
		}
		if got := head + rest.Choices[0].Text; got != whole {
			t.Fatalf("prompt %q cut after %d: %q, want %q", prompt, cut, got, whole)
		}
	}
}

func TestDefaultLengthAndReasons(t *testing.T) {
	srv := fast(t, "")
	a := complete(t, srv, "x", -1)
	if a.Usage.Completion != 16 || a.Choices[0].Reason != "stop" {
		t.Errorf("%+v", a)
	}
	head := strings.Join(strings.SplitAfter(a.Choices[0].Text, " ")[:5], "")
	if b := complete(t, srv, "x"+head, -1); head+b.Choices[0].Text != a.Choices[0].Text || b.Choices[0].Reason != "stop" {
		t.Errorf("a continuation without max_tokens: %+v", b)
	}
	if c := complete(t, srv, "x", 3); c.Choices[0].Reason != "length" || c.Usage.Completion != 3 {
		t.Errorf("%+v", c)
	}
}

func TestChatPrefill(t *testing.T) {
	srv := fast(t, "")
	ask := func(messages string, n int) string {
		code, out := post(t, srv.URL+"/v1/chat/completions", fmt.Sprintf(`{"messages":[%s],"max_tokens":%d}`, messages, n))
		var a answer
		if err := json.Unmarshal([]byte(out), &a); err != nil || code != 200 {
			t.Fatalf("%d %s", code, out)
		}
		return a.Choices[0].Message.Content
	}
	user := `{"role":"user","content":[{"type":"text","text":"hi"}]}`
	whole := ask(user, 10)
	head := strings.Join(strings.SplitAfter(whole, " ")[:4], "")
	if got := head + ask(user+`,{"role":"assistant","content":"`+head+`"}`, 6); got != whole {
		t.Errorf("%q, want %q", got, whole)
	}
}

// frames reads a native stream into lines "name data".
func frames(t *testing.T, body string) []string {
	t.Helper()
	var out []string
	name, id := "", 0
	for line := range strings.Lines(body) {
		line = strings.TrimSuffix(line, "\n")
		if v, ok := strings.CutPrefix(line, "id: "); ok {
			id++
			if v != fmt.Sprint(id) {
				t.Errorf("id %s, want %d", v, id)
			}
		}
		if v, ok := strings.CutPrefix(line, "event: "); ok {
			name = v
		}
		if v, ok := strings.CutPrefix(line, "data: "); ok {
			out = append(out, name+" "+v)
		}
	}
	return out
}

func TestExecute(t *testing.T) {
	srv := fast(t, "")
	_, out := post(t, srv.URL+"/v1/execute", `{"job_id":"j1","prompt":"hello","max_tokens":4}`)
	ev := frames(t, out)
	if len(ev) != 6 || !strings.HasPrefix(ev[0], "started ") || !strings.HasPrefix(ev[5], "end ") || !strings.Contains(ev[5], `"stop_reason":"length"`) {
		t.Fatalf("%q", ev)
	}
	var words []string
	for i, e := range ev[1:5] {
		var tok struct {
			T string
			I int
		}
		if err := json.Unmarshal([]byte(strings.TrimPrefix(e, "token ")), &tok); err != nil || tok.I != i {
			t.Fatalf("%q", e)
		}
		words = append(words, tok.T)
	}
	body, _ := json.Marshal(map[string]any{"prompt": "hello", "prefix": words[0] + words[1], "max_tokens": 2})
	_, out = post(t, srv.URL+"/v1/execute", string(body))
	if diff := cmp.Diff(ev[3:5], frames(t, out)[1:3]); diff != "" {
		t.Error("a continuation differs:", diff)
	}
	if a := complete(t, srv, "hello", 4); a.Choices[0].Text != strings.Join(words, "") {
		t.Errorf("the protocols differ: %q, %q", a.Choices[0].Text, words)
	}
	if !strings.Contains(out, `"prompt_tokens":4,`) { // two of hello, two of its own
		t.Errorf("what a continuation read: %s", out)
	}
}

func TestStreamShape(t *testing.T) {
	srv := fast(t, "")
	_, out := post(t, srv.URL+"/v1/chat/completions", `{"messages":[{"role":"user","content":"hi"}],"max_tokens":2,"stream":true,"stream_options":{"include_usage":true}}`)
	var datas []string
	for line := range strings.Lines(out) {
		if d, ok := strings.CutPrefix(line, "data: "); ok {
			datas = append(datas, strings.TrimSpace(d))
		}
	}
	if len(datas) != 6 || datas[5] != "[DONE]" || !strings.Contains(datas[0], `"role":"assistant"`) || !strings.Contains(datas[3], `"finish_reason":"length"`) || !strings.Contains(datas[4], `"choices":[]`) {
		t.Fatalf("%q", datas)
	}
}

func TestPrefixCache(t *testing.T) {
	srv := fast(t, "")
	prompt := strings.Repeat("abcd", 100) // 100 tokens, 6 whole blocks
	if a := complete(t, srv, prompt, 20); a.Usage.Prompt != 100 || a.Usage.Details.Cached != 0 {
		t.Errorf("%+v", a.Usage)
	}
	a := complete(t, srv, prompt+"efgh", 1)
	if a.Usage.Prompt != 101 || a.Usage.Details.Cached != 96 {
		t.Errorf("%+v", a.Usage)
	}
	if b := complete(t, srv, "x"+prompt, 1); b.Usage.Details.Cached != 0 {
		t.Errorf("%+v", b.Usage)
	}
	c := newCache()
	for i := range 5000 {
		c.add(fmt.Sprintf("%064d", i))
	}
	if len(c.items) != maxBlocks || c.order.Len() != maxBlocks {
		t.Errorf("%d blocks", len(c.items))
	}
	if c.lookup(fmt.Sprintf("%064d", 0)) != 0 || c.lookup(fmt.Sprintf("%064d", 4999)) != 16 {
		t.Error("not the least recently used one went")
	}
}

// TestSlots holds more requests than there are slots: they wait without a word, and nobody gets more than his turn.
func TestSlots(t *testing.T) {
	c, err := ParseRef("sim:test?ttft=0s&itl=1h&slots=2")
	if err != nil {
		t.Fatal(err)
	}
	s := New(c, Options{})
	srv := httptest.NewServer(s)
	defer srv.Close()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{}, 5)
	for range 5 {
		go func() {
			defer func() { done <- struct{}{} }()
			req, _ := http.NewRequestWithContext(ctx, http.MethodPost, srv.URL+"/v1/completions", strings.NewReader(`{"prompt":"x","max_tokens":9,"stream":true}`))
			if res, err := http.DefaultClient.Do(req); err == nil {
				_, _ = io.Copy(io.Discard, res.Body)
				_ = res.Body.Close()
			}
		}()
	}
	settle(t, func() bool { return s.busy.Load() == 2 && s.waiting.Load() == 3 })
	cancel()
	for range 5 {
		<-done
	}
	settle(t, func() bool { return s.busy.Load() == 0 && s.waiting.Load() == 0 })
	http.DefaultClient.CloseIdleConnections()
}

func settle(t *testing.T, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	limit := time.After(10 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatal("it does not settle")
		}
	}
}

func TestCancel(t *testing.T) {
	c, _ := ParseRef("sim:test?ttft=0s&itl=1h&slots=1")
	s := New(c, Options{})
	srv := httptest.NewServer(s)
	defer srv.Close()
	res, err := http.Post(srv.URL+"/v1/execute", "application/json", strings.NewReader(`{"job_id":"j","prompt":"x","max_tokens":100}`))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	br := bufio.NewReader(res.Body)
	if line, _ := br.ReadString('\n'); line != "id: 1\n" {
		t.Fatalf("%q", line)
	}
	if code, out := post(t, srv.URL+"/v1/cancel", `{"job_id":"j"}`); code != 200 || !strings.Contains(out, `"cancelled":true`) {
		t.Errorf("%d %s", code, out)
	}
	rest, _ := io.ReadAll(br)
	if !bytes.Contains(rest, []byte(`"code":"CANCELLED"`)) {
		t.Errorf("%s", rest)
	}
	if code, out := post(t, srv.URL+"/v1/cancel", `{"job_id":"j"}`); code != 200 || !strings.Contains(out, `"cancelled":false`) {
		t.Errorf("%d %s", code, out)
	}
}

func TestFaultsOfRequests(t *testing.T) {
	body := `{"prompt":"x","max_tokens":8,"stream":true}`
	for _, tc := range []struct {
		fail string
		code int
		want func(out string) bool
	}{
		{"first", 500, func(s string) bool { return strings.Contains(s, "server_error") }},
		{"busy", 503, func(s string) bool { return strings.Contains(s, "unavailable") }},
		{"after:3", 200, func(s string) bool { return strings.Count(s, "data: ") == 3 && !strings.Contains(s, "[DONE]") }},
		{"after:0", 200, func(s string) bool { return !strings.Contains(s, "[DONE]") }},
		{"garbage:2", 200, func(s string) bool { return strings.Contains(s, `{"del`) && !strings.Contains(s, "[DONE]") }},
		{"after:3:0", 200, func(s string) bool { return strings.Contains(s, "[DONE]") }},
	} {
		srv := fast(t, "&fail="+tc.fail)
		code, out := post(t, srv.URL+"/v1/completions", body)
		if code != tc.code && tc.fail != "after:0" || !tc.want(out) {
			t.Errorf("%s: %d %s", tc.fail, code, out)
		}
	}
	srv := fast(t, "&fail=first:0.25")
	bad := 0
	for range 20 {
		if code, _ := post(t, srv.URL+"/v1/completions", body); code == 500 {
			bad++
		}
	}
	if bad != 5 {
		t.Errorf("%d of 20 failed, want 5", bad)
	}
}

func TestLoading(t *testing.T) {
	c, _ := ParseRef("sim:test?load=1ms&fail=load")
	s := New(c, Options{})
	if err := s.Load(t.Context(), func(float64) {}); err == nil {
		t.Error("a model that can't be loaded was loaded")
	}
	rec := httptest.NewRecorder()
	s.ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/health", nil))
	if rec.Code != 503 {
		t.Errorf("health %d while loading", rec.Code)
	}
	c.Faults = nil
	steps := 0
	s = New(c, Options{APIKey: "k"})
	if err := s.Load(t.Context(), func(float64) { steps++ }); err != nil || steps != 10 {
		t.Errorf("%v after %d steps", err, steps)
	}
	for _, tc := range []struct {
		path string
		key  string
		code int
	}{{"/health", "", 200}, {"/v1/models", "", 401}, {"/v1/models", "wrong", 401}, {"/v1/models", "k", 200}} {
		rec := httptest.NewRecorder()
		req := httptest.NewRequest(http.MethodGet, tc.path, nil)
		req.Header.Set("Authorization", "Bearer "+tc.key)
		s.ServeHTTP(rec, req)
		if rec.Code != tc.code {
			t.Errorf("%s with %q: %d", tc.path, tc.key, rec.Code)
		}
	}
	rec = httptest.NewRecorder()
	req := httptest.NewRequest(http.MethodGet, "/v1/models", nil)
	req.Header.Set("Authorization", "Bearer k")
	s.ServeHTTP(rec, req)
	if !strings.Contains(rec.Body.String(), `"owned_by":"simulator"`) {
		t.Error(rec.Body)
	}
}

func TestParseRef(t *testing.T) {
	c, err := ParseRef("sim:demo?ttft=50ms&itl=5ms&load=2s&slots=4&memory=4GiB&prefill=10000&fail=after:5:0.5,hang:0.1&protocol=openai")
	want := Config{Name: "demo", TTFT: 50 * time.Millisecond, ITL: 5 * time.Millisecond, Load: 2 * time.Second, Slots: 4, Memory: 4 << 30, Prefill: 10000, Protocol: "openai",
		Faults: []Fault{{"after", 5, 0.5}, {"hang", 0, 0.1}}}
	if diff := cmp.Diff(want, c); diff != "" || err != nil {
		t.Error(err, diff)
	}
	for _, bad := range []string{"", "sim:", "sim:?x", "file:/x", "sim:a?ttft=fast", "sim:a?slots=0", "sim:a?memory=lots", "sim:a?fail=maybe", "sim:a?fail=after", "sim:a?fail=first:2",
		"sim:a?what=1", "sim:a?itl=-1s", "sim:a?prefill=0", "sim:a?prefill=NaN", "sim:a b", "sim:a?slots=1&slots=2", "sim:a?protocol=smtp", "sim:" + strings.Repeat("x", 600)} {
		if _, err := ParseRef(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

func FuzzParseRef(f *testing.F) {
	f.Add("sim:demo?ttft=50ms&fail=after:3:0.5")
	f.Add("sim:x?memory=1e999GiB")
	f.Fuzz(func(t *testing.T, ref string) {
		c, err := ParseRef(ref)
		if err == nil && (c.Name == "" || c.Slots < 1 || c.Memory < 0 || c.TTFT < 0 || !(c.Prefill > 0)) {
			t.Errorf("%q gave %+v", ref, c)
		}
	})
}

// FuzzSplit finds the seam in any prompt that an answer of ours follows.
func FuzzSplit(f *testing.F) {
	f.Add("hello", 3)
	f.Add("a b c ", 1)
	tx := text{vocabulary()}
	f.Fuzz(func(t *testing.T, prompt string, n int) {
		if n < 1 || n > 50 || len(prompt) > 1000 {
			return
		}
		seed, start := tx.split(prompt)
		full := prompt
		for i := range n {
			full += tx.token(seed, start+i)
		}
		gotSeed, got := tx.split(full)
		if gotSeed != seed || got != start+n {
			t.Errorf("%q: %d tokens found, want %d", full, got, start+n)
		}
	})
}

// BenchmarkStreams is what pacing costs: streams of 5 ms per token, CPU time per token.
func BenchmarkStreams(b *testing.B) {
	c, _ := ParseRef("sim:bench?ttft=0s&itl=5ms&slots=400")
	srv := httptest.NewServer(New(c, Options{}))
	defer srv.Close()
	const streams, tokens = 200, 100
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: streams}}
	defer client.CloseIdleConnections()
	for b.Loop() {
		done := make(chan error, streams)
		for range streams {
			go func() {
				res, err := client.Post(srv.URL+"/v1/completions", "application/json", strings.NewReader(fmt.Sprintf(`{"prompt":"x","max_tokens":%d,"stream":true}`, tokens)))
				if err == nil {
					_, err = io.Copy(io.Discard, res.Body)
					_ = res.Body.Close()
				}
				done <- err
			}()
		}
		for range streams {
			if err := <-done; err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*tokens)/1e6, "ms/token")
}
