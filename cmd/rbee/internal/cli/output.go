package cli

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/queen-rbee/queen-rbee/cmd/rbee/internal/client"
)

// apiVersion stands in every JSON and YAML output, so that scripts notice a change of form.
const apiVersion = "rbee/v1"

// record is one object of the queen's.
type record map[string]any

// column of a table: a heading and how to find the text.
type column struct {
	head string
	text func(record) string
	wide bool
}

func field(head, key string) column {
	return column{head: head, text: func(r record) string { return text(r[key]) }}
}
func wide(c column) column { c.wide = true; return c }

func text(v any) string {
	switch v := v.(type) {
	case nil:
		return "-"
	case string:
		if v == "" {
			return "-"
		}
		return v
	case float64:
		if v == float64(int64(v)) {
			return fmt.Sprintf("%d", int64(v))
		}
		return fmt.Sprintf("%.2f", v)
	case []any:
		parts := make([]string, len(v))
		for i, x := range v {
			parts[i] = text(x)
		}
		if len(parts) == 0 {
			return "-"
		}
		return strings.Join(parts, ",")
	case map[string]any:
		if m, ok := v["message"].(string); ok {
			return m
		}
		parts := make([]string, 0, len(v))
		for _, k := range slices.Sorted(maps.Keys(v)) {
			parts = append(parts, k+"="+text(v[k]))
		}
		if len(parts) == 0 {
			return "-"
		}
		return strings.Join(parts, ",")
	}
	return fmt.Sprint(v)
}

func bytesText(v any) string {
	n, _ := v.(float64)
	if n <= 0 {
		return "-"
	}
	for _, unit := range []string{"B", "KiB", "MiB", "GiB", "TiB"} {
		if n < 1024 || unit == "TiB" {
			return strings.TrimSuffix(fmt.Sprintf("%.1f", n), ".0") + " " + unit
		}
		n /= 1024
	}
	return "-"
}

func ageText(v any) string {
	t, err := time.Parse(time.RFC3339Nano, text(v))
	if err != nil {
		return "-"
	}
	return time.Since(t).Round(time.Second).String()
}

// plain makes whole numbers whole again, which JSON made floats, so that YAML shows bytes and not powers of ten.
func plain(v any) any {
	switch v := v.(type) {
	case float64:
		if n := int64(v); float64(n) == v {
			return n
		}
	case []any:
		out := make([]any, len(v))
		for i, x := range v {
			out[i] = plain(x)
		}
		return out
	case record:
		return plain(map[string]any(v))
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, x := range v {
			out[k] = plain(x)
		}
		return out
	case []record:
		out := make([]any, len(v))
		for i, x := range v {
			out[i] = plain(x)
		}
		return out
	}
	return v
}

// structured reports whether -o asks for JSON or YAML.
func (a *cli) structured() bool { return a.output == "json" || a.output == "yaml" }

// encode writes one object as JSON or YAML; lines makes JSON one line of a stream.
func (a *cli) encode(kind string, fields record, lines bool) error {
	object := map[string]any{}
	for k, v := range fields {
		object[k] = plain(v)
	}
	object["apiVersion"], object["kind"] = apiVersion, kind
	if a.output == "yaml" {
		data, err := yaml.Marshal(object)
		if err != nil {
			return err
		}
		if lines {
			data = append([]byte("---\n"), data...)
		}
		_, err = a.out.Write(data)
		return err
	}
	enc := json.NewEncoder(a.out)
	enc.SetEscapeHTML(false)
	if !lines {
		enc.SetIndent("", "  ")
	}
	return enc.Encode(object)
}

// event passes on one event of something long, as one object of a stream, with its name and its id.
func (a *cli) event(kind string, ev client.Event) error {
	var fields record
	if err := json.Unmarshal(ev.Data, &fields); err != nil {
		return fmt.Errorf("the queen's event cannot be read: %w", err)
	}
	for k, v := range map[string]string{"event": ev.Name, "id": ev.ID} {
		if _, taken := fields[k]; !taken && v != "" {
			fields[k] = v
		}
	}
	return a.encode(kind, fields, true)
}

// print shows records in the form that -o asks for.
func (a *cli) print(kind string, list []record, name string, columns ...column) error {
	switch {
	case a.structured():
		if list == nil {
			list = []record{}
		}
		return a.encode(kind, record{"items": list}, false)
	case a.quiet:
		for _, r := range list {
			if _, err := fmt.Fprintln(a.out, text(r[name])); err != nil {
				return err
			}
		}
		return nil
	}
	var shown []column
	for _, c := range columns {
		if !c.wide || a.output == "wide" {
			shown = append(shown, c)
		}
	}
	rows := make([][]string, 1, len(list)+1)
	for _, c := range shown {
		rows[0] = append(rows[0], c.head)
	}
	for _, r := range list {
		row := make([]string, len(shown))
		for i, c := range shown {
			row[i] = c.text(r)
		}
		rows = append(rows, row)
	}
	return a.style.table(a.out, rows)
}

// printOne shows one record: as JSON or YAML, or a line for each field.
func (a *cli) printOne(kind string, r record, keys ...string) error {
	if a.structured() {
		return a.encode(kind, r, false)
	}
	var rows [][]string
	for _, k := range keys {
		v, ok := r[k]
		if !ok || v == nil {
			continue
		}
		for i, line := range strings.Split(strings.TrimSuffix(fieldText(k, v), "\n"), "\n") {
			head := strings.ReplaceAll(k, "_", " ")
			if i > 0 {
				head = ""
			}
			rows = append(rows, []string{head, line})
		}
	}
	return a.style.fields(a.out, rows)
}

// fieldText is one field of a record for a person.
func fieldText(key string, v any) string {
	switch {
	case strings.HasSuffix(key, "_bytes"), strings.HasPrefix(key, "memory_"):
		return bytesText(v)
	case key == "devices":
		list, _ := v.([]any)
		var lines []string
		for _, d := range list {
			if m, ok := d.(map[string]any); ok {
				lines = append(lines, fmt.Sprintf("%s  %s  %s  %s of %s free", text(m["id"]), text(m["name"]), text(m["backend"]), bytesText(m["memory_free"]), bytesText(m["memory_total"])))
			}
		}
		return strings.Join(lines, "\n")
	case key == "decision":
		return decisionText(v)
	}
	return text(v)
}

// decisionText is a decision with its candidates, best first.
func decisionText(v any) string {
	d, ok := v.(map[string]any)
	if !ok {
		return text(v)
	}
	lines := []string{strings.Join(strings.Fields(strings.Join([]string{text(d["action"]), dash(d["worker_id"]), dash(d["node"]), dash(d["code"]), dash(d["reason"])}, " ")), " ")}
	list, _ := d["candidates"].([]any)
	for _, c := range list {
		m, ok := c.(map[string]any)
		if !ok {
			continue
		}
		cost, _ := m["cost"].(map[string]any)
		verdict := "left out"
		kept, _ := m["kept"].(bool)
		if kept {
			verdict = fmt.Sprintf("rank %s, %.3f s", text(m["rank"]), number(cost["total_s"]))
		}
		if dash(m["worker_id"]) == "" { // a hive that the model could be loaded on
			verdict = "could load it"
			if !kept {
				verdict = "left out"
			}
			lines = append(lines, strings.TrimSpace(fmt.Sprintf("hive %s: %s %s", text(m["node"]), verdict, dash(m["reason"]))))
			continue
		}
		lines = append(lines, strings.TrimSpace(fmt.Sprintf("%s on %s: %s %s", text(m["worker_id"]), text(m["node"]), verdict, dash(m["reason"]))))
	}
	return strings.Join(lines, "\n")
}

// dash is text without the mark for nothing.
func dash(v any) string { return strings.TrimPrefix(text(v), "-") }

func number(v any) float64 {
	n, _ := v.(float64)
	return n
}
