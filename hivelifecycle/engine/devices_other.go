//go:build !linux

package engine

import (
	"context"
	"strconv"
	"strings"
	"syscall"
)

// memory asks sysctl and vm_stat.
func memory(ctx context.Context, o DeviceOptions) (total, free int64) {
	if b, err := o.run(ctx, "sysctl", "-n", "hw.memsize"); err == nil {
		total, _ = strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
	}
	if b, err := o.run(ctx, "vm_stat"); err == nil {
		free = ParseVMStat(b)
	}
	return total, free
}

func cpuName(ctx context.Context, o DeviceOptions) string {
	b, err := o.run(ctx, "sysctl", "-n", "machdep.cpu.brand_string")
	if err != nil {
		return "CPU"
	}
	return strings.TrimSpace(string(b))
}

// DiskSpace is the size of the file system that holds path and what we may still use of it, in bytes.
func DiskSpace(path string) (total, free int64, err error) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(path, &st); err != nil {
		return 0, 0, err
	}
	return int64(st.Blocks) * int64(st.Bsize), int64(st.Bavail) * int64(st.Bsize), nil
}
