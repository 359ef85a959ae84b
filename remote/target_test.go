package remote

import (
	"errors"
	"os/exec"
	"strings"
	"testing"
)

func TestTargets(t *testing.T) {
	for s, want := range map[string]Target{
		"gpu1":              {Host: "gpu1"},
		"ops@gpu1:2222":     {User: "ops", Host: "gpu1", Port: 2222},
		"a.b@example.org":   {User: "a.b", Host: "example.org"},
		"me@corp.example@h": {User: "me@corp.example", Host: "h"},
		"[fe80::1%eth0]:22": {Host: "fe80::1%eth0", Port: 22},
		"[2001:db8::1]":     {Host: "2001:db8::1"},
		"2001:db8::1":       {Host: "2001:db8::1"},
		"10.0.0.1:65535":    {Host: "10.0.0.1", Port: 65535},
	} {
		got, err := ParseTarget(s)
		if err != nil || got.User != want.User || got.Host != want.Host || got.Port != want.Port {
			t.Errorf("%q: %+v %v", s, got, err)
		}
	}
	for _, s := range []string{
		"", "@", "@h", "-oProxyCommand=id", "u@-h", "-u@h", "h:0", "h:65536", "h:x", "h:-1", "a b", "u@h;id", "$(id)", "`id`", "u@h\nx",
		"h\x00", "h\x1b[2J", "u'@h", "h/../x", "h#x", "[::1", "%2d", "u@h|x", "u@h&", "~", "*", "h\\x", strings.Repeat("a", 254),
	} {
		_, err := ParseTarget(s)
		var te *TargetError
		if !errors.As(err, &te) || te.Code() != "INVALID_REQUEST" {
			t.Errorf("%q: %v", s, err)
		}
	}
	for _, bad := range []Target{
		{Host: "h", KnownHosts: "no"}, {Host: "h", Identity: "-i"}, {Host: "h", Identity: "a\nb"}, {Host: "h", Jump: make([]Target, 9)},
		{Host: "h", Jump: []Target{{Host: "-j"}}}, {Host: "h", Jump: []Target{{Host: "j", Jump: []Target{{Host: "k"}}}}},
	} {
		if bad.Check() == nil {
			t.Errorf("%+v is accepted", bad)
		}
	}
}

func FuzzParseTarget(f *testing.F) {
	for _, s := range []string{"u@h:22", "[::1]:22", "-x", "a@b@c", "h%eth0"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := ParseTarget(s)
		if err != nil {
			return
		}
		if strings.HasPrefix(got.Host, "-") || strings.HasPrefix(got.User, "-") || strings.ContainsAny(got.Host+got.User, " \t\r\n\x00'\"$`;|&<>(){}*?!#~\\/") {
			t.Fatalf("%q became %+v", s, got)
		}
		again, err := ParseTarget(got.String())
		if err != nil || again.Host != got.Host || again.User != got.User {
			t.Fatalf("%q -> %q -> %+v %v", s, got.String(), again, err)
		}
	})
}

func FuzzQuote(f *testing.F) {
	f.Add("a'b")
	f.Add("$(id)\n`x`")
	f.Fuzz(func(t *testing.T, s string) {
		if strings.ContainsRune(s, 0) {
			return
		}
		out, err := exec.Command("sh", "-c", "printf %s "+Quote(s)).Output()
		if err != nil || string(out) != s {
			t.Fatalf("%q became %q: %v", s, out, err)
		}
	})
}
