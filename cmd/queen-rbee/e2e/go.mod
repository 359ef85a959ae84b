module github.com/queen-rbee/queen-rbee/cmd/queen-rbee/e2e

go 1.26.0

require github.com/openai/openai-go/v3 v3.96.0

require (
	github.com/grpc-ecosystem/grpc-gateway/v2 v2.29.0 // indirect
	golang.org/x/net v0.60.0 // indirect
	golang.org/x/sys v0.48.0 // indirect
	golang.org/x/text v0.42.0 // indirect
	google.golang.org/genproto/googleapis/api v0.0.0-20260720211330-0afa2a65878a // indirect
	google.golang.org/genproto/googleapis/rpc v0.0.0-20260720211330-0afa2a65878a // indirect
	google.golang.org/grpc v1.82.1 // indirect
)

require (
	github.com/coder/websocket v1.8.15 // indirect
	github.com/santhosh-tekuri/jsonschema/v6 v6.0.3 // indirect
	github.com/tidwall/gjson v1.20.0 // indirect
	github.com/tidwall/match v1.1.1 // indirect
	github.com/tidwall/pretty v1.2.1 // indirect
	github.com/tidwall/sjson v1.2.5 // indirect
	go.opentelemetry.io/proto/otlp v1.11.0
	google.golang.org/protobuf v1.36.12
)

require github.com/queen-rbee/queen-rbee/httpserver/clients v0.1.0

replace (
	github.com/queen-rbee/queen-rbee/httpserver => ../../../httpserver
	github.com/queen-rbee/queen-rbee/httpserver/batches => ../../../httpserver/batches
	github.com/queen-rbee/queen-rbee/httpserver/clients => ../../../httpserver/clients
)
