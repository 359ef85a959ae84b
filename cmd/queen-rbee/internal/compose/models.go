package compose

import (
	"cmp"
	"context"
	"errors"
	"os"
	"time"

	"github.com/queen-rbee/queen-rbee/hivelifecycle/hiveapi"
	"github.com/queen-rbee/queen-rbee/provisioner"
	"github.com/queen-rbee/queen-rbee/provisioner/fetch"
	"github.com/queen-rbee/queen-rbee/provisioner/gguf"
	"github.com/queen-rbee/queen-rbee/provisioner/hub"
)

// pinTimeout bounds how long a hub that does not answer may hold up a load of a model that is on the disk already.
const pinTimeout = 10 * time.Second

// modelHub asks the hub which commit a revision is.
type modelHub struct {
	http *fetch.Client
	hub  *hub.Client
}

// newModelHub speaks to the hub of HF_ENDPOINT, which is the operator's word and may be anywhere; "" is the public one.
func newModelHub() *modelHub {
	endpoint := os.Getenv("HF_ENDPOINT")
	var o fetch.Options
	if endpoint != "" {
		o.Allow = []string{endpoint}
	}
	c := fetch.New(o)
	return &modelHub{http: c, hub: hub.New(endpoint, c)}
}

func (h *modelHub) pin(ctx context.Context, ref provisioner.Ref) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, pinTimeout)
	defer cancel()
	return h.hub.Commit(ctx, ref, hubToken(ref))
}

var errNotHere = errors.New("the files are on the hives")

// inspect reads the metadata of a file that the queen's own machine has.
func inspect(_ context.Context, ref provisioner.Ref) (provisioner.Model, error) {
	if ref.Scheme != provisioner.SchemeFile {
		return provisioner.Model{}, errNotHere
	}
	st, err := os.Stat(ref.Path)
	if err != nil {
		return provisioner.Model{}, err
	}
	if st.IsDir() {
		return provisioner.Model{}, errNotHere
	}
	info, err := gguf.Inspect(ref.Path)
	if err != nil {
		return provisioner.Model{}, err
	}
	return provisioner.Model{SizeBytes: st.Size(), ContextLength: info.ContextLength, Parameters: info.Parameters, Memory: info.Memory}, nil
}

// hiveModel is a model as a hive tells of it.
func hiveModel(node string, m hiveapi.Model) provisioner.Model {
	return provisioner.Model{Ref: m.ModelRef, Node: node, State: string(m.State), SizeBytes: m.SizeBytes, SHA256: m.SHA256, Progress: m.Progress,
		Commit: m.Commit, ContextLength: int(m.ContextLength), Parameters: m.Parameters, Memory: provisioner.Memory(m.Memory)}
}

func progressOf(node string, h hiveapi.Progress) provisioner.Progress {
	return provisioner.Progress{ID: h.ID, Node: node, Ref: h.ModelRef, State: provisioner.DownloadState(cmp.Or(h.Phase, string(h.State))), File: h.File, BytesDone: h.BytesDone,
		BytesTotal: h.BytesTotal, Rate: h.Rate, ETASeconds: h.ETASeconds, Message: h.Message, Code: h.Code, At: time.Now()}
}

// request is what a hive is asked to provide. The token goes with this one request and is kept nowhere.
func (p *provHives) request(node string, spec provisioner.Spec) hiveapi.ProvisionRequest {
	r := hiveapi.ProvisionRequest{ModelRef: spec.Ref, SHA256: spec.SHA256, HubToken: spec.Token}
	if h, ok := p.f.reg.Snapshot().Hive(node); ok {
		for _, d := range h.Devices {
			r.DeviceMemory = max(r.DeviceMemory, d.MemoryTotal)
		}
	}
	return r
}

// cancelled tells a hive that nobody wants a download any more.
func (p *provHives) cancelled(link *hiveLink, id string) {
	ctx, cancel := context.WithTimeout(p.f.links.ctx, 5*time.Second)
	defer cancel()
	if err := link.client.CancelProvision(ctx, id); err != nil {
		p.f.log.Warn("download not cancelled on its hive", "node", link.node, "id", id, "error", err)
	}
}

// learnt keeps what a load took, for the next decision. A hive that only repeats the reservation has measured nothing.
func (f *fleet) learnt(id string, ref string, slots, context int, reserved int64, took time.Duration) {
	memory := int64(0)
	if w, ok := f.links.known(id); ok && w.MemoryBytes != reserved {
		memory = w.MemoryBytes
	}
	f.prov.Observe(ref, slots, context, memory, took)
	f.src.refresh()
}
