package engine

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

type entry struct {
	name, body, link string
	mode             int64
}

func tarball(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var buf bytes.Buffer
	gz := gzip.NewWriter(&buf)
	tw := tar.NewWriter(gz)
	for _, e := range entries {
		h := &tar.Header{Name: e.name, Mode: e.mode, Size: int64(len(e.body)), Typeflag: tar.TypeReg}
		if e.link != "" {
			h.Typeflag, h.Linkname = tar.TypeSymlink, e.link
		}
		if strings.HasSuffix(e.name, "/") {
			h.Typeflag = tar.TypeDir
		}
		if err := tw.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := tw.Write([]byte(e.body)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(tw.Close(), gz.Close()); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func sumOf(b []byte) string { return fmt.Sprintf("%x", sha256.Sum256(b)) }

// shelf serves archives and a release that names their digests.
func shelf(t *testing.T, files map[string][]byte) string {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := strings.TrimPrefix(r.URL.Path, "/")
		if name == "release" {
			var assets []string
			for n, b := range files {
				assets = append(assets, fmt.Sprintf(`{"name":%q,"digest":"sha256:%s"}`, n, sumOf(b)))
			}
			_, _ = fmt.Fprintf(w, `{"tag_name":"b1","assets":[{"name":"old","digest":null},%s]}`, strings.Join(assets, ","))
			return
		}
		if b, ok := files[name]; ok {
			_, _ = w.Write(b)
			return
		}
		http.NotFound(w, r)
	}))
	t.Cleanup(srv.Close)
	return srv.URL
}

func pkg(base, version, file, sum string) Package {
	p := Package{Engine: LlamaCpp, Version: version, OS: runtime.GOOS, Arch: runtime.GOARCH, Backend: "cpu", URL: base + "/" + file, SHA256: sum, Program: "llama-server"}
	if sum == "" {
		p.DigestURL = base + "/release"
	}
	return p
}

func script(body string) string { return "#!/bin/sh\n" + body + "\n" }

func TestInstallSwitchRollBack(t *testing.T) {
	good1 := tarball(t, entry{name: "build/"}, entry{name: "build/bin/llama-server", body: script("echo version one"), mode: 0o755}, entry{name: "build/bin/libx.so", link: "libx.so.1"}, entry{name: "build/bin/libx.so.1", body: "x", mode: 0o644})
	good2 := tarball(t, entry{name: "llama-server", body: script("echo version two"), mode: 0o755})
	sick := tarball(t, entry{name: "llama-server", body: script("echo broken >&2; exit 1"), mode: 0o755})
	base := shelf(t, map[string][]byte{"one.tar.gz": good1, "two.tgz": good2, "sick.tar.gz": sick, "empty.tar.gz": tarball(t)})
	dir := t.TempDir()
	in := NewInstaller(dir, InstallerOptions{})
	var steps []string
	if err := in.Install(t.Context(), pkg(base, "b1", "one.tar.gz", sumOf(good1)), func(_, _ int64, what string) { steps = append(steps, what) }); err != nil {
		t.Fatal(err)
	}
	if strings.Join(steps, " ") != "fetching unpacking trying" {
		t.Error(steps)
	}
	now := func() string {
		p, err := lookPath("llama-server", dir)
		if err != nil {
			t.Fatal(err)
		}
		real, _ := filepath.EvalSymlinks(p)
		rel, _ := filepath.Rel(dir, real)
		return rel
	}
	t.Setenv("LLAMA_SERVER", "")
	if now() != "llama.cpp/b1-cpu/build/bin/llama-server" {
		t.Error(now())
	}
	if err := in.Install(t.Context(), pkg(base, "b2", "two.tgz", ""), nil); err != nil {
		t.Fatal("with the release's digest:", err)
	}
	if now() != "llama.cpp/b2-cpu/llama-server" {
		t.Error(now())
	}
	for name, p := range map[string]Package{
		"a failing trial":        pkg(base, "b3", "sick.tar.gz", ""),
		"another sha256":         pkg(base, "b4", "one.tar.gz", sumOf(good2)),
		"nothing in it":          pkg(base, "b5", "empty.tar.gz", ""),
		"not there":              pkg(base, "b6", "none.tar.gz", sumOf(good1)),
		"no digest of the asset": pkg(base, "b7", "none.tar.gz", ""),
	} {
		err := in.Install(t.Context(), p, nil)
		var e *Error
		if !errors.As(err, &e) || e.Code() != "PROVISION_FAILED" {
			t.Errorf("%s: %v", name, err)
		}
	}
	if now() != "llama.cpp/b2-cpu/llama-server" || len(in.List()) != 2 {
		t.Error("a failure changed something:", now(), in.List())
	}
	if err := in.Use(LlamaCpp, "b1", ""); err != nil || !strings.Contains(now(), "b1-cpu") {
		t.Error(err, now())
	}
	var e *Error
	if err := in.Remove(LlamaCpp, "b1", ""); !errors.As(err, &e) || e.Code() != "CONFLICT" {
		t.Error("the active one was removed:", err)
	}
	if err := in.Remove(LlamaCpp, "b2", "cpu"); err != nil || len(in.List()) != 1 || !in.List()[0].Active {
		t.Error(err, in.List())
	}
	if err := in.Use(LlamaCpp, "b2", ""); err == nil {
		t.Error("what was removed is used")
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "tmp", "*")); len(left) > 0 {
		t.Error("left over:", left)
	}
}

// TestInstallRealEngine packs the machine's own llama-server, installs it from a file, and runs a model with it.
func TestInstallRealEngine(t *testing.T) {
	binary, err := os.ReadFile(llamaServer(t))
	if err != nil {
		t.Fatal(err)
	}
	model := stories(t)
	archive := tarball(t, entry{name: "llama-b1/llama-server", body: string(binary), mode: 0o755})
	file := filepath.Join(t.TempDir(), "llama.tar.gz")
	if err := os.WriteFile(file, archive, 0o600); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	p := pkg("", "b1", "", sumOf(archive))
	p.URL = "file://" + file
	if err := NewInstaller(dir, InstallerOptions{}).Install(t.Context(), p, nil); err != nil {
		t.Fatal(err)
	}
	t.Setenv("LLAMA_SERVER", "")
	s := supervisor(t, Options{EngineDir: dir})
	if _, err := s.Start(t.Context(), SpawnRequest{WorkerID: "w", Model: "m", ModelRef: "file:m", ModelPath: model, Engine: Spec{Name: LlamaCpp}, Context: 256, Args: []string{"-t", "1", "-tb", "1"}}); err != nil {
		t.Fatal(err)
	}
	rec := mustWait(t, s, "w")
	if real, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", rec.PID)); err != nil || !strings.HasPrefix(real, dir) {
		t.Error(real, err)
	}
	var source string
	for _, e := range s.Engines() {
		if e.Name == LlamaCpp {
			source = e.Source
		}
	}
	if source != "installed" {
		t.Error(source)
	}
}

func TestHostileArchives(t *testing.T) {
	ok := entry{name: "llama-server", body: script("true"), mode: 0o755}
	for name, entries := range map[string][]entry{
		"up":               {{name: "../evil", body: "x"}},
		"absolute":         {{name: "/tmp/evil", body: "x"}},
		"backslash":        {{name: `..\evil`, body: "x"}},
		"link up":          {{name: "l", link: "../../etc"}},
		"absolute link":    {{name: "l", link: "/etc"}},
		"through a link":   {{name: "a/l", link: "../b"}, {name: "b", link: "a"}, {name: "a/l/../../x", body: "x"}},
		"twice":            {ok, ok},
		"link then file":   {{name: "l", link: "llama-server"}, ok, {name: "l", body: "x"}},
		"more than agreed": {{name: "big", body: strings.Repeat("x", 5000)}},
	} {
		b := tarball(t, entries...)
		base := shelf(t, map[string][]byte{"x.tar.gz": b})
		dir := t.TempDir()
		limit := int64(4000)
		err := NewInstaller(dir, InstallerOptions{MaxBytes: limit}).Install(t.Context(), pkg(base, "v", "x.tar.gz", sumOf(b)), nil)
		if err == nil {
			t.Errorf("%s: installed", name)
		}
	}
	for _, bad := range []func(*Package){
		func(p *Package) { p.URL = "http://example.com/x.tar.gz" },
		func(p *Package) { p.URL = "https://user:pw@example.com/x" },
		func(p *Package) { p.URL = "file:x" },
		func(p *Package) { p.URL = "ftp://127.0.0.1/x" },
		func(p *Package) { p.SHA256 = "" },
		func(p *Package) { p.SHA256 = "abc" },
		func(p *Package) { p.Version = "../x" },
		func(p *Package) { p.Engine = "bin" },
		func(p *Package) { p.Program = "a/b" },
		func(p *Package) { p.OS = "plan9" },
		func(p *Package) { p.DigestURL, p.SHA256 = "http://169.254.169.254/", "" },
	} {
		p := pkg("https://example.com", "v", "x.tar.gz", strings.Repeat("a", 64))
		bad(&p)
		var e *Error
		if err := NewInstaller(t.TempDir(), InstallerOptions{}).Install(t.Context(), p, nil); !errors.As(err, &e) || e.Code() != "INVALID_REQUEST" {
			t.Errorf("%+v: %v", p, err)
		}
	}
}

// TestRedirects: a download is never led to an address that is not allowed.
func TestRedirects(t *testing.T) {
	srv := httptest.NewServer(http.RedirectHandler("http://169.254.169.254/latest", http.StatusFound))
	defer srv.Close()
	err := NewInstaller(t.TempDir(), InstallerOptions{}).Install(t.Context(), pkg(srv.URL, "v", "x.tar.gz", strings.Repeat("a", 64)), nil)
	if err == nil || !strings.Contains(err.Error(), "engines come from https:") {
		t.Error(err)
	}
}

func TestCatalog(t *testing.T) {
	c, err := ParseCatalog(strings.NewReader(`{"packages":[
	 {"engine":"llama.cpp","version":"b1","os":"linux","arch":"amd64","backend":"cpu","url":"https://x/a.tar.gz","digest_url":"https://x/r","program":"llama-server"},
	 {"engine":"llama.cpp","version":"b1","os":"linux","arch":"amd64","backend":"cuda","url":"https://x/b.tar.gz","digest_url":"https://x/r","program":"llama-server"},
	 {"engine":"llama.cpp","version":"b2","os":"darwin","arch":"arm64","backend":"metal","url":"https://x/c.zip","digest_url":"https://x/r","program":"llama-server"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	if got := c.Fitting(LlamaCpp, "", "linux", "amd64", []string{"cuda", "vulkan", "cpu"}); len(got) != 2 || got[0].Backend != "cuda" || got[1].Backend != "cpu" {
		t.Errorf("%+v", got)
	}
	for _, bad := range []string{"", "[]", `{"what":1}`, `{"packages":[{"engine":"x"}]}`} {
		if _, err := ParseCatalog(strings.NewReader(bad)); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

func TestZip(t *testing.T) {
	var buf bytes.Buffer
	zw := zip.NewWriter(&buf)
	h := &zip.FileHeader{Name: "d/llama-server"}
	h.SetMode(0o755)
	w, err := zw.CreateHeader(h)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = w.Write([]byte(script("true")))
	if err := zw.Close(); err != nil {
		t.Fatal(err)
	}
	base := shelf(t, map[string][]byte{"x.zip": buf.Bytes(), "llama-server-static": []byte(script("true"))})
	in := NewInstaller(t.TempDir(), InstallerOptions{})
	if err := in.Install(t.Context(), pkg(base, "v", "x.zip", sumOf(buf.Bytes())), nil); err != nil {
		t.Error(err)
	}
	if err := in.Install(t.Context(), pkg(base, "v2", "llama-server-static", ""), nil); err != nil {
		t.Error("a bare program:", err)
	}
}

func FuzzUnpack(f *testing.F) {
	f.Add(tarball(f, entry{name: "a/b", body: "x", mode: 0o755}, entry{name: "l", link: "a"}), true)
	f.Add([]byte("PK\x03\x04"), false)
	f.Fuzz(func(t *testing.T, b []byte, gz bool) {
		dir := t.TempDir()
		file := filepath.Join(dir, "x")
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
		p := Package{URL: "x.zip"}
		if gz {
			p.URL = "x.tar.gz"
		}
		_ = unpack(file, p, filepath.Join(dir, "tree"), 1<<20)
		if names, _ := filepath.Glob(filepath.Join(dir, "*")); len(names) > 2 {
			t.Error("something is outside:", names)
		}
	})
}

func FuzzCatalog(f *testing.F) {
	f.Add([]byte(`{"packages":[]}`), "x")
	f.Fuzz(func(_ *testing.T, b []byte, asset string) {
		_, _ = ParseCatalog(bytes.NewReader(b))
		_, _ = releaseDigest(b, asset)
	})
}
