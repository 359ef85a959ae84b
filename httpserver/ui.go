package httpserver

import (
	"bytes"
	"html/template"
	"net/http"
	"strings"
)

// root is GET /: browsers go to the console, others get one line.
func (c *call) root() error {
	if strings.Contains(c.r.Header.Get("Accept"), "text/html") {
		return c.toUI()
	}
	c.w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	c.w.WriteHeader(http.StatusOK)
	_, _ = c.w.Write([]byte("queen-rbee is running; /openapi.json describes its API\n"))
	return nil
}

// toUI is GET /ui.
func (c *call) toUI() error {
	c.w.Header().Set("Location", "/ui/")
	c.w.WriteHeader(http.StatusFound)
	return nil
}

// ui is GET /ui/...: the console that was given, else a page about the server itself.
func (c *call) ui() error {
	if c.s.o.Console != nil {
		c.s.o.Console.ServeHTTP(c.w, c.withIdentity())
		return nil
	}
	if c.r.URL.Path != "/ui/" {
		return c.s.unknownPath(c.r)
	}
	return c.page(statusPage, map[string]any{"Version": c.s.o.Version, "Draining": c.s.draining.Load()})
}

// docs is GET /docs: the API document as a page, without any request to elsewhere.
func (c *call) docs() error {
	return c.page(docsPage, map[string]any{"Version": c.s.o.Version, "Routes": c.s.pageRows()})
}

func (c *call) page(t string, data any) error {
	tmpl, err := template.New("page").Parse(pageHead + t + pageFoot)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	if err := tmpl.Execute(&b, data); err != nil {
		return err
	}
	h := c.w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	c.w.WriteHeader(http.StatusOK)
	_, _ = c.w.Write(b.Bytes())
	return nil
}

type pageRow struct{ Method, Path, Summary, Scope string }

func (s *Server) pageRows() []pageRow {
	rows := make([]pageRow, 0, len(s.routes))
	for _, rt := range s.routes {
		scope := string(need(rt.method, rt.path))
		if scope == "" {
			scope = "none"
		}
		rows = append(rows, pageRow{rt.method, rt.shown(), rt.summary, scope})
	}
	return rows
}

const pageHead = `<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>queen-rbee</title><style>body{font:16px/1.5 system-ui,sans-serif;max-width:64rem;margin:2rem auto;padding:0 1rem}
table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:.2rem .6rem;border-bottom:1px solid #8884;vertical-align:top}
code{font:14px ui-monospace,monospace}@media(prefers-color-scheme:dark){body{background:#111;color:#ddd}a{color:#8cf}}</style></head><body>
<h1>queen-rbee {{.Version}}</h1>
`

const statusPage = `<p>{{if .Draining}}Shutting down: no new jobs are taken.{{else}}Running.{{end}}</p>
<p>There is no console in this build. What it would show is here, for programs and for <code>curl</code>:</p>
<ul><li><a href="/docs">the API, as a table</a> and <a href="/openapi.json">as an OpenAPI document</a></li>
<li><a href="/v1/models">models</a>, <a href="/v2/workers/list">workers</a>, <a href="/v2/registry/beehives/list">hives</a>, <a href="/v2/tasks">jobs</a></li>
<li><a href="/metrics">metrics</a>, <a href="/v2/doctor">doctor</a></li></ul>`

const docsPage = `<p>Each endpoint with the scope that a key needs. <a href="/openapi.json">OpenAPI document</a>.</p>
<table><tr><th>Method<th>Path<th>What it does<th>Scope</tr>
{{range .Routes}}<tr><td><code>{{.Method}}</code><td><code>{{.Path}}</code><td>{{.Summary}}<td>{{.Scope}}</tr>
{{end}}</table>`

const pageFoot = `</body></html>
`
