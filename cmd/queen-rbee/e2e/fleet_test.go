package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestFleet is the whole program over three network namespaces: one queen, two hosts with nothing but an sshd. The test
// makes the namespaces and runs itself again inside the queen's.
func TestFleet(t *testing.T) {
	if prefix := os.Getenv("RBEE_FLEET"); prefix != "" {
		insideFleet(t, fleetNet{prefix})
		return
	}
	if testing.Short() {
		t.Skip("short: takes a minute and a half of waiting for cut links")
	}
	bin, err := build()
	if err != nil {
		t.Fatal(err)
	}
	n := newFleetNet(t)
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "ip", "netns", "exec", n.queen(), os.Args[0], "-test.run=^TestFleet$", "-test.v", "-test.timeout=4m")
	cmd.Env = append(os.Environ(), "RBEE_FLEET="+n.prefix, "RBEE_BIN="+bin)
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Fatal(err)
	}
}

// theFleet is a queen with two hosts.
type theFleet struct {
	*queen
	n     fleetNet
	home  string // the queen's
	hosts [3]*machine
}

func insideFleet(t *testing.T, n fleetNet) {
	f := &theFleet{n: n, home: t.TempDir()}
	t.Setenv("HOME", f.home)
	t.Setenv("SSH_AUTH_SOCK", "")
	if err := os.MkdirAll(filepath.Join(f.home, ".ssh"), 0o700); err != nil {
		t.Fatal(err)
	}
	for i := 1; i <= 2; i++ {
		f.hosts[i] = newMachine(t, n, i)
	}
	f.queen = start(t, "hives: []\nssh: {key_dir: "+filepath.Dir(filepath.Dir(f.hosts[1].dir))+"}\nmodels:\n  demo: {ref: \"sim:demo?slots=256\"}\n  slow: {ref: \"sim:slow?itl=50ms&slots=64\"}\n  late: {ref: \"sim:late\"}\n")
	for _, step := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"BadInput", f.badInput}, {"Fault15AuthenticationFails", f.authFails}, {"ReadOnlyHome", f.readOnly},
		{"AddBoth", f.addBoth}, {"Fault16HostKeyChanged", f.keyChanged},
		{"Fault11NameFails", f.nameFails}, {"Fault17ManyAtOnce", f.many}, {"Fault22Duplicate", f.duplicate}, {"LogsAndDrain", f.logsAndDrain},
		{"Fault02QueenRestarts", f.queenRestarts}, {"Fault03HiveCrashes", f.hiveCrashes}, {"SSHDDies", f.sshdDies},
		{"Fault09CutHeals", f.cutHeals}, {"Fault08Fault10Cuts", f.cuts}, {"Upgrade", f.upgrade}, {"Fault03HiveStaysAway", f.hiveStaysAway}, {"Remove", f.remove},
		{"DirectMTLS", f.direct},
	} {
		ok := t.Run(step.name, func(t *testing.T) {
			f.t = t
			step.run(t)
		})
		f.t = t
		if !ok {
			break // each step begins where the one before ended
		}
	}
}

// add runs rbee hive add for a host.
func (f *theFleet) add(i int, more ...string) (out, errOut string, code int) {
	m := f.hosts[i]
	return f.rbee(append([]string{"hive", "add", "root@" + address(i), "-i", m.key, "--name", fmt.Sprintf("gpu%d", i)}, more...)...)
}

// refused is one add that must fail with words in its reason.
func (f *theFleet) refused(t *testing.T, body map[string]any, status int, words ...string) {
	t.Helper()
	var reply struct {
		Error struct{ Code, Message string }
	}
	f.json("POST", "/v2/registry/beehives/add", body, &reply, status)
	for _, w := range words {
		if !strings.Contains(reply.Error.Message, w) {
			t.Errorf("%v is refused without the word %q: %+v", body, w, reply)
		}
	}
}

func (f *theFleet) badInput(t *testing.T) {
	m := f.hosts[1]
	body := func(k string, v any) map[string]any {
		b := map[string]any{"node_name": "bad", "mode": "network", "ssh_host": address(1), "ssh_user": "root", "ssh_key_path": m.key, "host_key": m.fingerprint}
		b[k] = v
		return b
	}
	for _, host := range []string{"-oProxyCommand=touch /tmp/x", "$(id)", "a b", "a;b", "a\nb", "`id`", "a'b", ""} {
		f.refused(t, body("ssh_host", host), 400)
	}
	for _, user := range []string{"-l", "$(id)", "a b", "a;b", "a\nb", "a'b", "a/b"} {
		f.refused(t, body("ssh_user", user), 400)
	}
	for _, name := range []string{"", "../x", "-x", "a/b", strings.Repeat("x", 300)} {
		f.refused(t, body("node_name", name), 400)
	}
	f.refused(t, body("ssh_port", 70000), 400)
	f.refused(t, body("mode", "cloud"), 400)
	f.refused(t, body("host_key", "SHA256:wrong"), 502, "host key changed")
	f.refused(t, body("host_key", "not a key"), 400, "host key")
	// keys
	open, locked := filepath.Join(m.dir, "open"), filepath.Join(m.dir, "locked")
	writeKey(t, open)
	if err := os.Chmod(open, 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "secret", "-f", locked).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	f.refused(t, body("ssh_key_path", open), 400, "chmod 600")
	f.refused(t, body("ssh_key_path", locked), 400, "passphrase")
	f.refused(t, body("ssh_key_path", "/etc/ssh/ssh_host_ed25519_key"), 400)
	f.refused(t, body("ssh_key_path", filepath.Dir(m.dir)+"/../../../etc/passwd"), 400)
	f.refused(t, body("ssh_key_path", filepath.Join(m.dir, "missing")), 400)
	var list struct{ Nodes []any }
	f.json("GET", "/v2/registry/beehives/list", nil, &list, 200)
	if len(list.Nodes) != 0 {
		t.Fatalf("refused hives were kept: %v", list)
	}
	if s := m.log(); strings.Contains(s, "Accepted") || strings.Contains(s, "Starting session") {
		t.Fatalf("somebody got in:\n%s", s)
	}
}

// authFails: one attempt, and a message that names host, user and key.
func (f *theFleet) authFails(t *testing.T) {
	m := f.hosts[1]
	wrong := filepath.Join(m.dir, "wrong")
	writeKey(t, wrong)
	before := strings.Count(m.log(), "Connection from")
	_, errOut, code := f.rbee("hive", "add", "root@"+address(1), "-i", wrong, "--name", "gpu1", "--host-key", m.fingerprint)
	if code != 1 {
		t.Fatalf("exit %d: %s", code, errOut)
	}
	for _, w := range []string{address(1), "root", wrong} {
		if !strings.Contains(errOut, w) {
			t.Errorf("the reason does not name %s: %s", w, errOut)
		}
	}
	<-time.After(3 * time.Second) // a storm would show by now
	if n := strings.Count(m.log(), "Connection from") - before; n != 1 {
		t.Errorf("%d attempts, want 1", n)
	}
}

// readOnly: a home that can't be written to is told of, and nothing is left behind.
func (f *theFleet) readOnly(t *testing.T) {
	m := f.hosts[1]
	remount := func(how string) {
		command(t, fmt.Sprintf("nsenter -t %d -m mount -o remount,bind,%s %s", m.cmd.Process.Pid, how, rootHome()))
	}
	remount("ro")
	f.refused(t, map[string]any{"node_name": "gpu1", "mode": "network", "ssh_host": address(1), "ssh_user": "root", "ssh_key_path": m.key,
		"host_key": m.fingerprint}, 502, "writable")
	remount("rw")
	if s := f.hiveStatus(1); s != "" {
		t.Errorf("the hive was kept as %s", s)
	}
}

func (f *theFleet) addBoth(t *testing.T) {
	before := strings.Count(f.hosts[1].log(), "Accepted")
	_, errOut, code := f.add(1)
	if code != 1 || !strings.Contains(errOut, f.hosts[1].fingerprint) || !strings.Contains(errOut, "--host-key") {
		t.Fatalf("unknown host key: exit %d: %s", code, errOut)
	}
	if strings.Count(f.hosts[1].log(), "Accepted") != before {
		t.Fatal("the unknown machine was logged in to")
	}
	begun := time.Now()
	if _, errOut, code = f.add(1, "--host-key", f.hosts[1].fingerprint, "--label", "room=attic"); code != 0 {
		t.Fatalf("exit %d: %s", code, errOut)
	}
	t.Logf("first host after %.1f s:\n%s", time.Since(begun).Seconds(), errOut)
	for _, w := range []string{"Connected to", "Uploading rbee-hive", "is ready"} {
		if !strings.Contains(errOut, w) {
			t.Errorf("the steps lack %q: %s", w, errOut)
		}
	}
	begun = time.Now()
	if _, errOut, code = f.add(2, "--accept-new"); code != 0 {
		t.Fatalf("exit %d: %s", code, errOut)
	}
	t.Logf("second host after %.1f s", time.Since(begun).Seconds())
	f.infer(t, 1)
	f.infer(t, 2)
	if out, _, code := f.rbee("hive", "ls", "-o", "wide"); code != 0 || !strings.Contains(out, "room") {
		t.Errorf("rbee hive ls: %d %s", code, out)
	}
	if out, _, code := f.rbee("hive", "show", "gpu2"); code != 0 || !strings.Contains(out, "online") {
		t.Errorf("rbee hive show: %d %s", code, out)
	}
}

// infer runs a task on one host and checks that it ran there.
func (f *theFleet) infer(t *testing.T, i int) {
	t.Helper()
	rec := f.task(t, i, "demo", 5)
	if rec.State != "complete" || rec.TokensOut != 5 {
		t.Fatalf("host %d: %+v\n%s", i, rec, f.logs())
	}
	w := f.worker(t, i, "demo")
	if w.id != rec.WorkerID {
		t.Fatalf("the job for host %d ran on %s, its worker is %s", i, rec.WorkerID, w.id)
	}
}

func (f *theFleet) submit(t *testing.T, i int, model string, tokens int) string {
	t.Helper()
	var accepted struct {
		JobID string `json:"job_id"`
	}
	f.json("POST", "/v2/tasks", map[string]any{"model": model, "prompt": "count", "max_tokens": tokens, "node": fmt.Sprintf("gpu%d", i)}, &accepted, 202)
	return accepted.JobID
}

func (f *theFleet) task(t *testing.T, i int, model string, tokens int) (rec jobRecord) {
	t.Helper()
	id := f.submit(t, i, model, tokens)
	f.until("job "+id+" ends", 40*time.Second, func() bool {
		f.json("GET", "/v2/tasks/"+id, nil, &rec, 200)
		return rec.State != "queued" && rec.State != "running"
	})
	return rec
}

type aWorker struct {
	id  string
	pid int
}

// worker is the one worker of a model on a host.
func (f *theFleet) worker(t *testing.T, i int, model string) aWorker {
	t.Helper()
	var list workerList
	f.json("GET", fmt.Sprintf("/v2/workers/list?node=gpu%d", i), nil, &list, 200)
	var found []aWorker
	for _, w := range list.Workers {
		if w.Model == model {
			found = append(found, aWorker{w.WorkerID, w.PID})
		}
	}
	if len(found) != 1 {
		t.Fatalf("host %d has %d workers of %s: %+v", i, len(found), model, list)
	}
	return found[0]
}

func (f *theFleet) hiveStatus(i int) string {
	var list struct {
		Nodes []struct {
			Name   string `json:"node_name"`
			Status string `json:"status"`
		}
	}
	f.json("GET", "/v2/registry/beehives/list", nil, &list, 200)
	for _, h := range list.Nodes {
		if h.Name == fmt.Sprintf("gpu%d", i) {
			return h.Status
		}
	}
	return ""
}

func (f *theFleet) online(what string, limit time.Duration, hosts ...int) {
	f.t.Helper()
	f.until(what, limit, func() bool {
		return !slices.ContainsFunc(hosts, func(i int) bool { return f.hiveStatus(i) != "online" })
	})
}
