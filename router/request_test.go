package router

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
)

func TestBuild(t *testing.T) {
	cont := &continuation{"so \"far\"\n", 4}
	for _, c := range []struct {
		name      string
		surface   Surface
		body      string
		worker    Worker
		cont      *continuation
		stream    bool
		path      string
		want      string
		untouched bool
	}{
		{name: "chat as it is, not streamed", surface: Chat, body: ` {"model":"m", "messages":[] , "x":1e2}`, path: "/v1/chat/completions",
			want: `{"model":"m","messages":[],"x":1e2}`, untouched: true},
		{name: "model renamed, usage asked for", surface: Chat, body: `{"model":"m","messages":[],"stream":true,"y":{"deep":[1,2]}}`, stream: true,
			worker: Worker{Model: "tiny:latest"}, path: "/v1/chat/completions",
			want: `{"model":"tiny:latest","messages":[],"stream":true,"y":{"deep":[1,2]},"stream_options":{"include_usage":true}}`},
		{name: "usage was asked for", surface: Completion, body: `{"model":"m","prompt":"p","stream":true,"stream_options":{"include_usage":true}}`, stream: true,
			path: "/v1/completions", want: `{"model":"m","prompt":"p","stream":true,"stream_options":{"include_usage":true}}`, untouched: true},
		{name: "other stream options stay", surface: Completion, body: `{"prompt":"p","stream":true,"stream_options":{"a":1}}`, stream: true,
			path: "/v1/completions", want: `{"prompt":"p","stream":true,"stream_options":{"a":1,"include_usage":true}}`},
		{name: "task to openai", surface: Native, body: `{"model":"m","prompt":"p","priority":"batch","session_id":"s","deadline":"1m","node":"n","repetition_penalty":1.1}`,
			path: "/v1/completions", want: `{"model":"m","prompt":"p","repetition_penalty":1.1,"repeat_penalty":1.1,"stream":true,"stream_options":{"include_usage":true}}`},
		{name: "task with messages", surface: Native, body: `{"messages":[]}`, path: "/v1/chat/completions",
			want: `{"messages":[],"stream":true,"stream_options":{"include_usage":true}}`},
		{name: "chat to execute", surface: Chat, body: `{"model":"m","messages":[{"role":"user","content":"x"}],"stream":false,"max_completion_tokens":7,"z":1}`,
			worker: Worker{Protocol: ProtocolExecute}, path: "/v1/execute",
			want: `{"model":"m","messages":[{"role":"user","content":"x"}],"z":1,"max_tokens":7,"job_id":"j"}`},
		{name: "a list of one prompt to execute", surface: Completion, body: `{"prompt": [ "p\u00e9" ],"n":1}`, worker: Worker{Protocol: ProtocolExecute},
			path: "/v1/execute", want: `{"prompt":"p\u00e9","n":1,"job_id":"j"}`},
		{name: "task to execute", surface: Native, body: `{"prompt":"p","repetition_penalty":2,"node":"n"}`, worker: Worker{Protocol: ProtocolExecute},
			path: "/v1/execute", want: `{"prompt":"p","repetition_penalty":2,"job_id":"j"}`},
		{name: "embeddings", surface: Embeddings, body: `{"model":"m","input":["a"]}`, path: "/v1/embeddings", want: `{"model":"m","input":["a"]}`, untouched: true},
		{name: "ollama chat", surface: OllamaChat, stream: true, path: "/v1/chat/completions",
			body: `{"model":"m","messages":[],"options":{"num_predict":5,"temperature":0,"num_ctx":9},"keep_alive":"5m","format":"json"}`,
			want: `{"model":"m","messages":[],"max_tokens":5,"temperature":0,"response_format":{"type":"json_object"},"stream":true,"stream_options":{"include_usage":true}}`},
		{name: "ollama generate", surface: OllamaGenerate, path: "/v1/chat/completions", body: `{"model":"m","prompt":"p","system":"s","options":{"num_predict":-1}}`,
			want: `{"model":"m","messages":[{"role":"system","content":"s"},{"role":"user","content":"p"}]}`},
		{name: "ollama generate raw", surface: OllamaGenerate, path: "/v1/completions", body: `{"model":"m","prompt":"p","raw":true}`, want: `{"model":"m","prompt":"p"}`},
		{name: "completion goes on", surface: Completion, body: `{"prompt":"p\u00e9","max_tokens":10,"stream":true,"stream_options":null}`, cont: cont, stream: true,
			path: "/v1/completions", want: `{"prompt":"p\u00e9so \"far\"\n","max_tokens":6,"stream":true,"stream_options":{"include_usage":true}}`},
		{name: "completion in an array goes on", surface: Completion, body: `{"prompt":["p"]}`, cont: cont, path: "/v1/completions", want: `{"prompt":"pso \"far\"\n"}`},
		{name: "chat goes on", surface: Chat, body: `{"messages":[{"role":"user","content":"x"}],"max_completion_tokens":10}`, cont: cont,
			worker: Worker{Capabilities: Capabilities{ContinueFlag: true}}, path: "/v1/chat/completions",
			want: `{"messages":[{"role":"user","content":"x"},{"role":"assistant","content":"so \"far\"\n"}],"max_completion_tokens":6,"add_generation_prompt":false,"continue_final_message":true}`},
		{name: "chat with the client's own prefill goes on", surface: Chat, body: `{"messages":[{"role":"assistant","content":"x"}]}`, cont: cont,
			worker: Worker{Capabilities: Capabilities{Prefill: true}}, path: "/v1/chat/completions",
			want: `{"messages":[{"role":"assistant","content":"xso \"far\"\n"}],"add_generation_prompt":false,"continue_final_message":true}`},
		{name: "execute goes on", surface: Native, body: `{"prompt":"p","max_tokens":10}`, cont: cont, worker: Worker{Protocol: ProtocolExecute},
			path: "/v1/execute", want: `{"prompt":"p","max_tokens":6,"job_id":"j","prefix":"so \"far\"\n"}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			j := &Job{ID: "j", Surface: c.surface, Body: []byte(c.body), Stream: c.stream}
			req, err := built(j, &c.worker, c.cont)
			if err != nil {
				t.Fatal(err)
			}
			var got, want any
			if err := json.Unmarshal(req.body, &got); err != nil {
				t.Fatalf("%v: %s", err, req.body)
			}
			if err := json.Unmarshal([]byte(c.want), &want); err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, want) || req.path != c.path {
				t.Errorf("path %s, body\n%s, want\n%s", req.path, req.body, c.want)
			}
			if c.untouched && &req.body[0] != &j.Body[0] {
				t.Error("an unchanged body was copied")
			}
		})
	}
}

func TestSetAndStrip(t *testing.T) {
	j := &Job{Surface: Chat, Body: []byte(`{"model":"m","logit_bias":{"1":2},"temperature":1,"temperature":2}`),
		Set: map[string]string{"temperature": "0.2", "top_k": "3"}, Strip: []string{"logit_bias"}}
	req, err := built(j, &Worker{}, nil)
	if err != nil || string(req.body) != `{"model":"m","temperature":0.2,"temperature":0.2,"top_k":3}` {
		t.Fatalf("%s %v", req.body, err)
	}
}

func TestBuildRefuses(t *testing.T) {
	for _, text := range []string{``, `[]`, `{`, `{"a"}`, `{"a":1}{"b":2}`, `{"a":1,}`, strings.Repeat("[", 20_000)} {
		_, err := built(&Job{Surface: Chat, Body: []byte(text)}, &Worker{}, nil)
		if codeOf(err, "") != CodeInvalid {
			t.Errorf("%.20q: %v", text, err)
		}
	}
	for _, path := range []string{"", "v1/x", "/v1/a b", "/v1/x\r\nHost: y", "/v1/\x00"} {
		_, err := built(&Job{Surface: Raw, Path: path, Body: []byte(`{}`)}, &Worker{}, nil)
		if codeOf(err, "") != CodeInvalid {
			t.Errorf("%q: %v", path, err)
		}
	}
	for _, text := range []string{`{"prompt":["a","b"]}`, `{"prompt":[1,2]}`, `{"prompt":[]}`, `{"prompt":"a","n":2}`} {
		if _, err := built(&Job{Surface: Completion, Body: []byte(text)}, &Worker{Protocol: ProtocolExecute}, nil); codeOf(err, "") != CodeInvalid {
			t.Errorf("%s to execute: %v", text, err)
		}
	}
	_, err := built(&Job{Surface: Completion, Body: []byte(`{"prompt":"p","max_tokens":3}`)}, &Worker{}, &continuation{"x", 3})
	if !errors.Is(err, errSpent) {
		t.Error(err)
	}
	if _, err := built(&Job{Surface: Raw, Path: "/v1/audio/speech", ContentType: "multipart/form-data; boundary=x", Body: []byte("--x")}, &Worker{}, nil); err != nil {
		t.Error(err)
	}
}

func TestHeaderStaysInItsLine(t *testing.T) {
	x := &exchange{c: newConn(nil), w: &Worker{Address: "http://h:1/base/", APIKey: "k\r\nX: y"}, job: &Job{CorrelationID: "a\nb"}, req: wire{path: "/v1/x", body: []byte("{}"), contentType: "application/json"}}
	head := string(x.head(nil))
	if strings.Count(head, "\n") != 7 || !strings.HasPrefix(head, "POST /base/v1/x HTTP/1.1\r\nHost: h:1\r\n") {
		t.Errorf("%q", head)
	}
}

func TestErrorText(t *testing.T) {
	for body, want := range map[string]string{
		`{"error":{"message":"m\"x","code":500}}`: `m"x`, `{"error":"flat"}`: "flat", `{"message":"top"}`: "top", "plain\n": "plain", "": "no message",
		`{"error":{"error":{"message":"deep"}}}`: "deep",
	} {
		if got := errorText([]byte(body)); got != want {
			t.Errorf("%s: %q", body, got)
		}
	}
}

// The scanner must agree with encoding/json on everything that encoding/json accepts.
func FuzzBody(f *testing.F) {
	for _, s := range []string{`{"a":1,"b":[{"c":"}"}],"a":"\"x\\"}`, ` { } `, `{"\u0061":null}`, `{"a":{"b":{}},"c":[[]]}`, `{"a":1`, "{\"a\":\"\\", "{\"\x83\":\"\"}"} {
		f.Add([]byte(s), "a", `"v"`)
	}
	f.Fuzz(func(t *testing.T, text []byte, name, value string) {
		b, err := parseBody(text)
		var want map[string]json.RawMessage
		std := json.Unmarshal(text, &want)
		if std != nil || want == nil {
			if err == nil { // what we let through must not change by being looked at
				if string(b.bytes()) != string(text) {
					t.Fatal("changed without an edit")
				}
			}
			return
		}
		if err != nil {
			t.Fatalf("valid, but %v: %q", err, text)
		}
		for k, v := range want {
			got, ok := b.get(k)
			if !ok || string(got) != string(v) {
				t.Fatalf("%q: got %q want %q", k, got, v)
			}
		}
		if quoted := quote(name); !json.Valid([]byte(value)) || string(nameOf([]byte(quoted))) != name {
			return
		}
		quick, _ := parseBody(text)
		quick.setText(name, value)
		slow, _ := parseBody(text)
		if slow.set(name, quote(value)); string(quick.bytes()) != string(slow.bytes()) {
			t.Fatalf("setText %q, set %q", quick.bytes(), slow.bytes())
		}
		b.set(name, value)
		var after map[string]json.RawMessage
		if err := json.Unmarshal(b.bytes(), &after); err != nil {
			t.Fatalf("%v: %q", err, b.bytes())
		}
		if _, ok := after[name]; !ok {
			t.Fatalf("%q was not set: %q", name, b.bytes())
		}
		b.drop(name)
		after = nil
		if err := json.Unmarshal(b.bytes(), &after); err != nil {
			t.Fatalf("%v: %q", err, b.bytes())
		}
		if _, ok := after[name]; ok {
			t.Fatalf("%q was not dropped: %q", name, b.bytes())
		}
		if len(want) > 0 && len(after) != len(want) && len(after) != len(want)-1 {
			t.Fatalf("%d of %d left", len(after), len(want))
		}
	})
}

// A continuation's request stays valid JSON with the text in its place, whatever the text.
func FuzzContinuation(f *testing.F) {
	f.Add(`{"prompt":"p","max_tokens":9}`, "t\"\\\n\u2028")
	f.Add(`{"messages":[{"role":"user","content":"x"}]}`, "\xff")
	f.Add(`{"messages":[{"role":"assistant","content":"\\"}]}`, "x")
	f.Fuzz(func(t *testing.T, text, so string) {
		if !json.Valid([]byte(text)) {
			return
		}
		for _, s := range []Surface{Completion, Chat, Native} {
			for _, p := range []string{ProtocolOpenAI, ProtocolExecute} {
				req, err := built(&Job{ID: "j", Surface: s, Stream: true, Body: []byte(text)}, &Worker{Protocol: p, Capabilities: Capabilities{Prefill: true}}, &continuation{so, 1})
				if err == nil && !json.Valid(req.body) {
					t.Fatalf("%s: %q", s, req.body)
				}
			}
		}
	})
}

// built is build, with room for the request.
func built(j *Job, w *Worker, cont *continuation) (*wire, error) {
	out := &wire{}
	return out, build(out, j, w, cont)
}

// The memory that a request is built in serves the next one: nothing of what was built is in it.
func TestBuiltRequestsAreTheirOwn(t *testing.T) {
	w := &Worker{Protocol: ProtocolOpenAI, Model: "engine"}
	texts := []string{`{"model":"a","prompt":"one","stop":["x","y"],"stream":true}`, `{"model":"engine","prompt":"two"}`, `{"model":"b","prompt":`,
		`{"m\u006fdel":"c","prompt":"four","n":1,"a":1,"b":2,"c":3,"d":4,"e":5,"f":6,"g":7,"h":8,"i":9,"j":10,"k":11,"l":12,"m":13}`}
	var kept []*wire
	var want []string
	for range 3 {
		for _, text := range texts {
			req, err := built(&Job{Surface: Completion, Stream: true, Body: []byte(text)}, w, nil)
			if err != nil {
				continue
			}
			kept = append(kept, req)
			want = append(want, string(req.body)+strings.Join(req.stop, "|"))
		}
	}
	if len(kept) != 9 {
		t.Fatalf("%d built", len(kept))
	}
	for i, req := range kept {
		if got := string(req.body) + strings.Join(req.stop, "|"); got != want[i] || want[i] != want[i%3] {
			t.Errorf("%q became %q", want[i], got)
		}
	}
}
