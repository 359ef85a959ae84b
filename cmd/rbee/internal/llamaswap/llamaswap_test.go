package llamaswap

import (
	"reflect"
	"strings"
	"testing"
)

const whole = `
healthCheckTimeout: 500
logLevel: debug
startPort: 10001
somethingNew: 1
macros:
  "server": |
    /opt/llama.cpp/llama-server # not a comment of ours, llama-swap keeps it too
  "ctx": 4096
  "base": ${server-bin} --port ${PORT} --host 0.0.0.0
  "server-bin": /opt/llama.cpp/llama-server
models:
  "qwen":
    cmd: |
      # the fast one
      ${base}
      -m /models/qwen.gguf -c ${ctx} -np 3 --api-key secret \
      --alias "my qwen"
    aliases: [gpt-4o-mini, small]
    ttl: 300
    env: ["CUDA_VISIBLE_DEVICES=0", "A=b=c"]
    checkEndpoint: /v1/models
    name: Qwen
    filters: {stripParams: "temperature, top_p", setParams: {top_k: 20}}
  boxed:
    macros: {image: "ghcr.io/ggml-org/llama.cpp:server"}
    cmd: docker run --name ${MODEL_ID} --rm -v /data/models:/models -p ${PORT}:8080 ${image} -m /models/sub/a.gguf
    cmdStop: docker stop ${MODEL_ID}
    proxy: http://127.0.0.1:${PORT}
    useModelName: inner
    unlisted: true
    concurrencyLimit: 7
  hub: {cmd: "llama-server --port ${PORT} -hf org/repo:Q4_K_M", checkEndpoint: none}
  v: {cmd: "vllm serve org/big --port 9000 --max-num-seqs 32 --max-model-len 8192", proxy: "http://localhost:9000", cmdStop: "kill ${PID}"}
  far: {cmd: "x --port ${PORT} -m /m", proxy: "http://10.0.0.9:1"}
  noport: {cmd: "x -m /m.gguf"}
  nomodel: {cmd: "x --port ${PORT}"}
  relative: {cmd: "llama-server --port ${PORT} -m m/a.gguf"}
  lost: {cmd: "podman run -p ${PORT}:80 image"}
groups:
  g: {swap: true, exclusive: true, members: [qwen]}
  keep: {swap: false, exclusive: false, persistent: true, members: [boxed, nothing]}
hooks: {on_startup: {preload: [small, nothing]}}
`

func TestImport(t *testing.T) {
	out, notes, err := Import([]byte(whole))
	if err != nil {
		t.Fatal(err)
	}
	want := &Config{
		Engines: map[string]Engine{
			"swap-qwen": {Adapter: "llama.cpp", Protocol: "openai", Health: "/v1/models", Slots: 3, ReadyTimeout: "8m20s", Env: map[string]string{"CUDA_VISIBLE_DEVICES": "0", "A": "b=c"},
				Command: []string{"/opt/llama.cpp/llama-server", "--port", "{port}", "--host", "{host}", "-m", "{model_path}", "-c", "4096", "-np", "3", "--alias", "my qwen"}},
			"swap-boxed": {Protocol: "openai", Slots: 7, ReadyTimeout: "8m20s", ModelName: "inner", Stop: []string{"docker", "stop", "{worker_id}"},
				Command: []string{"docker", "run", "--name", "{worker_id}", "--rm", "-v", "/data/models:/models", "-p", "{port}:8080", "ghcr.io/ggml-org/llama.cpp:server", "-m", "/models/sub/a.gguf"}},
			"swap-hub": {Adapter: "llama.cpp", Protocol: "openai", Health: "/", ReadyTimeout: "8m20s", Command: []string{"llama-server", "--port", "{port}", "-m", "{model_path}"}},
			"swap-v": {Adapter: "vllm", Protocol: "openai", Slots: 32, ReadyTimeout: "8m20s",
				Command: []string{"vllm", "serve", "{model_path}", "--port", "{port}", "--max-num-seqs", "32", "--max-model-len", "8192"}},
		},
		Models: map[string]Model{
			"qwen":  {Ref: "file:/models/qwen.gguf", Engine: "swap-qwen", Context: 4096, TTL: "5m0s", Workers: 1, Set: map[string]any{"top_k": uint64(20)}, Strip: []string{"temperature", "top_p"}},
			"boxed": {Ref: "file:/data/models/sub/a.gguf", Engine: "swap-boxed", Pin: true},
			"hub":   {Ref: "hf:org/repo", Engine: "swap-hub"},
			"v":     {Ref: "hf:org/big", Engine: "swap-v", Context: 8192},
		},
		Aliases: map[string]string{"gpt-4o-mini": "qwen", "small": "qwen"},
	}
	if !reflect.DeepEqual(out, want) {
		t.Errorf("got  %+v\nwant %+v", out, want)
	}
	all := strings.Join(notes, "\n")
	for _, part := range []string{"logLevel: no equivalent; use log.level", "startPort: no equivalent", "somethingNew: not known here", "models.qwen.name: no equivalent",
		"models.boxed.unlisted: no equivalent", "--api-key was dropped", "Q4_K_M", "models.hub.checkEndpoint", "fixed port 9000", "cmdStop with ${PID}",
		"models.far: proxy 10.0.0.9:1", "models.noport: cmd does not take its port", "models.nomodel: cmd names no model", `models.relative: the model "m/a.gguf"`,
		"models.lost: no volume", "groups.g: swap", "groups.g: exclusive", "groups.keep: persistent became pin", "preload: there is no model nothing"} {
		if !strings.Contains(all, part) {
			t.Errorf("no remark about %q in:\n%s", part, all)
		}
	}
	if strings.Contains(all, "groups.keep: swap") || strings.Contains(all, "secret") {
		t.Error(all)
	}
}

func TestRefused(t *testing.T) {
	for text, part := range map[string]string{
		"":          "no models",
		"a: [":      "no llama-swap configuration",
		"models: 5": "no llama-swap configuration",
		"models: {a: {cmd: 'x ${nope} --port ${PORT}'}}":                                      "${nope} is not defined",
		"macros: {a: '${b}', b: '${a}x'}\nmodels: {m: {cmd: '${a}'}}":                         "without end",
		"macros: {a: '${a}${a}${a}${a}${a}${a}${a}${a}${a}${a}'}\nmodels: {m: {cmd: '${a}'}}": "64 KiB",
		"models: {a: {cmd: \"x --port ${PORT} -m '/m\"}}":                                     "quote is not closed",
		"models: {a: {cmd: '# nothing'}}":                                                     "cmd is empty",
		"models: {a: {cmd: 'llama-server --port ${PORT} -m /m', env: ['no-equal']}}":          "KEY=VALUE",
	} {
		if _, _, err := Import([]byte(text)); err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%q: %v, want %q", text, err, part)
		}
	}
}

func TestSplit(t *testing.T) {
	for in, want := range map[string][]string{
		"a b":                 {"a", "b"},
		`a "b c" 'd "e' f\ g`: {"a", "b c", `d "e`, "f g"},
		"a \\\n  b\n\tc":      {"a", "b", "c"},
		`a ""`:                {"a", ""},
		`{"a":1}`:             {"{a:1}"},
		`'{"a":1}'`:           {`{"a":1}`},
		`"a\"b"`:              {`a"b`},
	} {
		got, err := split(in)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %q %v", in, got, err)
		}
	}
}

func FuzzImport(f *testing.F) {
	f.Add([]byte(whole))
	f.Add([]byte("models: {a: {cmd: 'vllm serve x --port ${PORT}'}}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		out, _, err := Import(data)
		if err != nil {
			return
		}
		for name, m := range out.Models {
			if e, ok := out.Engines[m.Engine]; m.Ref == "" || !ok || !strings.Contains(strings.Join(e.Command, " "), "{port}") {
				t.Errorf("%s: %+v %+v", name, m, e)
			}
		}
	})
}
