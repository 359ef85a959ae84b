package engine

import (
	"bufio"
	"bytes"
	"strconv"
	"strings"
)

// ParseVMStat reads macOS's vm_stat: free, inactive and purgeable pages can be had.
func ParseVMStat(b []byte) int64 {
	page, pages := int64(4096), int64(0)
	for line := range strings.Lines(string(b)) {
		if _, rest, ok := strings.Cut(line, "page size of "); ok {
			if n, err := strconv.ParseInt(strings.Fields(rest + " x")[0], 10, 64); err == nil && n > 0 && n <= 1<<20 {
				page = n
			}
			continue
		}
		k, v, ok := strings.Cut(line, ":")
		if !ok {
			continue
		}
		switch strings.TrimSpace(k) {
		case "Pages free", "Pages inactive", "Pages purgeable":
			if n, err := strconv.ParseInt(strings.Trim(strings.TrimSpace(v), "."), 10, 64); err == nil && n > 0 && n < 1<<40 {
				pages += n
			}
		}
	}
	return pages * page
}

// parseMeminfo reads Linux's /proc/meminfo.
func parseMeminfo(b []byte) (total, free int64) {
	sc := bufio.NewScanner(bytes.NewReader(b))
	for sc.Scan() {
		f := strings.Fields(sc.Text())
		if len(f) < 2 {
			continue
		}
		n, err := strconv.ParseInt(f[1], 10, 64)
		if err != nil || n < 0 {
			continue
		}
		switch f[0] {
		case "MemTotal:":
			total = n << 10
		case "MemAvailable:":
			free = n << 10
		}
	}
	return total, free
}
