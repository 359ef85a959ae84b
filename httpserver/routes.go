package httpserver

import "net/http"

// route is one endpoint. The table of routes is what the mux and the API document are both made from.
type route struct {
	method, path string
	summary      string
	run          func(*call) error
	body, answer any // examples for the document: a struct or nil
	status       int // of success, 0 = 200
	stream       bool
}

// ServeHTTP makes a route a mux handler; the server calls run itself, with what it knows about the request.
func (rt *route) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	http.Error(w, "served through httpserver.Server only", http.StatusInternalServerError)
}

// table lists the endpoints, the most used first: the mux tries them in this order.
func (s *Server) table() []*route {
	return []*route{
		{method: "POST", path: "/v1/chat/completions", summary: "Answer a chat, streaming or not", run: (*call).chat, stream: true},
		{method: "POST", path: "/v1/completions", summary: "Continue a prompt, streaming or not", run: (*call).completions, stream: true},
		{method: "POST", path: "/v1/embeddings", summary: "Embed text", run: (*call).embeddings},
		{method: "POST", path: "/v2/tasks", summary: "Run a job: 202, or its event stream with Accept: text/event-stream",
			run: (*call).newTask, answer: accepted{}, status: http.StatusAccepted, stream: true},
		{method: "GET", path: "/v2/tasks/{job_id}/events", summary: "A job's events from Last-Event-ID on", run: (*call).taskEvents, stream: true},
		{method: "GET", path: "/v2/tasks/{job_id}", summary: "One job", run: (*call).getTask, answer: JobRecord{}},
		{method: "DELETE", path: "/v2/tasks/{job_id}", summary: "Cancel a job", run: (*call).cancelTask, status: http.StatusAccepted},
		{method: "GET", path: "/v2/tasks", summary: "List jobs", run: (*call).listTasks},
		{method: "GET", path: "/v1/models", summary: "List models", run: (*call).models},
		{method: "GET", path: "/v1/models/{id}", summary: "One model", run: (*call).model},
		{method: "GET", path: "/health", summary: "Alive", run: (*call).health},
		{method: "GET", path: "/ready", summary: "Ready for requests", run: (*call).ready},
		{method: "GET", path: "/metrics", summary: "Prometheus metrics", run: (*call).metrics},
		{method: "GET", path: "/metrics/engines", summary: "Relayed engine metrics", run: (*call).engineMetrics},
		{method: "GET", path: "/metrics/targets", summary: "Prometheus http_sd targets", run: (*call).targets, answer: []Target{}},
		{method: "GET", path: "/v2/workers/list", summary: "List workers", run: (*call).listWorkers},
		{method: "GET", path: "/v2/registry/beehives/list", summary: "List hives", run: (*call).listHives},
		{method: "GET", path: "/openapi.json", summary: "This document", run: (*call).openapi},
	}
}
