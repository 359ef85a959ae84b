package engine

import (
	"strings"
	"syscall"
	"testing"
	"unicode/utf8"
)

// TestReasons holds what engines write when they end against the sentence that a person reads.
func TestReasons(t *testing.T) {
	signs := newSigns()
	ended := exitStatus{known: true, code: 1}
	for _, tc := range []struct {
		log       string
		st        exitStatus
		ready     bool
		want      string
		code      string
		permanent bool
		port      bool
	}{
		{log: "E srv start: couldn't bind HTTP server socket, hostname: 127.0.0.1, port: 39111\nI srv cleaning up before exit...", st: ended, want: "port was taken", port: true},
		{log: "/opt/llama-server: error while loading shared libraries: libcudart.so.12: cannot open shared object file: No such file or directory", st: exitStatus{known: true, code: 127}, want: "libcudart.so.12", permanent: true},
		{log: "dyld[1]: Library not loaded: @rpath/libllama.dylib", st: ended, want: "@rpath/libllama.dylib", permanent: true},
		{log: "./x: /lib/libm.so.6: version `GLIBC_2.38' not found", st: ended, want: "newer system", permanent: true},
		{log: "ggml_backend_cuda_buffer_type_alloc_buffer: allocating 9000.00 MiB on device 0: cudaMalloc failed: out of memory\nllama_model_load: error loading model: unable to allocate CUDA0 buffer", st: ended, want: "not enough memory", code: "INSUFFICIENT_VRAM"},
		{log: "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB", st: ended, want: "not enough memory", code: "INSUFFICIENT_VRAM"},
		{log: "ValueError: No available memory for the cache blocks.", st: ended, want: "not enough memory", code: "INSUFFICIENT_VRAM"},
		{log: "llama_model_load: error loading model: unknown model architecture: 'gemma9'", st: ended, want: "newer engine", permanent: true},
		{log: "gguf_init_from_file_impl: invalid magic characters: 'hell', expected 'GGUF'", st: ended, want: "damaged or of the wrong kind", permanent: true},
		{log: "error: invalid argument: --foo", st: ended, want: "--foo", permanent: true},
		{log: "vllm: error: unrecognized arguments: --bar", st: exitStatus{known: true, code: 2}, want: "--bar", permanent: true},
		{log: "gguf_init_from_file: failed to open GGUF file '/x.gguf' (No such file or directory)", st: ended, want: "check that the file exists", permanent: true},
		{log: "llama_load_model_from_file: failed to load model\n[rbee] starting again\nall is well", st: exitStatus{known: true, signal: syscall.SIGKILL}, ready: true, want: "SIGKILL"},
		{log: "x", st: exitStatus{known: true, signal: syscall.SIGSEGV}, ready: true, want: "it crashed (segmentation fault); its last line was: x"},
		{log: "x", st: exitStatus{known: true, signal: syscall.SIGILL}, want: "newer processor"},
		{log: "", st: exitStatus{known: true, code: 3}, want: "exit code 3"},
		{log: "bye", st: exitStatus{known: true}, ready: true, want: "exit code 0; its last line was: bye"},
		{log: "", st: exitStatus{}, want: "its process is gone"},
		{log: "a request failed: No such file or directory", st: ended, ready: true, want: "check that the file exists"}, // not permanent: it served before
	} {
		v := explain(signs, tc.st, tc.ready, strings.Split(tc.log, "\n"))
		if !strings.Contains(v.message, tc.want) || v.code != tc.code || v.permanent != tc.permanent || v.port != tc.port {
			t.Errorf("%q:\n  %+v", tc.log, v)
		}
	}
}

func FuzzExplain(f *testing.F) {
	f.Add("cudaMalloc failed: out of memory\nbye", 1, 0)
	signs := newSigns()
	f.Fuzz(func(t *testing.T, log string, code, sig int) {
		v := explain(signs, exitStatus{known: true, code: code, signal: syscall.Signal(sig & 63)}, code%2 == 0, strings.Split(log, "\n"))
		if v.message == "" || len(v.message) > 2000 || utf8.ValidString(log) && !utf8.ValidString(v.message) {
			t.Errorf("%q", v.message)
		}
	})
}

func TestProgress(t *testing.T) {
	for line, want := range map[string]float64{"loading 40%": 0.4, "Loading safetensors checkpoint shards:  75% Completed | 3/4": 0.75, "loading": -1, "40% of people": -1, "loading %": -1, "loading 999%": -1} {
		got, ok := progress(line)
		if !ok {
			got = -1
		}
		if got != want {
			t.Errorf("%q: %v", line, got)
		}
	}
}

func TestSplitMetric(t *testing.T) {
	for line, want := range map[string][2]string{
		"llamacpp:requests_processing 2":    {"llamacpp:requests_processing", "2"},
		`vllm:num{model="a b",x="}"} 1.0 9`: {"vllm:num", "1.0"},
		"# TYPE x gauge":                    {"", ""},
		"x":                                 {"", ""},
		"x{":                                {"", ""},
		"x{}":                               {"", ""},
	} {
		n, v := splitMetric(line)
		if n != want[0] || v != want[1] {
			t.Errorf("%q: %q %q", line, n, v)
		}
	}
}
