package sqlitequeue

import (
	"encoding/json"
	"strconv"
	"unicode/utf8"

	"github.com/queen-rbee/queen-rbee/queue"
)

// packed is a job without its payload in JSON; empty fields are left out, times are microseconds since 1970. The view job_list
// and the statements of packs.go name these keys too.
type packed struct {
	Key            int64       `json:"k"`
	ID             string      `json:"id"`
	Tenant         string      `json:"t"`
	Model          string      `json:"m"`
	ModelRef       string      `json:"r"`
	Priority       string      `json:"p"`
	State          queue.State `json:"s"`
	Worker         string      `json:"w"`
	Node           string      `json:"n"`
	Attempt        int         `json:"a"`
	Submitted      int64       `json:"ts"`
	NotBefore      int64       `json:"tn"`
	Started        int64       `json:"tr"`
	FirstToken     int64       `json:"tf"`
	Completed      int64       `json:"tc"`
	Deadline       int64       `json:"td"`
	PromptTokens   int         `json:"np"`
	CachedTokens   int         `json:"nc"`
	TokensOut      int         `json:"no"`
	ErrorCode      string      `json:"ec"`
	ErrorMessage   string      `json:"em"`
	IdempotencyKey string      `json:"ik"`
	Fingerprint    string      `json:"fp"`
	Detached       int         `json:"d"`
	Rank           int64       `json:"rk"`
	Holder         string      `json:"h"`
	Fence          int64       `json:"f"`
	Until          int64       `json:"l"`
}

// appendJob adds a job in JSON. Its strings must be valid UTF-8.
func appendJob(b []byte, r *queue.Record) []byte {
	b = append(b, `{"k":`...)
	b = strconv.AppendInt(b, r.Key, 10)
	for _, f := range [...]struct {
		name, v string
	}{
		{`,"id":`, r.ID}, {`,"t":`, r.Tenant}, {`,"m":`, r.Model}, {`,"r":`, r.ModelRef}, {`,"p":`, r.Priority}, {`,"s":`, string(r.State)},
		{`,"w":`, r.Worker}, {`,"n":`, r.Node}, {`,"ec":`, r.ErrorCode}, {`,"em":`, r.ErrorMessage}, {`,"ik":`, r.IdempotencyKey},
		{`,"fp":`, r.Fingerprint}, {`,"h":`, r.Lease.Holder},
	} {
		if f.v != "" {
			b = appendText(append(b, f.name...), f.v)
		}
	}
	detached := int64(0)
	if r.Detached {
		detached = 1
	}
	for _, f := range [...]struct {
		name string
		v    int64
	}{
		{`,"a":`, int64(r.Attempt)}, {`,"ts":`, micros(r.Submitted)}, {`,"tn":`, micros(r.NotBefore)}, {`,"tr":`, micros(r.Started)},
		{`,"tf":`, micros(r.FirstToken)}, {`,"tc":`, micros(r.Completed)}, {`,"td":`, micros(r.Deadline)}, {`,"np":`, int64(r.PromptTokens)},
		{`,"nc":`, int64(r.CachedTokens)}, {`,"no":`, int64(r.TokensOut)}, {`,"d":`, detached}, {`,"rk":`, r.Rank}, {`,"f":`, r.Lease.Fence},
		{`,"l":`, micros(r.Lease.Until)},
	} {
		if f.v != 0 {
			b = strconv.AppendInt(append(b, f.name...), f.v, 10)
		}
	}
	return append(b, '}')
}

// appendText adds a string in JSON.
func appendText(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c == '"' || c == '\\' || c == 0x7f {
			text, _ := json.Marshal(s) // a string has no error
			return append(b, text...)
		}
	}
	b = append(b, '"')
	b = append(b, s...)
	return append(b, '"')
}

// text reports whether a job's strings can be kept in JSON as they are.
func text(r *queue.Record) bool {
	for _, s := range [...]string{r.ID, r.Tenant, r.Model, r.ModelRef, r.Priority, r.Worker, r.Node, r.ErrorCode, r.ErrorMessage, r.Fingerprint,
		r.Lease.Holder} {
		if !utf8.ValidString(s) {
			return false
		}
	}
	return true
}

// parseJob is the reverse of appendJob.
func parseJob(b []byte) (queue.Record, error) {
	var p packed
	if err := json.Unmarshal(b, &p); err != nil {
		return queue.Record{}, err
	}
	return p.record(), nil
}

func (p *packed) record() queue.Record {
	r := queue.Record{Key: p.Key, Rank: p.Rank, Job: queue.Job{
		ID: p.ID, Tenant: p.Tenant, Model: p.Model, ModelRef: p.ModelRef, Priority: p.Priority, State: p.State, Worker: p.Worker, Node: p.Node,
		Attempt: p.Attempt, Submitted: moment(p.Submitted), NotBefore: moment(p.NotBefore), Started: moment(p.Started),
		FirstToken: moment(p.FirstToken), Completed: moment(p.Completed), Deadline: moment(p.Deadline), PromptTokens: p.PromptTokens,
		CachedTokens: p.CachedTokens, TokensOut: p.TokensOut, ErrorCode: p.ErrorCode, ErrorMessage: p.ErrorMessage,
		IdempotencyKey: p.IdempotencyKey, Fingerprint: p.Fingerprint, Detached: p.Detached != 0,
		Lease: queue.Lease{Holder: p.Holder, Fence: p.Fence, Until: moment(p.Until)},
	}}
	if r.State == queue.Running {
		r.Lease.Job = r.ID
	}
	return r
}
