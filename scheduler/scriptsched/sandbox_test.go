package scriptsched

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"
)

// bombs are hostile bodies of schedule, each a script that must be stopped.
var bombs = map[string]string{
	"loop":              "for i in range(100000):\n        for j in range(100000):\n            pass",
	"string product":    "x = 'a' * 1000000000",
	"product backwards": "x = 1000000000 * 'a'",
	"list product":      "x = [0] * 1000000000",
	"doubling":          "x = 'a'\n    for i in range(60):\n        x = x + x",
	"doubling in place": "x = 'a'\n    for i in range(60):\n        x += x",
	"list doubling":     "x = [1]\n    for i in range(60):\n        x += x",
	"extend itself":     "x = [1]\n    for i in range(60):\n        x.extend(x)",
	"extend, hidden":    "x = [1]\n    f = x.extend\n    for i in range(60):\n        f(x)",
	"getattr":           "x = [1]\n    for i in range(60):\n        getattr(x, 'extend')(x)",
	"join":              "x = 'aaaaaaaaaa'\n    for i in range(60):\n        x = x.join([x, x, x])",
	"replace":           "x = 'aa'\n    for i in range(60):\n        x = x.replace('a', 'aaaa')",
	"format":            "x = 'aaaaaaaaaa'\n    for i in range(60):\n        x = '{0}{0}{0}'.format(x)",
	"percent":           "x = 'aaaaaaaaaa'\n    for i in range(60):\n        x = '%s%s%s' % (x, x, x)",
	"range":             "x = list(range(1000000000))",
	"long range":        "x = max(range(1000000000))",
	"big integer":       "x = 3\n    for i in range(60):\n        x = x * x",
	"shift":             "x = 1\n    for i in range(100000):\n        x = x << 500",
	"nested str":        "x = [1]\n    for i in range(60):\n        x = [x, x]\n    y = str(x)",
	"nested hash":       "x = (1,)\n    for i in range(60):\n        x = (x, x)\n    y = {x: 1}",
	"nested zip":        "x = 1\n    for i in range(60):\n        x = zip([x], [x])[0]\n    y = {x: 1}",
	"nested items":      "x = 1\n    for i in range(60):\n        x = {x: x}.items()[0]\n    y = {x: 1}",
	"nested equality":   "def mk():\n        a = [0] * 100\n        for i in range(6):\n            a = [a] * 100\n        return a\n    x, y = mk(), mk()\n    z = x == y",
	"slices":            "x = [0] * 100000\n    y = [x[:] for i in range(100000)]",
	"split":             "x = 'a ' * 500000\n    y = [x.split() for i in range(1000)]",
	"int":               "x = int('9' * 1000000)",
	"dict":              "d = {}\n    for i in range(100000):\n        for j in range(1000):\n            d[i * 1000 + j] = 'x' * 1000",
	"sorted":            "x = sorted(['a' * 100000 for i in range(1000)])",
	"recursion":         "def f(n):\n        return f(n + 1)\n    f(0)",
	"fail":              "x = [1]\n    for i in range(60):\n        x = [x, x]\n    fail(x)",
	"upper":             "x = 'a' * 4000000\n    y = [x.upper() for i in range(1000)]",
}

// TestFaultPolicies: every bomb is stopped below 64 MiB, in bounded time, with an error of ours.
func TestFaultPolicies(t *testing.T) {
	for name, body := range bombs {
		p, err := Compile("bomb.star", []byte("def schedule(job, workers, hives):\n    "+body+"\n    return native()\n"), Limits{})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		runtime.GC()
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err = decide(p)
		runtime.ReadMemStats(&after)
		var se *ScriptError
		if !errors.As(err, &se) {
			t.Errorf("%s was not stopped: %v", name, err)
		}
		if grown := after.TotalAlloc - before.TotalAlloc; grown > 64<<20 {
			t.Errorf("%s allocated %d MiB", name, grown>>20)
		}
	}
}

func TestLimitsAreNamed(t *testing.T) {
	for src, want := range map[string]error{
		"for i in range(100000):\n        for j in range(100000):\n            pass": ErrSteps,
		"x = 'a' * 1000000000": ErrMemory,
	} {
		p, err := Compile("p.star", []byte("def schedule(job, workers, hives):\n    "+src+"\n"), Limits{Time: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := decide(p); !errors.Is(err, want) {
			t.Errorf("got %v, want %v", err, want)
		}
	}
	p, err := Compile("p.star", []byte("def schedule(job, workers, hives):\n    for i in range(100000):\n        for j in range(100000):\n            pass\n"), Limits{Steps: 1 << 40, Time: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := decide(p); !errors.Is(err, ErrTime) {
		t.Errorf("got %v, want %v", err, ErrTime)
	}
}

// At the top level the same budgets hold.
func TestBombAtTopLevel(t *testing.T) {
	if _, err := Compile("p.star", []byte("x = [i for i in range(100000) for j in range(1000)]\n"), Limits{}); !errors.Is(err, ErrSteps) && !errors.Is(err, ErrTime) {
		t.Errorf("got %v", err)
	}
}

// FuzzSandbox: no source crashes, hangs or grows the process.
func FuzzSandbox(f *testing.F) {
	for _, body := range bombs {
		f.Add("def schedule(job, workers, hives):\n    " + body + "\n    return native()\n")
	}
	files, err := filepath.Glob("policies/*.star")
	if err != nil || len(files) < 7 {
		f.Fatalf("policies: %v %v", files, err)
	}
	for _, name := range files {
		src, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(src))
	}
	f.Fuzz(func(t *testing.T, src string) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		p, err := Compile("f.star", []byte(src), Limits{})
		if err == nil {
			_, _ = decide(p)
		}
		runtime.ReadMemStats(&after)
		if grown := after.TotalAlloc - before.TotalAlloc; grown > 128<<20 {
			t.Fatalf("allocated %d MiB", grown>>20)
		}
	})
}

// FuzzRules: YAML rules compile or are refused; what compiles is valid Starlark.
func FuzzRules(f *testing.F) {
	f.Add("rules:\n- name: x\n  when: {model: 'a*', hours: 22-6}\n  then: {queue: later}\ndefault: cheapest\n")
	f.Add("rules:\n- when: {labels: {a: b}}\n  then: {use: sticky, label: {region: eu}}\n")
	f.Fuzz(func(t *testing.T, src string) {
		out, err := Rules("f.yaml", []byte(src))
		if err != nil || bounded([]byte(out)) != nil {
			return
		}
		if _, err := Compile("f.star", []byte(out), Limits{Time: time.Minute}); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	})
}
