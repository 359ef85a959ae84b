package sqlitequeue_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// shadowSource is a library that keeps, in RBEE_QUEUE_SHADOW, a copy of each file as it was at its last sync.
const shadowSource = `
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static atomic_int serial;

static void keep(int fd) {
	const char *dir = getenv("RBEE_QUEUE_SHADOW");
	char link[64], path[PATH_MAX], tmp[PATH_MAX + 32], dst[PATH_MAX + 32], buf[1 << 16];
	if (!dir) return;
	snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
	ssize_t n = readlink(link, path, sizeof path - 1);
	if (n <= 0) return;
	path[n] = 0;
	struct stat st;
	if (stat(path, &st) || !S_ISREG(st.st_mode)) return;
	const char *base = strrchr(path, '/') + 1;
	snprintf(tmp, sizeof tmp, "%s/.%s.%d", dir, base, atomic_fetch_add(&serial, 1));
	snprintf(dst, sizeof dst, "%s/%s", dir, base);
	int in = open(path, O_RDONLY), out = open(tmp, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	if (in < 0 || out < 0) _exit(4);
	while ((n = read(in, buf, sizeof buf)) > 0)
		if (write(out, buf, n) != n) _exit(4);
	close(in);
	close(out);
	if (rename(tmp, dst)) _exit(4);
}

int fsync(int fd) {
	int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
	int r = real(fd);
	if (r == 0) keep(fd);
	return r;
}

int fdatasync(int fd) {
	int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
	int r = real(fd);
	if (r == 0) keep(fd);
	return r;
}
`

// shadowLibrary compiles the library; cgo needed the compiler already.
func shadowLibrary(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	src, lib := filepath.Join(dir, "shadow.c"), filepath.Join(dir, "shadow.so")
	if err := os.WriteFile(src, []byte(shadowSource), 0o600); err != nil {
		t.Fatal(err)
	}
	cc := os.Getenv("CC")
	if cc == "" {
		cc = "gcc"
	}
	if out, err := exec.Command(cc, "-shared", "-fPIC", "-O1", "-o", lib, src, "-ldl").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return lib
}

// TestFault28PowerCut kills a writer and puts back every file as it was when it was last synced. Nothing that the
// job store acknowledged may be missing; with synchronous=NORMAL, the control, something must be. The journal may
// end earlier than what a reader saw, and says so.
func TestFault28PowerCut(t *testing.T) {
	lib := shadowLibrary(t)
	cut := func(round int, normal string) (jobs, frames, n int) {
		dir := t.TempDir()
		shadow := filepath.Join(dir, "shadow")
		live := filepath.Join(dir, "live")
		for _, d := range []string{shadow, live} {
			if err := os.Mkdir(d, 0o700); err != nil {
				t.Fatal(err)
			}
		}
		a := child(t, filepath.Join(live, "queue.db"), fmt.Sprint("run", round), time.Duration(50+rand.IntN(300))*time.Millisecond,
			"LD_PRELOAD="+lib, "RBEE_QUEUE_SHADOW="+shadow, "RBEE_QUEUE_NORMAL="+normal)
		jobs, frames = a.check(t, filepath.Join(shadow, "queue.db"))
		return jobs, frames, a.n
	}
	lost, n, total, gone, control := 0, rounds(3, 50), 0, 0, 0
	for round := range n {
		jobs, frames, acks := cut(round, "0")
		gone += frames
		total += acks
		if jobs > 0 {
			lost++
			t.Errorf("round %d: %d jobs were lost", round, jobs)
		}
	}
	for round := range rounds(2, 10) {
		jobs, _, _ := cut(round, "1")
		control += jobs
	}
	t.Logf("row 28 power cut: rounds %d, survived %d, lost %d (%d acknowledgements; %d unsynced frames reported as diverged; the control with NORMAL lost %d jobs)",
		n, n-lost, lost, total, gone, control)
	if control == 0 {
		t.Error("the control lost nothing: the test can't tell a power cut")
	}
}
