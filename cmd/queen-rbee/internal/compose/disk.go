package compose

import (
	"fmt"
	"syscall"

	"github.com/queen-rbee/queen-rbee/httpserver"
)

func (d *doctor) disk() httpserver.Check {
	var st syscall.Statfs_t
	c := httpserver.Check{Name: "disk", Status: "ok"}
	if err := syscall.Statfs(d.dataDir, &st); err != nil {
		c.Status, c.Message, c.Remedy = "fail", err.Error(), "check the data directory "+d.dataDir
		return c
	}
	free := float64(st.Bavail) * float64(st.Bsize) / (1 << 30)
	c.Message = fmt.Sprintf("%.1f GiB free in %s", free, d.dataDir)
	if free < 1 {
		c.Status, c.Remedy = "fail", "free the disk: new jobs are refused when it is full"
	}
	return c
}
