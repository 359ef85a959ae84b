package sim

import (
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Config is what a simulated model's reference says about it.
type Config struct {
	Name     string
	TTFT     time.Duration // to the first token, with an empty prompt
	ITL      time.Duration // between tokens
	Load     time.Duration // until the worker is ready
	Slots    int
	Memory   int64   // bytes that the worker claims to use
	Prefill  float64 // prompt tokens a second
	Protocol string  // "execute" or "openai"
	Context  int     // tokens; 0 = no limit
	Faults   []Fault
}

// Defaults of a reference that says nothing.
const (
	DefaultTTFT    = 50 * time.Millisecond
	DefaultITL     = 5 * time.Millisecond
	DefaultSlots   = 4
	DefaultMemory  = 64 << 20
	DefaultPrefill = 10000
)

// ParseRef reads sim:NAME?ttft=50ms&itl=5ms&load=2s&slots=4&memory=4GiB&prefill=10000&protocol=openai&context=4096&fail=...
// (see ParseFaults). An unknown parameter is an error.
func ParseRef(ref string) (Config, error) {
	c := Config{TTFT: DefaultTTFT, ITL: DefaultITL, Slots: DefaultSlots, Memory: DefaultMemory, Prefill: DefaultPrefill, Protocol: "execute"}
	rest, ok := strings.CutPrefix(ref, "sim:")
	if !ok || len(ref) > 512 {
		return c, fmt.Errorf("sim: %.80q is not a reference of the form sim:NAME or sim:NAME?key=value", ref)
	}
	name, query, _ := strings.Cut(rest, "?")
	if name == "" || strings.ContainsAny(name, " \t\r\n\x00") {
		return c, fmt.Errorf("sim: %.80q has no usable name", ref)
	}
	c.Name = name
	q, err := url.ParseQuery(query)
	if err != nil {
		return c, fmt.Errorf("sim: %.80q: %w", ref, err)
	}
	for key, values := range q {
		if len(values) != 1 && key != "fail" {
			return c, fmt.Errorf("sim: parameter %q is given %d times", key, len(values))
		}
		if err := c.set(key, values); err != nil {
			return c, err
		}
	}
	return c, nil
}

func (c *Config) set(key string, values []string) (err error) {
	v := values[0]
	switch key {
	case "ttft":
		c.TTFT, err = duration(v)
	case "itl":
		c.ITL, err = duration(v)
	case "load":
		c.Load, err = duration(v)
	case "slots":
		c.Slots, err = integer(v, 1, 4096)
	case "context":
		c.Context, err = integer(v, 1, 1<<30)
	case "memory":
		c.Memory, err = ParseSize(v)
	case "prefill":
		c.Prefill, err = strconv.ParseFloat(v, 64)
		if err == nil && !(c.Prefill > 0 && c.Prefill <= 1e9) {
			err = fmt.Errorf("out of range")
		}
	case "protocol":
		if v != "openai" && v != "execute" {
			err = fmt.Errorf("it is openai or execute")
		}
		c.Protocol = v
	case "fail":
		c.Faults, err = ParseFaults(strings.Join(values, ","))
	default:
		return fmt.Errorf("sim: unknown parameter %.40q; there are ttft, itl, load, slots, memory, prefill, protocol, context and fail", key)
	}
	if err != nil {
		return fmt.Errorf("sim: %s=%.40q: %w", key, v, err)
	}
	return nil
}

func duration(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil {
		return 0, fmt.Errorf("write it like 50ms")
	}
	if d < 0 || d > 24*time.Hour {
		return 0, fmt.Errorf("out of range")
	}
	return d, nil
}

func integer(s string, low, high int) (int, error) {
	n, err := strconv.Atoi(s)
	if err != nil || n < low || n > high {
		return 0, fmt.Errorf("a whole number from %d to %d", low, high)
	}
	return n, nil
}

// ParseSize reads a number of bytes such as 4GiB, 500MB or 1048576.
func ParseSize(s string) (int64, error) {
	units := []struct {
		suffix string
		factor float64
	}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40}, {"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12},
		{"K", 1 << 10}, {"M", 1 << 20}, {"G", 1 << 30}, {"T", 1 << 40}, {"B", 1}, {"", 1}}
	for _, u := range units {
		num, ok := strings.CutSuffix(s, u.suffix)
		if !ok {
			continue
		}
		f, err := strconv.ParseFloat(strings.TrimSpace(num), 64)
		if err != nil || !(f >= 0 && f*u.factor < 1<<60) {
			return 0, fmt.Errorf("write a size like 4GiB")
		}
		return int64(f * u.factor), nil
	}
	return 0, fmt.Errorf("write a size like 4GiB")
}
