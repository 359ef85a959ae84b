package sqlauth_test

import (
	"context"
	"database/sql"
	"fmt"

	_ "github.com/mattn/go-sqlite3"

	"github.com/queen-rbee/queen-rbee/auth"
	"github.com/queen-rbee/queen-rbee/auth/sqlauth"
)

func Example() {
	ctx := context.Background()
	db, err := sql.Open("sqlite3", "file::memory:?cache=shared")
	if err != nil {
		panic(err)
	}
	defer func() { _ = db.Close() }()
	store, err := sqlauth.New(ctx, db, sqlauth.SQLite)
	if err != nil {
		panic(err)
	}
	keys, err := auth.New(ctx, store, auth.Options{})
	if err != nil {
		panic(err)
	}
	_, secret, err := keys.Create(ctx, "setup", auth.Request{Tenant: "home", Scope: auth.Infer})
	if err != nil {
		panic(err)
	}
	id, err := keys.Verify(secret)
	fmt.Println(id.Tenant, id.Scope, err)
	// Output: home infer <nil>
}
