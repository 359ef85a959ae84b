// Package hive is the program rbee-hive: an HTTP server over the engine supervisor and the model store, with a watch
// stream of everything that changes.
package hive

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/queen-rbee/queen-rbee/cmd/rbee-hive/internal/store"
	"github.com/queen-rbee/queen-rbee/hivelifecycle/engine"
	"github.com/queen-rbee/queen-rbee/hivelifecycle/hiveapi"
)

// beatEvery is how often a watcher hears from the hive when nothing changes; one that has many hives to listen to may ask
// for less, up to beatMost.
const (
	beatEvery = 5 * time.Second
	beatMost  = time.Minute
)

// askedBeat is the interval that a watcher asks for.
func askedBeat(query url.Values) time.Duration {
	n, err := strconv.Atoi(query.Get("beat"))
	if err != nil {
		return beatEvery
	}
	return min(max(time.Duration(n)*time.Second, beatEvery), beatMost)
}

// Hive is one running hive.
type Hive struct {
	c         config
	log       *slog.Logger
	level     *slog.LevelVar
	requests  *requests
	journal   *journal
	feed      *feed
	sup       *engine.Supervisor
	store     *store.Store
	locks     modelLocks
	installer *engine.Installer
	downloads *downloads
	devices   *deviceWatch
	epoch     uint64
	started   time.Time
	address   string

	quit     chan struct{}      // closed when the hive is to end
	beats    chan time.Duration // a new interval between beats
	quitOnce sync.Once
	keep     bool // leave the workers running
	draining bool
	mu       sync.Mutex
}

// build puts a hive together and takes over what a former one left.
func build(ctx context.Context, c config, j *journal, ln, near net.Listener) (*Hive, error) {
	h := &Hive{c: c, journal: j, level: &slog.LevelVar{}, requests: &requests{}, started: time.Now().UTC(), address: advertised(ln), quit: make(chan struct{}), beats: make(chan time.Duration, 1)}
	h.level.Set(c.logLevel)
	h.log = newLogger(j, c, h.level, h.requests.correlation)
	var err error
	if h.epoch, err = nextEpoch(c.dataDir, h.started); err != nil {
		return nil, err
	}
	h.devices = newDeviceWatch(c.simDevices, func() []hiveapi.Worker { return h.feed.snapshot().Workers })
	h.feed = newFeed(hiveapi.State{Node: c.name, ID: c.id, Epoch: h.epoch, Version: c.version, OS: runtime.GOOS, Arch: runtime.GOARCH,
		Started: h.started, Workers: []hiveapi.Worker{}, Models: []hiveapi.Model{}})
	c.models.Logger = h.log
	if h.store, err = store.Open(filepath.Join(c.dataDir, "models"), c.name, c.models); err != nil {
		return nil, err
	}
	h.downloads = newDownloads(h.store, h.modelsChanged, h.downloaded)
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	engineDir := filepath.Join(c.dataDir, "engines")
	h.installer = engine.NewInstaller(engineDir, engine.InstallerOptions{})
	h.sup, err = engine.New(engine.Options{Dir: filepath.Join(c.dataDir, "workers"), EngineDir: engineDir, Node: c.name, Logger: h.log,
		SimCommand: []string{self, SimWorker}, Devices: h.devices.list, ReadyURL: "http://" + advertised(near) + hiveapi.PathWorkerReady, OnChange: h.workerChanged})
	if err != nil {
		return nil, err
	}
	h.refresh(ctx)
	adopted, ended, err := h.sup.Adopt(ctx)
	if err != nil {
		h.log.Warn("some records of workers can't be read", "error", err)
	}
	if adopted+ended > 0 {
		h.log.Info("found workers of a former hive", "adopted", adopted, "ended", ended)
	}
	h.modelsChanged() // what a former hive fetched
	return h, nil
}

func (h *Hive) workerChanged(w engine.Worker, gone bool) {
	kind := hiveapi.EventWorker
	if gone {
		kind = hiveapi.EventGone
	}
	h.feed.publish(hiveapi.Event{Kind: kind, Worker: &w})
	h.spawned(w, gone)
	h.locks.hold(h.store, w, !gone)
	h.feed.models(h.models())
}

// modelsChanged follows a download. A model that is there only now, or only now verified, may have its worker already.
func (h *Hive) modelsChanged() {
	h.locks.holdAll(h.store, func() []hiveapi.Worker { return h.feed.snapshot().Workers })
	h.feed.models(h.models())
}

// models is the store's list, with those that a worker uses marked.
func (h *Hive) models() []hiveapi.Model {
	list := h.downloads.list()
	for i, m := range list {
		for _, w := range h.feed.snapshot().Workers {
			if store.Canonical(w.ModelRef) != m.ModelRef || m.State != hiveapi.ModelReady && m.State != hiveapi.ModelLoading {
				continue
			}
			switch w.State {
			case hiveapi.WorkerLoading:
				list[i].State = hiveapi.ModelLoading
			case hiveapi.WorkerIdle, hiveapi.WorkerBusy, hiveapi.WorkerDraining:
				list[i].State = hiveapi.ModelLoaded
			}
		}
	}
	return list
}

// refresh reads what changes by itself and publishes it as a beat.
func (h *Hive) refresh(ctx context.Context) {
	disk := &hiveapi.Disk{Path: h.c.dataDir}
	var err error
	if disk.Total, disk.Free, err = engine.DiskSpace(h.c.dataDir); err != nil {
		h.log.Warn("the disk's size can't be read", "error", err)
	}
	h.feed.publish(hiveapi.Event{Kind: hiveapi.EventBeat, Devices: h.devices.list(ctx), Disk: disk})
}

// setBeat changes the interval; the last one wins.
func (h *Hive) setBeat(every time.Duration) {
	select {
	case <-h.beats:
	default:
	}
	select {
	case h.beats <- every:
	default:
	}
}

// beat runs until ctx ends. Without watchers it costs nothing.
func (h *Hive) beat(ctx context.Context) {
	t := time.NewTicker(beatEvery)
	defer t.Stop()
	for {
		select {
		case every := <-h.beats: // of the latest watcher
			t.Reset(every)
		case <-t.C:
			if h.feed.watched() {
				h.refresh(ctx)
			}
		case <-ctx.Done():
			return
		}
	}
}

// end asks the hive to end; keep leaves its workers running.
func (h *Hive) end(keep bool) {
	h.mu.Lock()
	h.draining = true
	h.mu.Unlock()
	h.quitOnce.Do(func() {
		h.keep = keep
		close(h.quit)
	})
}

// nextEpoch is larger than that of every former start of this data directory, whatever the clock does.
func nextEpoch(dir string, now time.Time) (uint64, error) {
	path := filepath.Join(dir, "epoch")
	last := uint64(0)
	if b, err := os.ReadFile(path); err == nil {
		last, _ = strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
	} else if !errors.Is(err, os.ErrNotExist) {
		return 0, err
	}
	next := max(last+1, uint64(now.UnixMilli()))
	return next, writeFile(path, []byte(strconv.FormatUint(next, 10)+"\n"))
}

// writeFile replaces a file: a reader sees the old one or the new one.
func writeFile(path string, b []byte) error {
	if err := os.WriteFile(path+".tmp", b, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".tmp", path)
}

// writeState tells the queen where the hive is.
func (h *Hive) writeState() error {
	start, err := engine.StartTime(os.Getpid())
	if err != nil {
		start = ""
	}
	b, err := json.Marshal(map[string]any{"pid": os.Getpid(), "start_time": start, "address": h.address, "id": h.c.id, "version": h.c.version})
	if err != nil {
		return err
	}
	return writeFile(filepath.Join(h.c.dataDir, "hive.json"), b)
}

// advertised is the address that a queen on this machine can dial.
func advertised(ln net.Listener) string {
	a, ok := ln.Addr().(*net.TCPAddr)
	if !ok {
		return ln.Addr().String()
	}
	if a.IP.IsUnspecified() {
		return fmt.Sprintf("127.0.0.1:%d", a.Port)
	}
	return a.String()
}
