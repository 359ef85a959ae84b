package schedsim

import (
	"bufio"
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"
)

// BlockTokens is the length of a prefix block in the traces.
const BlockTokens = 512

// Request is one line of a trace.
type Request struct {
	At       time.Duration
	In, Out  int
	Blocks   []uint64
	Model    string
	perBlock int // tokens of a block; 0 = BlockTokens
}

func (r *Request) block() int {
	if r.perBlock > 0 {
		return r.perBlock
	}
	return BlockTokens
}

// Load reads a trace file: .jsonl in Mooncake's form, .csv in Azure's.
func Load(path string) ([]Request, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("schedsim: %w", err)
	}
	defer f.Close()
	if filepath.Ext(path) == ".csv" {
		return ReadCSV(f)
	}
	return ReadJSONL(f)
}

// ReadJSONL reads {"timestamp" ms, "input_length", "output_length", "hash_ids"} lines.
func ReadJSONL(r io.Reader) ([]Request, error) {
	var out []Request
	sc := bufio.NewScanner(r)
	sc.Buffer(nil, 16<<20)
	for n := 1; sc.Scan(); n++ {
		if len(bytes.TrimSpace(sc.Bytes())) == 0 {
			continue
		}
		var line struct {
			Timestamp float64  `json:"timestamp"`
			In        int      `json:"input_length"`
			Out       int      `json:"output_length"`
			Blocks    []uint64 `json:"hash_ids"`
		}
		if err := json.Unmarshal(sc.Bytes(), &line); err != nil {
			return nil, fmt.Errorf("schedsim: line %d: %w", n, err)
		}
		if line.In < 0 || line.Out < 0 || line.Timestamp < 0 {
			return nil, fmt.Errorf("schedsim: line %d: a negative number", n)
		}
		out = append(out, Request{At: time.Duration(line.Timestamp * 1e6), In: line.In, Out: line.Out, Blocks: line.Blocks})
	}
	if err := sc.Err(); err != nil {
		return nil, fmt.Errorf("schedsim: %w", err)
	}
	return sorted(out)
}

// ReadCSV reads TIMESTAMP,ContextTokens,GeneratedTokens lines; such traces have no prefixes.
func ReadCSV(r io.Reader) ([]Request, error) {
	rows, err := csv.NewReader(r).ReadAll()
	if err != nil {
		return nil, fmt.Errorf("schedsim: %w", err)
	}
	var out []Request
	var first time.Time
	for i, row := range rows {
		if i == 0 || len(row) < 3 {
			continue
		}
		at, err := time.Parse("2006-01-02 15:04:05.9999999", row[0])
		in, err2 := strconv.Atoi(row[1])
		gen, err3 := strconv.Atoi(row[2])
		if err = errors.Join(err, err2, err3); err != nil {
			return nil, fmt.Errorf("schedsim: line %d: %w", i+1, err)
		}
		if first.IsZero() {
			first = at
		}
		out = append(out, Request{At: at.Sub(first), In: in, Out: gen})
	}
	return sorted(out)
}

func sorted(reqs []Request) ([]Request, error) {
	if len(reqs) == 0 {
		return nil, errors.New("schedsim: the trace is empty")
	}
	slices.SortStableFunc(reqs, func(a, b Request) int { return int(min(max(a.At-b.At, -1), 1)) })
	return reqs, nil
}

// Shape prepares a trace: requests with one timestamp are spread evenly over spread, times are stretched
// by scale, and conversations (requests with one first block) are dealt to models, the first ones more
// popular when skew is above 0.
func Shape(reqs []Request, spread time.Duration, scale float64, models int, skew float64, seed uint64) []Request {
	out := slices.Clone(reqs)
	for i := 0; i < len(out); {
		k := i
		for k < len(out) && out[k].At == out[i].At {
			k++
		}
		for n := i; n < k; n++ {
			out[n].At += spread * time.Duration(n-i) / time.Duration(k-i)
		}
		i = k
	}
	slices.SortStableFunc(out, func(a, b Request) int { return int(min(max(a.At-b.At, -1), 1)) })
	rng := rand.New(rand.NewPCG(seed, 7))
	weights := make([]float64, models)
	total := 0.0
	for i := range weights {
		weights[i] = 1 / (1 + skew*float64(i))
		total += weights[i]
	}
	byFirst := map[uint64]int{}
	for i := range out {
		out[i].At = time.Duration(float64(out[i].At) * scale)
		m, ok := 0, false
		if len(out[i].Blocks) > 1 {
			m, ok = byFirst[out[i].Blocks[1]]
		}
		if !ok {
			for x := rng.Float64() * total; m < models-1 && x > weights[m]; m++ {
				x -= weights[m]
			}
			if len(out[i].Blocks) > 1 {
				byFirst[out[i].Blocks[1]] = m
			}
		}
		out[i].Model = modelName(m)
		if models > 1 { // a model's cache is its own
			blocks := slices.Clone(out[i].Blocks)
			for k := range blocks {
				blocks[k] = blocks[k]*uint64(models) + uint64(m)
			}
			out[i].Blocks = blocks
		}
	}
	return out
}
