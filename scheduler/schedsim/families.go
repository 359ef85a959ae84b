package schedsim

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// family is a kind of traffic: what a request looks like, and the rhythm in which requests come.
type family struct {
	about  string
	rate   func(at time.Duration, rng *rand.Rand) float64 // requests/s, relative
	tenths int                                            // of the requests that go on with an earlier conversation
	first  func(g *generator) (in, out int, head []uint64)
	turn   func(g *generator) (in, out int)
}

// generator makes the requests of one family.
type generator struct {
	*rand.Rand
	next uint64
	docs [][]uint64
}

// conversation is what a later turn repeats.
type conversation struct {
	blocks []uint64
	tokens int
	turns  int
	until  time.Duration // when its next turn may come
}

func steady(time.Duration, *rand.Rand) float64 { return 1 }

// bursty is quiet for most of the time and ten times as busy for a few seconds of each minute.
func bursty(at time.Duration, _ *rand.Rand) float64 {
	if at%time.Minute < 6*time.Second {
		return 5
	}
	return 0.5
}

// diurnal is a day of twenty minutes.
func diurnal(at time.Duration, _ *rand.Rand) float64 {
	return 1 + 0.9*math.Sin(2*math.Pi*at.Minutes()/20)
}

func (g *generator) lognormal(median, sigma float64, low, high int) int {
	return min(max(int(median*math.Exp(sigma*g.NormFloat64())), low), high)
}

// pareto has a tail so heavy that a few answers take most of the time.
func (g *generator) pareto(low float64, alpha float64, high int) int {
	return min(int(low/math.Pow(1-g.Float64(), 1/alpha)), high)
}

func (g *generator) fresh(n int) []uint64 {
	b := make([]uint64, n)
	for i := range b {
		g.next++
		b[i] = g.next
	}
	return b
}

// doc is one of a few long texts, the first ones far more popular.
func (g *generator) doc(n, low, high int) []uint64 {
	for len(g.docs) < n {
		g.docs = append(g.docs, g.fresh(low+g.IntN(high-low+1)))
	}
	return g.docs[min(g.pareto(1, 0.8, n), n)-1]
}

var families = map[string]family{
	"chat": {"conversations of short turns, steady", steady, 7,
		func(g *generator) (int, int, []uint64) {
			return g.lognormal(600, 0.9, 20, 8000), g.lognormal(180, 0.8, 5, 2000), nil
		},
		func(g *generator) (int, int) { return g.lognormal(250, 0.9, 10, 4000), g.lognormal(180, 0.8, 5, 2000) }},
	"bursty": {"conversations that come in bursts", bursty, 5,
		func(g *generator) (int, int, []uint64) {
			return g.lognormal(1500, 1, 50, 20000), g.lognormal(150, 0.8, 5, 1500), nil
		},
		func(g *generator) (int, int) { return g.lognormal(500, 1, 20, 8000), g.lognormal(150, 0.8, 5, 1500) }},
	"diurnal": {"a day of twenty minutes, long and short prompts", diurnal, 4,
		func(g *generator) (int, int, []uint64) {
			return g.lognormal(2000, 1.3, 30, 60000), g.lognormal(200, 0.9, 5, 3000), nil
		},
		func(g *generator) (int, int) { return g.lognormal(400, 0.8, 20, 8000), g.lognormal(200, 0.9, 5, 3000) }},
	"agents": {"agents: a long shared prefix, many quick turns", steady, 9,
		func(g *generator) (int, int, []uint64) {
			return g.lognormal(1500, 0.7, 100, 20000), g.lognormal(80, 0.7, 10, 1000), g.doc(6, 12, 40)
		},
		func(g *generator) (int, int) { return g.lognormal(900, 1.1, 20, 20000), g.lognormal(80, 0.7, 10, 1000) }},
	"documents": {"questions about popular documents", steady, 1,
		func(g *generator) (int, int, []uint64) {
			return g.lognormal(80, 0.5, 10, 400), g.lognormal(120, 0.7, 10, 1000), g.doc(150, 4, 60)
		},
		func(g *generator) (int, int) { return g.lognormal(60, 0.5, 10, 400), g.lognormal(120, 0.7, 10, 1000) }},
	"tails": {"short prompts, a few very long answers", steady, 0,
		func(g *generator) (int, int, []uint64) {
			return g.lognormal(400, 1, 10, 30000), g.pareto(40, 1.1, 8000), nil
		},
		func(g *generator) (int, int) { return 1, 1 }},
}

// Families are the kinds of traffic that Synthetic makes, by name.
func Families() []string {
	names := make([]string, 0, len(families))
	for name := range families {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Synthetic makes n requests of a family: the same ones for the same seed, about one a second. They are
// nobody's traffic; they are there so that a policy is not tuned to one trace.
func Synthetic(name string, n int, seed uint64) ([]Request, error) {
	f, ok := families[name]
	if !ok {
		return nil, fmt.Errorf("schedsim: there is no family %q; there are %s", name, strings.Join(Families(), ", "))
	}
	g := &generator{Rand: rand.New(rand.NewPCG(seed, 11))}
	var talks []*conversation
	out := make([]Request, 0, n)
	at := time.Duration(0)
	for len(out) < n {
		at += time.Duration(min(g.ExpFloat64()/max(f.rate(at, g.Rand), 0.05), 30) * float64(time.Second))
		c := g.ready(talks, at, f.tenths)
		r := Request{At: at}
		if c == nil {
			in, answer, head := f.first(g)
			c = &conversation{blocks: slices.Clone(head), tokens: len(head)*BlockTokens + in}
			if talks = append(talks, c); len(talks) > 200 {
				talks = talks[1:]
			}
			r.Out = answer
		} else {
			in, answer := f.turn(g)
			c.tokens += in
			r.Out = answer
		}
		c.blocks = append(c.blocks, g.fresh(c.tokens/BlockTokens-len(c.blocks))...)
		r.In, r.Blocks = max(c.tokens, 1), slices.Clone(c.blocks)
		c.tokens += r.Out
		c.turns++
		c.until = at + time.Duration(float64(r.Out)*0.03*1e9) + time.Duration(g.ExpFloat64()*8*1e9)
		if c.tokens > 100_000 || c.turns > 40 {
			c.until = math.MaxInt64
		}
		out = append(out, r)
	}
	return out, nil
}

// ready is an earlier conversation whose next turn is due, or nil for a new one.
func (g *generator) ready(talks []*conversation, at time.Duration, tenths int) *conversation {
	if g.IntN(10) >= tenths || len(talks) == 0 {
		return nil
	}
	for range 8 {
		if c := talks[g.IntN(len(talks))]; c.until <= at {
			return c
		}
	}
	return nil
}
