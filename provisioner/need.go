package provisioner

import (
	"fmt"
	"math"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Need is what a worker for a model will take, as numbers for a scheduler.
type Need struct {
	Memory    int64         // bytes on a device
	LoadBytes int64         // bytes to read from disk
	LoadTime  time.Duration // from spawn to ready, expected
	Slots     int
	Devices   int
	Known     bool // from metadata or reports; false is a guess
}

// What is assumed where nothing is known.
const (
	defaultSimMemory = 64 << 20
	guessMemory      = 1 << 30
	defaultContext   = 4096
	loadRate         = 400 << 20 // bytes a second from a disk that is not warm
	kvShare          = 40_000    // weights / this = bytes a token of context, of common 4-bit models
	computeBuffers   = 128 << 20
)

// ParseSize reads 512MiB, 4GiB, 1.5GB or a plain number of bytes.
func ParseSize(s string) (int64, error) {
	num := strings.TrimRight(s, "KMGTiB")
	unit := s[len(num):]
	power := map[string]float64{"": 1, "B": 1, "K": 1 << 10, "KiB": 1 << 10, "M": 1 << 20, "MiB": 1 << 20, "G": 1 << 30, "GiB": 1 << 30,
		"T": 1 << 40, "TiB": 1 << 40, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}
	k, ok := power[unit]
	v, err := strconv.ParseFloat(num, 64)
	if !ok || err != nil || v < 0 || math.IsNaN(v) || v*k > 1<<60 {
		return 0, fmt.Errorf("%q is no size; write 512MiB or 4GiB", s)
	}
	return int64(v * k), nil
}

// simNeed reads what a simulated model's parameters say about its needs.
func simNeed(q url.Values) (Need, error) {
	n := Need{Memory: defaultSimMemory, Slots: 4, Devices: 1, Known: true}
	if v := q.Get("memory"); v != "" {
		size, err := ParseSize(v)
		if err != nil {
			return n, fmt.Errorf("memory: %w", err)
		}
		n.Memory = size
	}
	for _, key := range []string{"load", "ttft", "itl"} {
		v := q.Get(key)
		if v == "" {
			continue
		}
		d, err := time.ParseDuration(v)
		if err != nil || d < 0 {
			return n, fmt.Errorf("%s: %q is no duration; write 50ms or 2s", key, v)
		}
		if key == "load" {
			n.LoadTime = d
		}
	}
	if v := q.Get("slots"); v != "" {
		slots, err := strconv.Atoi(v)
		if err != nil || slots < 1 || slots > 4096 {
			return n, fmt.Errorf("slots: %q is no number between 1 and 4096", v)
		}
		n.Slots = slots
	}
	return n, nil
}

// needs remembers metadata and corrections per reference.
type needs struct {
	mu    sync.RWMutex
	known map[string]*needInfo
}

type needInfo struct {
	model    Model
	exact    map[shape]int64 // what a machine reported for this very shape
	ratio    float64         // reported to estimated, for other shapes
	loadTime time.Duration
}

type shape struct{ slots, context int }

func (n *needs) infoLocked(ref string) *needInfo {
	if n.known == nil {
		n.known = map[string]*needInfo{}
	}
	i := n.known[ref]
	if i == nil {
		i = &needInfo{exact: map[shape]int64{}, ratio: 1}
		n.known[ref] = i
	}
	return i
}

// Learn takes a model's metadata, as a machine or a file reader found it.
func (p *Provisioner) Learn(m Model) {
	if m.SizeBytes == 0 && m.Memory == (Memory{}) {
		return
	}
	p.learn(m)
	// a machine has it under its commit; whoever wrote no revision means the same model
	if r, err := ParseRef(m.Ref); err == nil && r.Scheme == SchemeHF && r.Pinned() {
		r.Revision = ""
		m.Ref = r.String()
		p.learn(m)
	}
}

func (p *Provisioner) learn(m Model) {
	p.needs.mu.Lock()
	defer p.needs.mu.Unlock()
	i := p.needs.infoLocked(m.Ref)
	if m.Memory == (Memory{}) {
		m.Memory = i.model.Memory
	}
	m.ContextLength, m.Parameters = max(m.ContextLength, i.model.ContextLength), max(m.Parameters, i.model.Parameters)
	i.model = m
}

// Observe corrects later answers of Need by what a worker really took: bytes of memory (0: not known)
// and time to load (0: not known).
func (p *Provisioner) Observe(ref string, slots, context int, memory int64, loadTime time.Duration) {
	p.needs.mu.Lock()
	defer p.needs.mu.Unlock()
	i := p.needs.infoLocked(ref)
	if memory > 0 {
		if base := i.estimate(slots, context); base > 0 {
			r := min(4, max(0.25, float64(memory)/float64(base)))
			i.ratio += (r - i.ratio) / 2
		}
		if len(i.exact) > 64 {
			clear(i.exact)
		}
		i.exact[shape{slots, context}] = memory
	}
	if loadTime > 0 {
		if i.loadTime == 0 {
			i.loadTime = loadTime
		}
		i.loadTime += (loadTime - i.loadTime) / 2
	}
}

// estimate is the memory by metadata alone, 0 when there is none.
func (i *needInfo) estimate(slots, context int) int64 {
	m := i.model.Memory
	if m == (Memory{}) {
		if i.model.SizeBytes == 0 {
			return 0
		}
		m = Memory{Weights: i.model.SizeBytes, Fixed: min(computeBuffers, i.model.SizeBytes), PerToken: i.model.SizeBytes / kvShare}
	}
	if context <= 0 {
		context = defaultContext
		if i.model.ContextLength > 0 {
			context = min(context, i.model.ContextLength)
		}
	}
	return m.Weights + m.Fixed + m.PerToken*int64(context) + m.PerSlot*int64(max(1, slots))
}

// Need says what a worker for the model will take with so many slots and so much context (0: the
// model's own). It never blocks: simulated models say it in their reference, others by metadata that
// Learn was given, corrected by Observe; what is unknown is guessed and marked so.
func (p *Provisioner) Need(ref string, slots, context int) Need {
	parsed, err := ParseRef(ref)
	if err == nil && parsed.Scheme == SchemeSim {
		if n, err := simNeed(parsed.Query); err == nil {
			if slots > 0 {
				n.Slots = slots
			}
			return n
		}
	}
	n := Need{Memory: guessMemory, Slots: max(1, slots), Devices: 1, LoadTime: 10 * time.Second}
	p.needs.mu.RLock()
	defer p.needs.mu.RUnlock()
	i := p.needs.known[ref]
	if i == nil {
		return n
	}
	n.LoadBytes = i.model.SizeBytes
	n.LoadTime = time.Second + time.Duration(float64(n.LoadBytes)/loadRate*float64(time.Second))
	if i.loadTime > 0 {
		n.LoadTime = i.loadTime
	}
	if exact, ok := i.exact[shape{slots, context}]; ok {
		n.Memory, n.Known = exact, true
	} else if base := i.estimate(slots, context); base > 0 {
		n.Memory, n.Known = int64(float64(base)*i.ratio), true
	}
	return n
}

// LoadTimeout is how long a load of the model may take without showing progress: five minutes and
// twenty seconds for each GiB. A caller extends it whenever bytes move.
func (p *Provisioner) LoadTimeout(ref string) time.Duration {
	p.needs.mu.RLock()
	defer p.needs.mu.RUnlock()
	var size int64
	if i := p.needs.known[ref]; i != nil {
		size = i.model.SizeBytes
	}
	return 5*time.Minute + time.Duration(float64(size)/(1<<30)*20*float64(time.Second))
}
