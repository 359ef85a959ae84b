package provisioner_test

import (
	"path"
	"strings"
	"testing"
	"unicode"

	"github.com/queen-rbee/queen-rbee/provisioner"
)

func TestParseRef(t *testing.T) {
	for in, want := range map[string]string{
		"hf:org/repo":                              "hf:org/repo",
		"hf:org/repo@main::file=a/b-Q4_K_M.gguf":   "hf:org/repo@main::file=a/b-Q4_K_M.gguf",
		"hf:org/repo@refs/pr/1":                    "hf:org/repo@refs/pr/1",
		"hf:o/r::file=with space (1).gguf":         "hf:o/r::file=with space (1).gguf",
		"file:/models/x y.gguf":                    "file:/models/x y.gguf",
		"ollama:llama3":                            "ollama:llama3",
		"ollama:library/llama3:8b-q4":              "ollama:library/llama3:8b-q4",
		"sim:demo":                                 "sim:demo",
		"sim:demo?slots=4&ttft=50ms":               "sim:demo?slots=4&ttft=50ms",
		"sim:demo?ttft=50ms&slots=4":               "sim:demo?slots=4&ttft=50ms",
		"llama3":                                   "llama3",
		"qwen2.5:7b":                               "qwen2.5:7b",
		"meta-llama/Llama-3":                       "meta-llama/Llama-3",
		"https://Example.com/m.gguf?download=true": "https://example.com/m.gguf?download=true",
		"hf:org/repo@" + strings.Repeat("a", 40):   "hf:org/repo@" + strings.Repeat("a", 40),
	} {
		r, err := provisioner.ParseRef(in)
		if err != nil || r.String() != want {
			t.Errorf("%q: %q %v", in, r.String(), err)
		}
	}
	for _, in := range []string{
		"", "-x", "--help", "../x", "..", `..\x`, "a\x00b", "a\nb", "a\x7fb", "a\u202eb", "\xff", strings.Repeat("a", 513),
		"hf:", "hf:org", "hf:org/", "hf:/repo", "hf:org/repo/x", "hf:-org/repo", "hf:org/-repo", "hf:org/repo@", "hf:org/repo@-x", "hf:org/repo@a/../b",
		"hf:org/repo::file=", "hf:org/repo::file=/abs", "hf:org/repo::file=../x", "hf:org/repo::file=a/../b", "hf:org/repo::file=-x", "hf:org/repo::file=a//b",
		"hf:org/repo::file=a/./b", `hf:org/repo::file=a\b`, "hf:org/repo::other=x", "hf:org/repo::file=C:/x",
		"file:x", "file:", "file:/", "file:/a/../b", "file:/a//b", "file:/a/", "file:/a/./b", `file:/a\..\b`,
		"ollama:", "ollama:-x", "ollama:a:", "ollama:a:b:c", "ollama:a/b/c/d", "sim:", "sim:-x", "sim:a b", "sim:x?memory=lots", "sim:x?load=-1s", "sim:x?slots=0", "sim:x?a=1&a=2", "sim:x?%ff",
		"http://x/y", "https://", "https://x", "https://x/", "https://u:p@x/y", "https://x/y#z", "https://x/%2e%2e/y", "https://x/%00", "s3:x", "sha256:../x", "sha256:abc",
		"a b", "a//b", "a/", "a/-b", "$(x)", "a;b", "a?b",
	} {
		if r, err := provisioner.ParseRef(in); code(err) != "INVALID_MODEL_REF" {
			t.Errorf("%q was taken as %+v (%v)", in, r, err)
		}
	}
}

func FuzzParseRef(f *testing.F) {
	for _, s := range []string{"hf:o/r@main::file=a/b.gguf", "file:/a/b", "ollama:a:b", "sim:x?ttft=1s", "name", "https://h/p?q=1", "../x", "hf:o/r::file=%2e%2e/x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := provisioner.ParseRef(s)
		if err != nil {
			if code(err) != "INVALID_MODEL_REF" {
				t.Fatalf("%q: an error without the code: %v", s, err)
			}
			return
		}
		out := r.String()
		if len(out) > provisioner.MaxRef || strings.HasPrefix(out, "-") || strings.Contains(out, "..") || strings.ContainsFunc(out, unicode.IsControl) {
			t.Fatalf("%q gave %q", s, out)
		}
		again, err := provisioner.ParseRef(out)
		if err != nil || again.String() != out || again.Scheme != r.Scheme {
			t.Fatalf("%q: %q is not canonical: %q %v", s, out, again.String(), err)
		}
		if r.Scheme == provisioner.SchemeFile && (!path.IsAbs(r.Path) || path.Clean(r.Path) != r.Path) {
			t.Fatalf("%q gave the path %q", s, r.Path)
		}
		if r.File != "" && (path.IsAbs(r.File) || path.Clean(r.File) != r.File) {
			t.Fatalf("%q gave the file %q", s, r.File)
		}
	})
}
