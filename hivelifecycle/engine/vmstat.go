package engine

import (
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
