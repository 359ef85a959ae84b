module github.com/queen-rbee/queen-rbee/httpserver/clients

go 1.26.0

require (
	github.com/openai/openai-go/v3 v3.96.0
	github.com/queen-rbee/queen-rbee/httpserver v0.1.0
	github.com/queen-rbee/queen-rbee/httpserver/batches v0.1.0
	github.com/santhosh-tekuri/jsonschema/v6 v6.0.3
	go.uber.org/goleak v1.3.0
)

require (
	github.com/coder/websocket v1.8.15 // indirect
	github.com/gorilla/mux v1.8.1 // indirect
	github.com/tidwall/gjson v1.20.0 // indirect
	github.com/tidwall/match v1.1.1 // indirect
	github.com/tidwall/pretty v1.2.1 // indirect
	github.com/tidwall/sjson v1.2.5 // indirect
	golang.org/x/text v0.42.0 // indirect
)

replace (
	github.com/queen-rbee/queen-rbee/httpserver => ../
	github.com/queen-rbee/queen-rbee/httpserver/batches => ../batches
)
