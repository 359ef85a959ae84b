package cli

import (
	"bytes"
	"testing"
)

func TestTablePlain(t *testing.T) {
	var b bytes.Buffer
	if err := newStyle(&b).table(&b, [][]string{{"A", "B"}, {"müller", "online"}, {"蜂", "-"}}); err != nil {
		t.Fatal(err)
	}
	if want := "A       B\nmüller  online\n蜂      -\n"; b.String() != want {
		t.Errorf("%q, want %q", b.String(), want)
	}
}

func TestTableInColour(t *testing.T) {
	s := style{head: "1", good: "32", bad: "31", warn: "33"}
	var b bytes.Buffer
	if err := s.table(&b, [][]string{{"A", "B"}, {"offline", "x"}}); err != nil {
		t.Fatal(err)
	}
	if want := "\x1b[1mA\x1b[0m        \x1b[1mB\x1b[0m\n\x1b[31moffline\x1b[0m  x\n"; b.String() != want {
		t.Errorf("%q, want %q", b.String(), want)
	}
}
