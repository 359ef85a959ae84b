package sqladmission_test

import (
	"context"
	"database/sql"
	"fmt"

	_ "github.com/mattn/go-sqlite3"

	"github.com/queen-rbee/queen-rbee/admission"
	"github.com/queen-rbee/queen-rbee/admission/sqladmission"
)

func Example() {
	ctx := context.Background()
	db, err := sql.Open("sqlite3", "file:example?mode=memory&cache=shared")
	if err != nil {
		panic(err)
	}
	defer func() { _ = db.Close() }()
	store, err := sqladmission.New(ctx, db, sqladmission.SQLite)
	if err != nil {
		panic(err)
	}
	c, err := admission.New(ctx, store, nil, admission.Options{})
	if err != nil {
		panic(err)
	}
	if err := c.SetTenant(ctx, admission.Tenant{ID: "home", Limits: admission.Limits{RPM: 1}}); err != nil {
		panic(err)
	}
	_, err = c.Admit(ctx, admission.Request{Tenant: "home"})
	fmt.Println(err)
	_, err = c.Admit(ctx, admission.Request{Tenant: "home"})
	fmt.Println(err)
	// Output:
	// <nil>
	// admission: the tenant may make 1 requests a minute: slow down
}
