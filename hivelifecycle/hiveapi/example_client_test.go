package hiveapi_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"

	"github.com/queen-rbee/queen-rbee/hivelifecycle/hiveapi"
)

func Example() {
	const token = "the token that the queen made"
	hive := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = json.NewEncoder(w).Encode(hiveapi.Health{Status: "ok", ID: "hive_1", Proof: hiveapi.Proof(token, "hive_1", r.URL.Query().Get("nonce"))})
	}))
	defer hive.Close()

	client, err := hiveapi.New(hive.URL, token, hiveapi.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = client.Close() }()
	health, err := client.Handshake(context.Background(), "hive_1")
	fmt.Println(health.Status, err)
	// Output: ok <nil>
}
