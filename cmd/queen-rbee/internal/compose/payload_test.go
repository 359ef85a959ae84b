package compose

import (
	"encoding/json"
	"reflect"
	"testing"
	"time"

	"github.com/queen-rbee/queen-rbee/router"
)

// TestPayloadHeader compares what append writes with what it stands for.
func TestPayloadHeader(t *testing.T) {
	for _, p := range []payload{
		{},
		{Surface: router.Chat, Path: "/v1/chat/completions", ContentType: "application/json", Stream: true, MaxTokens: 7, Correlation: "abc", PromptAt: [2]int{3, 90}},
		{Surface: router.Raw, Path: `/v1/a"b\c`, Session: "säge", Node: "n\n"},
		{Session: "s", Node: "n", Set: map[string]string{"temperature": "0"}, Strip: []string{"seed"}},
	} {
		b := p.append(nil)
		var got payload
		if err := json.Unmarshal(b, &got); err != nil {
			t.Fatalf("%s: %v", b, err)
		}
		if !reflect.DeepEqual(p, got) {
			t.Errorf("%s: %+v", b, got)
		}
	}
}

// TestSeconds compares the form of a reset header with what it stands for.
func TestSeconds(t *testing.T) {
	for d, want := range map[time.Duration]string{0: "0s", time.Millisecond: "0.001s", 1500 * time.Millisecond: "1.5s", 59990 * time.Millisecond: "59.99s",
		time.Minute: "60s", time.Microsecond: "0.001s", 2*time.Second + 1: "2.001s", -time.Second: "0s"} {
		if got := seconds(d); got != want {
			t.Errorf("%v: %s, want %s", d, got, want)
		}
	}
}

// TestWithin finds a prompt in its body.
func TestWithin(t *testing.T) {
	body := []byte(`{"prompt":"once"}`)
	for _, c := range []struct {
		part []byte
		want int
	}{{body[10:16], 10}, {[]byte(`"once"`), 10}, {nil, -1}, {[]byte("twice"), -1}, {body, 0}} {
		if got := within(body, c.part); got != c.want {
			t.Errorf("%s: %d, want %d", c.part, got, c.want)
		}
	}
}
