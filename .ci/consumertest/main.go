// Command consumertest proves that each module of the workspace can be used from outside: it packs every module into a
// file:// module proxy and then, in an empty directory with a fresh module cache, gets, tidies and builds a program that
// imports it. Where docs/embed has a page for the module, the program is the page's: it is run too, and must print what
// the page says. Commands are installed instead.
package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/mod/modfile"
	"golang.org/x/mod/module"
	"golang.org/x/mod/zip"
)

const version = "v0.1.0"

type mod struct {
	Path, Dir string
}

func main() {
	root := flag.String("root", "../..", "the checkout")
	dir := flag.String("pack", "", "only pack the modules, into this directory")
	flag.Parse()
	err := error(nil)
	if *dir != "" {
		_, err = packAll(*root, *dir)
	} else {
		err = run(*root)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "consumer-test:", err)
		os.Exit(1)
	}
}

func run(root string) error {
	work, err := os.MkdirTemp("", "consumer-test")
	if err != nil {
		return err
	}
	defer func() {
		_ = exec.Command("chmod", "-R", "u+w", work).Run() // the module cache is read-only
		_ = os.RemoveAll(work)
	}()
	proxy := filepath.Join(work, "proxy")
	mods, err := packAll(root, proxy)
	if err != nil {
		return err
	}
	env, err := environment(work, proxy)
	if err != nil {
		return err
	}
	failed := 0
	for i, m := range mods {
		pg, err := embedPage(root, m)
		if err == nil {
			err = consume(filepath.Join(work, fmt.Sprint("p", i)), m, pg, env)
		}
		if err != nil {
			say("consumer %s: FAILED\n%v\n", m.Path, err)
			failed++
			continue
		}
		did := "gets, tidies, builds"
		if pg.program != "" {
			did += ", prints what its page says"
		}
		say("consumer %s: %s\n", m.Path, did)
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d modules cannot be used from outside", failed, len(mods))
	}
	say("consumer-test: %d modules\n", len(mods))
	return nil
}

// packAll packs every module into a module proxy.
func packAll(root, proxy string) ([]mod, error) {
	mods, err := modules(root)
	if err != nil {
		return nil, err
	}
	for _, m := range mods {
		if err := pack(proxy, m); err != nil {
			return nil, fmt.Errorf("pack %s: %w", m.Path, err)
		}
	}
	return mods, nil
}

func modules(root string) ([]mod, error) {
	cmd := exec.Command("go", "list", "-m", "-json")
	cmd.Dir, cmd.Env = root, append(os.Environ(), "GOWORK=")
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go list -m: %w", err)
	}
	var mods []mod
	for dec := json.NewDecoder(bytes.NewReader(out)); dec.More(); {
		var m mod
		if err := dec.Decode(&m); err != nil {
			return nil, err
		}
		if !testsOnly(m.Dir) {
			mods = append(mods, m)
		}
	}
	return mods, nil
}

// pack writes one module's .info, .mod and .zip, as it will be released: without replace lines.
func pack(proxy string, m mod) error {
	escaped, err := module.EscapePath(m.Path)
	if err != nil {
		return err
	}
	dir := filepath.Join(proxy, escaped, "@v")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	gomod, err := released(filepath.Join(m.Dir, "go.mod"))
	if err != nil {
		return err
	}
	staged, err := stage(m.Dir, gomod)
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(staged) }()
	f, err := os.Create(filepath.Join(dir, version+".zip"))
	if err != nil {
		return err
	}
	if err := zip.CreateFromDir(f, module.Version{Path: m.Path, Version: version}, staged); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	for name, data := range map[string][]byte{version + ".mod": gomod, version + ".info": []byte(`{"Version":"` + version + `"}`), "list": []byte(version + "\n")} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			return err
		}
	}
	return nil
}

func released(path string) ([]byte, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	f, err := modfile.Parse(path, data, nil)
	if err != nil {
		return nil, err
	}
	for _, r := range f.Replace {
		if err := f.DropReplace(r.Old.Path, r.Old.Version); err != nil {
			return nil, err
		}
	}
	f.Cleanup()
	return f.Format()
}

// stage copies what git knows of a module to a directory of its own.
func stage(dir string, gomod []byte) (string, error) {
	list := exec.Command("git", "ls-files", "-co", "--exclude-standard", "-z", ".")
	list.Dir = dir
	out, err := list.Output()
	if err != nil {
		return "", fmt.Errorf("git ls-files: %w", err)
	}
	to, err := os.MkdirTemp("", "module")
	if err != nil {
		return "", err
	}
	for _, name := range strings.Split(strings.TrimRight(string(out), "\x00"), "\x00") {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if os.IsNotExist(err) {
			continue
		}
		if err != nil {
			return to, err
		}
		if name == "go.mod" {
			data = gomod
		}
		path := filepath.Join(to, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return to, err
		}
		if err := os.WriteFile(path, data, 0o644); err != nil {
			return to, err
		}
	}
	return to, nil
}

func environment(work, proxy string) ([]string, error) {
	out, err := exec.Command("go", "env", "GOPROXY", "GOMODCACHE").Output()
	if err != nil {
		return nil, err
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	cache := "file://" + filepath.Join(lines[1], "cache", "download")
	return append(os.Environ(), "GOWORK=off", "GOFLAGS=-trimpath -mod=mod -modcacherw", "GOMODCACHE="+filepath.Join(work, "cache"),
		"GOPROXY=file://"+proxy+","+cache+","+lines[0], "GONOSUMDB=github.com/queen-rbee/*", "GOBIN="+filepath.Join(work, "bin")), nil
}

// consume uses one module as somebody else would.
func consume(dir string, m mod, p page, env []string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	do := func(args ...string) error {
		cmd := exec.Command("go", args...)
		cmd.Dir, cmd.Env = dir, env
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, out)
		}
		return nil
	}
	if strings.Contains(m.Path, "/cmd/") || isCommand(m.Dir) {
		return do("install", m.Path+"@"+version)
	}
	if !hasPackage(m.Dir) {
		return fmt.Errorf("the module has no package at its root")
	}
	program := p.program
	if program == "" {
		program = "package main\n\nimport _ \"" + m.Path + "\"\n\nfunc main() {}\n"
	}
	files := map[string]string{"go.mod": "module example.com/consumer\n\ngo 1.26.0\n", "main.go": program}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	for _, args := range [][]string{{"get", m.Path + "@" + version}, {"mod", "tidy"}, {"build", "-o", "consumer", "."}} {
		if err := do(args...); err != nil {
			return err
		}
	}
	if p.program == "" {
		return nil
	}
	return runProgram(filepath.Join(dir, "consumer"), p)
}

// testsOnly says whether a module holds nothing but tests and a package comment.
func testsOnly(dir string) bool {
	files, _ := filepath.Glob(filepath.Join(dir, "*.go"))
	for _, f := range files {
		if name := filepath.Base(f); !strings.HasSuffix(name, "_test.go") && name != "doc.go" {
			return false
		}
	}
	return len(files) > 0
}

func hasPackage(dir string) bool {
	files, _ := filepath.Glob(filepath.Join(dir, "*.go"))
	for _, f := range files {
		if !strings.HasSuffix(f, "_test.go") {
			return true
		}
	}
	return false
}

func isCommand(dir string) bool {
	data, err := os.ReadFile(filepath.Join(dir, "main.go"))
	return err == nil && bytes.Contains(data, []byte("\npackage main\n"))
}

func say(format string, v ...any) { _, _ = fmt.Fprintf(os.Stdout, format, v...) }
