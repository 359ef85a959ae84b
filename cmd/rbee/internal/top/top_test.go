package top

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/mattn/go-runewidth"
)

var noon = time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)

func at(seconds int) *time.Time {
	t := noon.Add(time.Duration(seconds) * time.Second)
	return &t
}

func plain(s string) string { return strings.TrimPrefix(s, "HEAD:") }

func fleet(hives, workers, jobs int) Fleet {
	f := Fleet{Queen: "http://127.0.0.1:7833", Version: "test"}
	for i := range hives {
		f.Hives = append(f.Hives, Hive{Name: fmt.Sprintf("gpu%d", i), Status: "online", Devices: []Device{{ID: "cuda:0", Total: 24 << 30, Free: 6 << 30}}})
	}
	for i := range workers {
		f.Workers = append(f.Workers, Worker{ID: fmt.Sprintf("w-%d", i), Model: "a-model-with-a-very-long-name", Node: "gpu0", State: "busy", SlotsTotal: 4, SlotsFree: 1, Memory: 5 << 30})
	}
	for i := range jobs {
		f.Jobs = append(f.Jobs, Job{ID: fmt.Sprintf("job_%d", i), Model: "m", State: []string{"complete", "queued", "running"}[i%3], Submitted: at(-i)})
	}
	return f
}

// TestFits: whatever the size of terminal and fleet, nothing is drawn beyond the edge, and the main parts are there.
func TestFits(t *testing.T) {
	for _, size := range [][2]int{{80, 24}, {80, 10}, {40, 24}, {200, 60}, {20, 5}} {
		for _, n := range []int{0, 1, 7, 100} {
			text := View(fleet(n, n, n), size[0], size[1], noon, plain)
			lines := strings.Split(text, "\n")
			if len(lines) > size[1]-1 {
				t.Errorf("%v with %d: %d lines", size, n, len(lines))
			}
			for _, l := range lines {
				if w := runewidth.StringWidth(l); w > size[0] {
					t.Errorf("%v with %d: %d columns: %q", size, n, w, l)
				}
			}
			if size[1] < 24 {
				continue
			}
			for _, want := range []string{"rbee top", "HIVE", "WORKER", "JOB"} {
				if !strings.Contains(text, want) {
					t.Errorf("%v with %d: no %s in\n%s", size, n, want, text)
				}
			}
			if n == 100 && !strings.Contains(text, "more") {
				t.Errorf("%v: nothing says that there is more:\n%s", size, text)
			}
		}
	}
}

func TestSnapshotShowsAll(t *testing.T) {
	text := View(fleet(2, 2, 50), 200, 0, noon, plain)
	for _, want := range []string{"gpu1", "] 18 GiB of 24 GiB", "w-1", "3/4 busy", "job_49", "6 of 8 slots busy", "16 running, 17 in line"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	if strings.Index(text, "running") > strings.Index(text, "complete") {
		t.Errorf("ended jobs come first:\n%s", text)
	}
}

// TestRate counts the tokens of the last minute, those of a job that began earlier in proportion.
func TestRate(t *testing.T) {
	f := Fleet{Jobs: []Job{
		{Worker: "a", Tokens: 600, First: at(-30), Completed: at(-10)},
		{Worker: "a", Tokens: 1200, First: at(-120), Completed: at(0)},   // half of it
		{Worker: "b", Tokens: 60, First: at(-5), Completed: at(-5)},      // all at once
		{Worker: "b", Tokens: 6000, First: at(-200), Completed: at(-61)}, // too old
		{Worker: "b", Tokens: 6000, First: at(-20)},                      // not at its end
	}}
	for worker, want := range map[string]float64{"": 21, "a": 20, "b": 1, "c": 0} {
		if got := f.Rate(worker, noon); got < want-1e-9 || got > want+1e-9 {
			t.Errorf("%q: %g, want %g", worker, got, want)
		}
	}
}

func TestBar(t *testing.T) {
	for _, c := range []struct {
		used, total int64
		want        string
	}{{0, 10, "[    ]"}, {5, 10, "[||  ]"}, {10, 10, "[||||]"}, {20, 10, "[||||]"}, {1, 0, "[    ]"}, {-3, 10, "[    ]"}} {
		if got := Bar(c.used, c.total, 4); got != c.want {
			t.Errorf("%d of %d: %s", c.used, c.total, got)
		}
	}
}

// TestUpdate: a new reading is drawn, a failed one keeps the old with the reason, keys and sizes are heeded.
func TestUpdate(t *testing.T) {
	var m tea.Model = model{fleet: fleet(1, 1, 1), now: func() time.Time { return noon }, style: plain}
	step := func(msg tea.Msg) tea.Cmd {
		var cmd tea.Cmd
		m, cmd = m.Update(msg)
		return cmd
	}
	if got := m.View().Content; got != "" {
		t.Errorf("drawn before the size is known: %q", got)
	}
	step(tea.WindowSizeMsg{Width: 80, Height: 24})
	if got := m.View(); !strings.Contains(got.Content, "gpu0") || !strings.Contains(got.Content, "q quits") || !got.AltScreen {
		t.Errorf("%+v", got)
	}
	step(fetched{fleet: fleet(3, 1, 1)})
	if !strings.Contains(m.View().Content, "gpu2") {
		t.Error("the new reading is not drawn")
	}
	step(fetched{err: errors.New("she sleeps")})
	if got := m.View().Content; !strings.Contains(got, "she sleeps") || !strings.Contains(got, "gpu2") {
		t.Errorf("%s", got)
	}
	if cmd := step(tea.KeyPressMsg{Code: 'x', Text: "x"}); cmd != nil {
		t.Error("x does something")
	}
	cmd := step(tea.KeyPressMsg{Code: 'q', Text: "q"})
	if cmd == nil {
		t.Fatal("q does nothing")
	}
	if _, ok := cmd().(tea.QuitMsg); !ok {
		t.Error("q does not quit")
	}
}

// TestFollow: a change is read at once, and the end of the context ends everything.
func TestFollow(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	changed := make(chan func(), 1)
	readings := make(chan tea.Msg)
	n := 0
	done := make(chan struct{})
	go func() {
		defer close(done)
		follow(ctx, Source{Fetch: func(context.Context) (Fleet, error) { n++; return fleet(n, 0, 0), nil },
			Changes: func(ctx context.Context, f func()) error { changed <- f; <-ctx.Done(); return ctx.Err() }}, func(m tea.Msg) {
			select {
			case readings <- m:
			case <-ctx.Done():
			}
		})
	}()
	if m := (<-readings).(fetched); len(m.fleet.Hives) != 1 {
		t.Errorf("%+v", m)
	}
	(<-changed)()
	if m := (<-readings).(fetched); len(m.fleet.Hives) != 2 {
		t.Errorf("%+v", m)
	}
	cancel()
	<-done
}
