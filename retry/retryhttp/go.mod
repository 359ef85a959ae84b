module github.com/queen-rbee/queen-rbee/retry/retryhttp

go 1.26.0

require (
	github.com/hashicorp/go-retryablehttp v0.7.8
	github.com/queen-rbee/queen-rbee/retry v0.1.0
)

require (
	github.com/hashicorp/go-cleanhttp v0.5.2 // indirect
	go.uber.org/goleak v1.3.0
)

replace github.com/queen-rbee/queen-rbee/retry => ../
