package engine

import (
	"context"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// memory is the machine's memory, or the container's where that is smaller.
func memory(context.Context, DeviceOptions) (total, free int64) {
	b, err := os.ReadFile("/proc/meminfo")
	if err == nil {
		total, free = parseMeminfo(b)
	}
	limit, used, ok := cgroupMemory()
	if ok && limit < total {
		total, free = limit, min(free, max(limit-used, 0))
	}
	return total, free
}

func cgroupMemory() (limit, used int64, ok bool) {
	read := func(name string) (int64, error) {
		b, err := os.ReadFile("/sys/fs/cgroup/" + name)
		if err != nil {
			return 0, err
		}
		return strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
	}
	limit, err := read("memory.max")
	if err != nil {
		return 0, 0, false
	}
	used, err = read("memory.current")
	return limit, max(used-reclaimable(), 0), err == nil
}

// reclaimable is the container's file cache, which the kernel drops when memory is wanted.
func reclaimable() int64 {
	b, err := os.ReadFile("/sys/fs/cgroup/memory.stat")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "inactive_file "); ok {
			n, _ := strconv.ParseInt(strings.TrimSpace(v), 10, 64)
			return n
		}
	}
	return 0
}

func cpuName(context.Context, DeviceOptions) string {
	b, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "CPU"
	}
	for line := range strings.Lines(string(b)) {
		if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == "model name" {
			return strings.TrimSpace(v)
		}
	}
	return "CPU"
}

// DiskSpace is the size of the file system that holds path and what we may still use of it, in bytes.
func DiskSpace(path string) (total, free int64, err error) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(path, &st); err != nil {
		return 0, 0, err
	}
	return int64(st.Blocks) * st.Bsize, int64(st.Bavail) * st.Bsize, nil
}
