package cli

import (
	"bytes"
	"strings"
	"testing"
)

func TestBarText(t *testing.T) {
	d := download{State: "downloading", BytesDone: 512 << 20, BytesTotal: 2 << 30, Rate: 64 << 20, ETA: 24}
	for width, want := range map[int]string{
		0: "downloading   25%  512 MiB of 2 GiB  64 MiB/s  24s left",
		8: "downloading  [==      ]   25%  512 MiB of 2 GiB  64 MiB/s  24s left",
	} {
		if got := barText(d, width); got != want {
			t.Errorf("width %d: %q", width, got)
		}
	}
	for _, odd := range []download{{State: "resolving"}, {State: "downloading", BytesDone: 5, BytesTotal: 3}, {State: "downloading", BytesTotal: 7}, {BytesDone: -1, BytesTotal: 9}} {
		if got := barText(odd, 10); strings.Contains(got, "-") || strings.Contains(got, "NaN") {
			t.Errorf("%+v: %q", odd, got)
		}
	}
}

func TestBarWithoutTerminal(t *testing.T) {
	var out bytes.Buffer
	b := newBar(&cli{errOut: &out})
	for i := range 1000 {
		b.show(download{State: "downloading", BytesDone: float64(i), BytesTotal: 1000}, false)
	}
	b.show(download{State: "ready"}, false)
	b.show(download{State: "ready", Message: "it is there"}, true)
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) < 2 || len(lines) > 4 || lines[len(lines)-1] != "it is there" || strings.ContainsAny(out.String(), "\r\x1b") {
		t.Fatalf("%q", out.String())
	}
}

func TestBarOnATerminal(t *testing.T) {
	var out bytes.Buffer
	b := &bar{a: &cli{errOut: &out}, terminal: true}
	b.show(download{State: "downloading", BytesDone: 1, BytesTotal: 2}, false)
	b.show(download{State: "ready", Message: "it is there"}, true)
	if got := out.String(); !strings.HasPrefix(got, "\rdownloading  [===============               ]") || !strings.HasSuffix(got, "\nit is there\n") {
		t.Fatalf("%q", got)
	}
}
