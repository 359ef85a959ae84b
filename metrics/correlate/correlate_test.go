package correlate_test

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"os"
	"testing"

	"github.com/queen-rbee/queen-rbee/metrics/correlate"
)

func lookup(key, value string) string {
	if key == "job" && value == "j1" || key == "worker" && value == "w1" {
		return "req-" + value
	}
	return ""
}

func TestLinesGetTheirRequest(t *testing.T) {
	for name, c := range map[string]struct {
		log  func(*slog.Logger)
		want string
	}{
		"a job":                {func(l *slog.Logger) { l.Info("x", "n", 3, "job", "j1") }, "req-j1"},
		"a worker":             {func(l *slog.Logger) { l.Warn("x", "worker", "w1", "job", "other") }, "req-w1"},
		"unknown":              {func(l *slog.Logger) { l.Info("x", "job", "j2") }, ""},
		"said by the line":     {func(l *slog.Logger) { l.Info("x", "job", "j1", "correlation_id", "mine") }, "mine"},
		"said by the logger":   {func(l *slog.Logger) { l.With("correlation_id", "mine").Info("x", "job", "j1") }, "mine"},
		"a logger of a job":    {func(l *slog.Logger) { l.With("job", "j1").Info("x") }, "req-j1"},
		"not a string":         {func(l *slog.Logger) { l.Info("x", "job", 1) }, ""},
		"below the level":      {func(l *slog.Logger) { l.Debug("x", "job", "j1"); l.Info("y") }, ""},
		"a logger of nobody's": {func(l *slog.Logger) { l.With("node", "a").Info("x", "job", "j1") }, "req-j1"},
	} {
		t.Run(name, func(t *testing.T) {
			var buf bytes.Buffer
			c.log(slog.New(correlate.New(slog.NewJSONHandler(&buf, nil), lookup)))
			var line map[string]any
			if err := json.Unmarshal(buf.Bytes(), &line); err != nil {
				t.Fatalf("%v in %s", err, buf.Bytes())
			}
			got, _ := line[correlate.Key].(string)
			if got != c.want || bytes.Count(buf.Bytes(), []byte(correlate.Key)) > 1 {
				t.Errorf("%s: want %q", buf.Bytes(), c.want)
			}
		})
	}
}

func TestGroups(t *testing.T) {
	var buf bytes.Buffer
	slog.New(correlate.New(slog.NewTextHandler(&buf, nil), lookup)).WithGroup("g").Info("x", "job", "j1")
	if !bytes.Contains(buf.Bytes(), []byte("g.correlation_id=req-j1")) {
		t.Error(buf.String())
	}
}

func Example() {
	requests := map[string]string{"job-1": "req-7"} // kept by the program
	drop := func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}
	h := slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{ReplaceAttr: drop})
	log := slog.New(correlate.New(h, func(key, value string) string {
		if key == "job" {
			return requests[value]
		}
		return ""
	}))
	log.Info("job goes on elsewhere", "job", "job-1")
	// Output: level=INFO msg="job goes on elsewhere" job=job-1 correlation_id=req-7
}
