package cli

import (
	"encoding/json"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/goccy/go-yaml"
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
		b, _ := json.Marshal(v)
		return string(b)
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

// print shows records in the form that -o asks for.
func (a *cli) print(kind string, list []record, name string, columns ...column) error {
	switch {
	case a.output == "json":
		enc := json.NewEncoder(a.out)
		enc.SetIndent("", "  ")
		return enc.Encode(map[string]any{"apiVersion": apiVersion, "kind": kind, "items": orEmpty(list)})
	case a.output == "yaml":
		data, err := yaml.Marshal(map[string]any{"apiVersion": apiVersion, "kind": kind, "items": orEmpty(list)})
		if err != nil {
			return err
		}
		_, err = a.out.Write(data)
		return err
	case a.quiet:
		for _, r := range list {
			if _, err := fmt.Fprintln(a.out, text(r[name])); err != nil {
				return err
			}
		}
		return nil
	}
	w := tabwriter.NewWriter(a.out, 0, 4, 2, ' ', 0)
	line := func(cell func(column) string) {
		var parts []string
		for _, c := range columns {
			if !c.wide || a.output == "wide" {
				parts = append(parts, cell(c))
			}
		}
		_, _ = fmt.Fprintln(w, strings.Join(parts, "\t"))
	}
	line(func(c column) string { return c.head })
	for _, r := range list {
		line(func(c column) string { return c.text(r) })
	}
	return w.Flush()
}

func orEmpty(list []record) []record {
	if list == nil {
		return []record{}
	}
	return list
}

// printOne shows one record: as JSON or YAML, or a line for each field.
func (a *cli) printOne(kind string, r record, keys ...string) error {
	if a.output == "json" || a.output == "yaml" {
		return a.print(kind, []record{r}, "")
	}
	w := tabwriter.NewWriter(a.out, 0, 4, 2, ' ', 0)
	for _, k := range keys {
		if v, ok := r[k]; ok && v != nil {
			_, _ = fmt.Fprintf(w, "%s\t%s\n", strings.ReplaceAll(k, "_", " "), text(v))
		}
	}
	return w.Flush()
}
