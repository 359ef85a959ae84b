package strict

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

func TestObject(t *testing.T) {
	var got []string
	err := Object([]byte(` { "a" : [1, {"b":null}] ,"\u0063":"d\n" } `), 8, func(k, v []byte) error {
		got = append(got, string(k)+"="+string(v))
		return nil
	})
	if diff := cmp.Diff([]string{`a=[1, {"b":null}]`, `c="d\n"`}, got); err != nil || diff != "" {
		t.Fatal(err, diff)
	}
	stop := errors.New("stop")
	if err := Object([]byte(`{"a":1}`), 8, func(_, _ []byte) error { return stop }); !errors.Is(err, stop) {
		t.Fatal(err)
	}
}

func TestManyKeys(t *testing.T) {
	var b strings.Builder
	b.WriteByte('{')
	for i := range 200_000 {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(`"k`)
		b.WriteString(strings.Repeat("x", i%7))
		b.WriteString(string(rune('a'+i%26)) + string(jsonInt(i)) + `":0`)
	}
	if err := Object([]byte(b.String()+"}"), 8, nil); err != nil {
		t.Fatal(err)
	}
	if err := Object([]byte(b.String()+`,"ka0":1}`), 8, nil); err == nil {
		t.Fatal("a late duplicate passed")
	}
}

func jsonInt(i int) []byte { b, _ := json.Marshal(i); return b }

func TestDepth(t *testing.T) {
	for n, ok := range map[int]bool{3: true, 4: false} {
		if err := Value([]byte(strings.Repeat("[", n)+strings.Repeat("]", n)), 3); (err == nil) != ok {
			t.Errorf("%d: %v", n, err)
		}
	}
}

func TestHelpers(t *testing.T) {
	if s, ok := String([]byte(`"a\u00e9\n"`)); !ok || s != "aé\n" {
		t.Errorf("%q %v", s, ok)
	}
	if n := Chars([]byte(`"a\u00e9\n\"é"`)); n != 5 {
		t.Error(n)
	}
	var got []string
	if !Elements([]byte(`[ 1, "a,b" ,[2]]`), func(v []byte) bool { got = append(got, string(v)); return true }) || cmp.Diff([]string{"1", `"a,b"`, "[2]"}, got) != "" {
		t.Error(got)
	}
	if Elements([]byte(`{}`), nil) || Members([]byte(`[]`), nil) || Members([]byte(`{"a":1}`), func(_, _ []byte) bool { return false }) {
		t.Error("the wrong kind was walked, or a stop was not seen")
	}
}

// hasDuplicates is the slow, obvious way to find a key twice.
func hasDuplicates(d *json.Decoder) (bool, error) {
	tok, err := d.Token()
	if err != nil {
		return false, err
	}
	delim, ok := tok.(json.Delim)
	if !ok {
		return false, nil
	}
	seen := map[string]bool{}
	for d.More() {
		if delim == '{' {
			k, err := d.Token()
			if err != nil {
				return false, err
			}
			if seen[k.(string)] {
				return true, nil
			}
			seen[k.(string)] = true
		}
		if dup, err := hasDuplicates(d); dup || err != nil {
			return dup, err
		}
	}
	_, err = d.Token()
	return false, err
}

// FuzzValue holds the scanner against encoding/json: it accepts what that accepts, less duplicates, invalid UTF-8 and
// numbers beyond float64.
func FuzzValue(f *testing.F) {
	for _, s := range []string{`{"a":[1,2.5e3,-0,true,null,"x\u0041"]}`, `{"a":1,"a":2}`, `1e999`, `[]]`, "\"\xff\"", `{"a":1,}`, `01`, `"\ud800"`, `-`, `1.`, `{"":0,"":1}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if bytes.Count(b, []byte("[")) > 500 || bytes.Count(b, []byte("{")) > 500 {
			return
		}
		err := Value(b, 1000)
		want := json.Valid(b) && utf8.Valid(b)
		if err == nil && !want {
			t.Fatalf("accepted %q", b)
		}
		if err == nil {
			d := json.NewDecoder(bytes.NewReader(b))
			if dup, derr := hasDuplicates(d); dup || (derr != nil && derr != io.EOF && !strings.Contains(derr.Error(), "cannot unmarshal")) {
				t.Fatalf("accepted %q: duplicate %v, %v", b, dup, derr)
			}
			return
		}
		var bad *Error
		if !errors.As(err, &bad) {
			t.Fatalf("%T", err)
		}
		if want && bad.Key == "" && bad.Reason != "number out of range" && bad.Reason != "duplicate key" {
			t.Fatalf("refused %q: %v", b, err)
		}
	})
}

func BenchmarkObject(b *testing.B) {
	body := []byte(`{"model":"stories","messages":[{"role":"system","content":"` + strings.Repeat("You are a helpful assistant. ", 20) +
		`"},{"role":"user","content":"` + strings.Repeat("Tell me about bees. ", 20) + `"}],"max_tokens":64,"temperature":0.7,"stream":true}`)
	b.Run("strict", func(b *testing.B) {
		b.SetBytes(int64(len(body)))
		for b.Loop() {
			if err := Object(body, 128, func(_, _ []byte) error { return nil }); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("encoding-json", func(b *testing.B) {
		b.SetBytes(int64(len(body)))
		for b.Loop() {
			var v struct {
				Model    string
				Messages json.RawMessage
				Stream   bool
			}
			if err := json.Unmarshal(body, &v); err != nil {
				b.Fatal(err)
			}
		}
	})
}
