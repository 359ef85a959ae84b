package hivelifecycle

import (
	"os/exec"
	"strings"
	"testing"
)

func FuzzParseState(f *testing.F) {
	f.Add([]byte(`{"pid":12,"start_time":"x","address":"127.0.0.1:80","id":"hive_1","version":"v"}`))
	f.Add([]byte(`{"pid":-1,"address":"http://h:1/"}`))
	f.Add([]byte("\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := parseState(b)
		if err == nil && (s.PID <= 1 || strings.ContainsAny(s.Address, "/@ \n")) {
			t.Fatalf("%q became %+v", b, s)
		}
	})
}

func FuzzParseFacts(f *testing.F) {
	f.Add("uname=Linux x86_64\nwritable=1\ndir=/d\nbin=/b\nfree=12\npid=4\nstate:\n{}")
	f.Add("uname=Darwin arm64\nwritable=1\ndir=d")
	f.Fuzz(func(t *testing.T, out string) {
		got, writable, err := parseFacts(out)
		if err == nil && writable && (!strings.HasPrefix(got.Dir, "/") || got.Arch == "" || got.PID == 1) {
			t.Fatalf("%q became %+v", out, got)
		}
	})
}

func FuzzQuote(f *testing.F) {
	f.Add("it's $(id) `x` \\ \n é")
	f.Fuzz(func(t *testing.T, s string) {
		if strings.ContainsRune(s, 0) {
			return
		}
		out, err := exec.Command("sh", "-c", "printf %s "+quote(s)).Output()
		if err != nil || string(out) != s {
			t.Fatalf("%q became %q: %v", s, out, err)
		}
	})
}

func TestReadyLine(t *testing.T) {
	for out, want := range map[string]string{
		"ready http://127.0.0.1:7\n":              "127.0.0.1:7",
		"hello\nready http://[::1]:7\nmore\n":     "[::1]:7",
		"ready http://127.0.0.1:7":                "", // the line is not complete
		"ready http://evil@127.0.0.1:7\n":         "",
		"ready https://127.0.0.1:7\n":             "",
		"already http://127.0.0.1:7\nready now\n": "",
	} {
		if got, ok := readyLine([]byte(out)); got != want || ok != (want != "") {
			t.Errorf("%q: %q %v", out, got, ok)
		}
	}
}

func TestUnitQuote(t *testing.T) {
	if got := unitQuote(`a "b" $c %d \e`); got != `"a \"b\" $$c %%d \\e"` {
		t.Fatal(got)
	}
}
