package dashboards_test

import (
	"fmt"
	"strings"

	"github.com/queen-rbee/queen-rbee/metrics/dashboards"
)

func Example() {
	config := string(dashboards.ScrapeConfig("http://10.0.0.5:7833"))
	fmt.Println(strings.Contains(config, `targets: ["10.0.0.5:7833"]`))
	fmt.Println(len(dashboards.Grafana()) > 0, len(dashboards.AlertRules()) > 0)
	// Output:
	// true
	// true true
}
