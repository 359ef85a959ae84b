package top

import (
	"fmt"
	"strings"
	"time"

	"github.com/charmbracelet/x/ansi"
	"github.com/mattn/go-runewidth"
)

// Style draws one word in the colour of what it says.
type Style func(word string) string

// View draws the fleet in so many columns and lines; height 0 draws everything.
func View(f Fleet, width, height int, now time.Time, style Style) string {
	f.ordered()
	if width <= 0 {
		width = 80
	}
	head := []string{fmt.Sprintf("rbee top  %s  %s", f.Queen, f.Version), summary(f, now)}
	if f.Problem != "" {
		head = append(head, style("offline")+": "+f.Problem)
	}
	hives, workers, jobs := hiveLines(f, width, style), workerLines(f, now, style), jobLines(f, now, style)
	if height > 0 {
		left := height - len(head) - 4 // two empty lines between parts, one before them, one for the foot
		hives, left = cut(hives, max(2, left/4), left)
		workers, left = cut(workers, max(2, left/2), left)
		jobs, _ = cut(jobs, left, left)
	}
	var all []string
	for i, part := range [][]string{head, hives, workers, jobs} {
		if i > 0 && len(part) > 0 {
			all = append(all, "")
		}
		all = append(all, part...)
	}
	for i, line := range all {
		all[i] = strings.TrimRight(ansi.Truncate(line, width, ""), " ")
	}
	if height > 0 && len(all) > height-1 {
		all = all[:max(0, height-1)]
	}
	return strings.Join(all, "\n")
}

// cut keeps as many lines as there is room for and says how many more there are.
func cut(lines []string, room, left int) ([]string, int) {
	room = max(0, min(room, left))
	if len(lines) <= room {
		return lines, left - len(lines)
	}
	if room == 0 {
		return nil, left
	}
	kept := append(lines[:room-1:room-1], fmt.Sprintf("... %d more", len(lines)-room+1))
	return kept, left - room
}

func summary(f Fleet, now time.Time) string {
	busy, slots := 0, 0
	for _, w := range f.Workers {
		slots += w.SlotsTotal
		busy += w.SlotsTotal - w.SlotsFree
	}
	more := ""
	if f.More {
		more = "+"
	}
	return fmt.Sprintf("%d hives, %d workers, %d of %d slots busy; %d running, %d%s in line; %.1f tokens/s", len(f.Hives), len(f.Workers), busy, slots,
		f.Count("running"), f.Count("queued"), more, f.Rate("", now))
}

func hiveLines(f Fleet, width int, style Style) []string {
	rows := [][]string{{"HIVE", "STATUS", "DEVICE", "MEMORY"}}
	bar := min(30, max(8, width-62))
	for _, h := range f.Hives {
		if len(h.Devices) == 0 {
			rows = append(rows, []string{h.Name, h.Status, "-", h.Message})
		}
		for _, d := range h.Devices {
			used := max(0, d.Total-d.Free)
			rows = append(rows, []string{h.Name, h.Status, d.ID, fmt.Sprintf("%s %s of %s", Bar(used, d.Total, bar), Bytes(used), Bytes(d.Total))})
		}
	}
	return grid(rows, style)
}

func workerLines(f Fleet, now time.Time, style Style) []string {
	rows := [][]string{{"WORKER", "MODEL", "HIVE", "STATE", "SLOTS", "MEMORY", "TOKENS/S"}}
	for _, w := range f.Workers {
		rows = append(rows, []string{w.ID, short(w.Model, 20), w.Node, w.State, fmt.Sprintf("%d/%d busy", w.SlotsTotal-w.SlotsFree, w.SlotsTotal), Bytes(w.Memory),
			fmt.Sprintf("%.1f", f.Rate(w.ID, now))})
	}
	return grid(rows, style)
}

func jobLines(f Fleet, now time.Time, style Style) []string {
	rows := [][]string{{"JOB", "MODEL", "STATE", "TENANT", "TOKENS", "AGE", "WORKER"}}
	for _, j := range f.Jobs {
		age := "-"
		if j.Submitted != nil {
			age = max(0, now.Sub(*j.Submitted)).Round(time.Second).String()
		}
		rows = append(rows, []string{j.ID, short(j.Model, 16), j.State, short(j.Tenant, 10), fmt.Sprint(j.Tokens), age, j.Worker})
	}
	return grid(rows, style)
}

// grid aligns rows in columns.
func grid(rows [][]string, style Style) []string {
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], runewidth.StringWidth(cell))
		}
	}
	out := make([]string, len(rows))
	for n, row := range rows {
		var b strings.Builder
		for i, cell := range row {
			if n == 0 {
				b.WriteString(style("HEAD:" + cell))
			} else {
				b.WriteString(style(cell))
			}
			if i < len(row)-1 {
				b.WriteString(strings.Repeat(" ", widths[i]-runewidth.StringWidth(cell)+2))
			}
		}
		out[n] = b.String()
	}
	return out
}

// Bar is a bar of so many characters, as full as used is of total.
func Bar(used, total int64, width int) string {
	n := 0
	if total > 0 {
		n = int(float64(width)*float64(used)/float64(total) + 0.5)
	}
	n = max(0, min(n, width))
	return "[" + strings.Repeat("|", n) + strings.Repeat(" ", width-n) + "]"
}

// Bytes is a size for a person.
func Bytes(n int64) string {
	v := float64(n)
	for _, unit := range []string{"B", "KiB", "MiB", "GiB"} {
		if v < 1024 {
			return fmt.Sprintf("%.4g %s", v, unit)
		}
		v /= 1024
	}
	return fmt.Sprintf("%.4g TiB", v)
}

func short(s string, n int) string { return runewidth.Truncate(s, n, "~") }
