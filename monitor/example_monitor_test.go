package monitor_test

import (
	"fmt"
	"time"

	"github.com/queen-rbee/queen-rbee/monitor"
)

type printer struct{}

func (printer) NodeState(node string, s monitor.State, reason string) { fmt.Println(node, s, reason) }
func (printer) WorkerEjected(id string, until time.Time)              { fmt.Println("ejected", id) }
func (printer) WorkerRestored(id string)                              { fmt.Println("restored", id) }
func (printer) Alert(kind, message string)                            { fmt.Println(kind, message) }

func Example() {
	m := monitor.New(printer{}, monitor.Options{})
	m.Watch("attic")
	m.Beat("attic")

	m.Pool("llama", []string{"w1", "w2"})
	for range 5 {
		m.Result("w1", "llama", false)
	}
	fmt.Println(m.State("attic"), m.SelfSuspect())
	// Output:
	// attic online heard of
	// ejected w1
	// online false
}
