package e2e

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestFault03HiveCrash kills the hive with -9: the next one takes its workers over, and nothing is orphaned.
func TestFault03HiveCrash(t *testing.T) {
	q := start(t, "models: {demo: {ref: \"sim:demo\", workers: 2}}\n")
	q.until("two workers are loaded", 30*time.Second, func() bool { return len(q.idleWorkers("demo")) == 2 })
	before := q.idleWorkers("demo")
	old := hivePID(t, q)
	_ = syscall.Kill(old, syscall.SIGKILL)
	q.until("another hive runs", 20*time.Second, func() bool {
		data, err := os.ReadFile(q.dir + "/hives/local/hive.json")
		return err == nil && !bytes.Contains(data, []byte(strconv.Itoa(old))) && q.hiveStatus() == "online"
	})
	q.until("its workers are there again", 20*time.Second, func() bool { return len(q.idleWorkers("demo")) == 2 })
	after := q.idleWorkers("demo")
	for id, pid := range before {
		if alive(pid) && after[id] != pid {
			t.Errorf("worker %s (pid %d) is an orphan", id, pid)
		}
	}
	q.json("POST", "/v1/completions", `{"model":"demo","prompt":"go","max_tokens":2}`, nil, 200)
	q.stop()
	for _, pids := range []map[string]int{before, after} {
		for id, pid := range pids {
			if alive(pid) {
				t.Errorf("worker %s (pid %d) outlived the queen", id, pid)
			}
		}
	}
}

func (q *queen) hiveStatus() string {
	var list struct{ Nodes []struct{ Status string } }
	q.json("GET", "/v2/registry/beehives/list", nil, &list, 200)
	if len(list.Nodes) == 0 {
		return ""
	}
	return list.Nodes[0].Status
}

func rss(t *testing.T, pid int) int64 {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		t.Skipf("no /proc here: memory is not measured (linux only, not windows): %v", err)
	}
	f := strings.Fields(string(data))
	pages, _ := strconv.ParseInt(f[1], 10, 64)
	return pages * int64(os.Getpagesize())
}

// TestFault19SlowReaders holds streams whose readers never read: other streams do not notice.
func TestFault19SlowReaders(t *testing.T) {
	n := long(100, 500)
	q := start(t, fmt.Sprintf("models: {demo: {ref: \"sim:demo?itl=1ms&slots=%d\"}}\n", n+8))
	q.json("POST", "/v1/completions", `{"model":"demo","prompt":"warm","max_tokens":1}`, nil, 200)
	before := rss(t, q.cmd.Process.Pid)
	body := `{"model":"demo","prompt":"slow","max_tokens":3000,"stream":true}`
	for range n {
		c, err := net.Dial("tcp", q.addr())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		_ = c.(*net.TCPConn).SetReadBuffer(4096)
		_, _ = fmt.Fprintf(c, "POST /v1/completions HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", q.addr(), len(body), body)
	}
	q.until("the slow ones run", 30*time.Second, func() bool { return q.count("running") >= n })
	for range 5 {
		var c completion
		q.json("POST", "/v1/completions", `{"model":"demo","prompt":"quick","max_tokens":5}`, &c, 200)
		if c.Usage.Completion != 5 {
			t.Fatalf("a quick request beside slow readers: %+v", c)
		}
	}
	grown := rss(t, q.cmd.Process.Pid) - before
	t.Logf("fault 19: %d slow readers, %d KiB each", n, grown>>10/int64(n))
	if grown > int64(n)*(512<<10)+(64<<20) {
		t.Errorf("%d slow readers cost %d MiB", n, grown>>20)
	}
}

// TestFault20HostileBodies: each is refused with a documented status, and the queen goes on.
func TestFault20HostileBodies(t *testing.T) {
	q := start(t, "models: {demo: {ref: \"sim:demo\"}}\n")
	q.json("POST", "/v1/completions", `{"model":"demo","prompt":"warm","max_tokens":1}`, nil, 200)
	before := rss(t, q.cmd.Process.Pid)
	big := strings.Repeat("x", 40<<20)
	for name, c := range map[string]struct {
		path, body string
		want       []int
	}{
		"deep":         {"/v1/chat/completions", `{"model":"demo","messages":` + strings.Repeat("[", 20_000), []int{400}},
		"deep closed":  {"/v1/chat/completions", `{"model":"demo","messages":` + strings.Repeat("[", 20_000) + strings.Repeat("]", 20_000) + "}", []int{400}},
		"giant":        {"/v1/completions", `{"model":"demo","prompt":"` + big + `"}`, []int{413}},
		"duplicate":    {"/v1/completions", `{"model":"demo","model":"demo","prompt":"x"}`, []int{400}},
		"two objects":  {"/v1/completions", `{"model":"demo","prompt":"x"}{"model":"demo"}`, []int{400}},
		"invalid utf8": {"/v1/completions", "{\"model\":\"demo\",\"prompt\":\"\xff\xfe\"}", []int{400}},
		"range":        {"/v1/completions", `{"model":"demo","prompt":"x","temperature":1e400}`, []int{400}},
		"unknown v2":   {"/v2/tasks", `{"model":"demo","prompt":"x","nosuch":1}`, []int{400}},
		"not json":     {"/v1/completions", `hello`, []int{400}},
		"empty":        {"/v1/completions", ``, []int{400}},
		"null":         {"/v1/completions", `null`, []int{400}},
		"array":        {"/v1/completions", `[]`, []int{400}},
	} {
		if got := q.status("POST", c.path, c.body); !slices.Contains(c.want, got) {
			t.Errorf("%s: status %d, want %v", name, got, c.want)
		}
	}
	for _, path := range []string{"/v1/models/..%2f..%2fetc", "/v2/tasks/%00", "//v1/models", "/v1/models/a%2Fb"} {
		if got := q.status("GET", path, nil); got < 400 || got >= 500 {
			t.Errorf("GET %s: %d", path, got)
		}
	}
	req, _ := http.NewRequestWithContext(t.Context(), "GET", q.url+"/v1/models", nil)
	req.Host = "evil.example"
	if res, err := http.DefaultClient.Do(req); err != nil || res.StatusCode != 403 {
		t.Errorf("a foreign Host: %v %v", res, err)
	} else {
		_ = res.Body.Close()
	}
	if after := rss(t, q.cmd.Process.Pid); after > before+(128<<20) {
		t.Errorf("memory grew from %d to %d MiB", before>>20, after>>20)
	}
	q.json("POST", "/v1/completions", `{"model":"demo","prompt":"still here","max_tokens":1}`, nil, 200)
}
