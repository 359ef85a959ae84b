package sim

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"sync/atomic"
)

// Fault is one way of failing, on a share of the requests.
type Fault struct {
	Kind  string
	N     int     // tokens, for the kinds that have them
	Share float64 // of the requests, 0 to 1
}

// The kinds of fault.
const (
	FailLoad       = "load"        // exits while loading, as with a damaged file
	FailOOM        = "oom"         // exits while loading, for want of memory
	FailHealth     = "health"      // /health says 500 once loaded
	FailFirst      = "first"       // 500 before the first token
	FailBusy       = "busy"        // 503 before the first token
	FailCrash      = "crash"       // the process dies before the first token
	FailHang       = "hang"        // takes the request and never says a word
	FailAfter      = "after"       // the connection is cut after N tokens
	FailCrashAfter = "crash-after" // the process dies after N tokens
	FailHangAfter  = "hang-after"  // goes silent after N tokens
	FailGarbage    = "garbage"     // sends a line that is no event after N tokens, then cuts
)

// ParseFaults reads a comma-separated list of KIND, KIND:SHARE or, for the kinds that count tokens, KIND:N or
// KIND:N:SHARE. A share of 0.25 hits every fourth request, in a fixed pattern.
func ParseFaults(s string) ([]Fault, error) {
	var out []Fault
	for _, item := range strings.Split(s, ",") {
		if item == "" {
			continue
		}
		parts := strings.Split(item, ":")
		f := Fault{Kind: parts[0], Share: 1}
		args := parts[1:]
		switch f.Kind {
		case FailLoad, FailOOM, FailHealth, FailFirst, FailBusy, FailCrash, FailHang:
		case FailAfter, FailCrashAfter, FailHangAfter, FailGarbage:
			if len(args) == 0 {
				return nil, fmt.Errorf("%s needs a number of tokens, like %s:5", f.Kind, f.Kind)
			}
			n, err := strconv.Atoi(args[0])
			if err != nil || n < 0 || n > 1<<30 {
				return nil, fmt.Errorf("%.40q: %.20q is not a number of tokens", item, args[0])
			}
			f.N, args = n, args[1:]
		default:
			return nil, fmt.Errorf("unknown fault %.40q", f.Kind)
		}
		if len(args) > 1 {
			return nil, fmt.Errorf("%.40q has too many parts", item)
		}
		if len(args) == 1 {
			share, err := strconv.ParseFloat(args[0], 64)
			if err != nil || !(share >= 0 && share <= 1) {
				return nil, fmt.Errorf("%.40q: a share is a number from 0 to 1", item)
			}
			f.Share = share
		}
		out = append(out, f)
	}
	return out, nil
}

// faults decides which request fails how: deterministic in the order of the requests.
type faults struct {
	list  []Fault
	count atomic.Int64
}

// static finds a fault that does not depend on a request.
func (f *faults) static(kind string) bool {
	for _, x := range f.list {
		if x.Kind == kind && x.Share > 0 {
			return true
		}
	}
	return false
}

// draw gives the fault that the next request meets, or a zero one.
func (f *faults) draw() Fault {
	if len(f.list) == 0 {
		return Fault{}
	}
	n := float64(f.count.Add(1))
	for _, x := range f.list {
		switch x.Kind {
		case FailLoad, FailOOM, FailHealth:
			continue
		}
		if math.Floor(n*x.Share+1e-9) > math.Floor((n-1)*x.Share+1e-9) {
			return x
		}
	}
	return Fault{}
}
