package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/queen-rbee/queen-rbee/cmd/rbee/internal/client"
)

// download is one event of a download, or its end.
type download struct {
	State      string  `json:"state"`
	Node       string  `json:"node"`
	File       string  `json:"file"`
	BytesDone  float64 `json:"bytes_done"`
	BytesTotal float64 `json:"bytes_total"`
	Rate       float64 `json:"bytes_per_second"`
	ETA        float64 `json:"eta_seconds"`
	Code       string  `json:"code"`
	Message    string  `json:"message"`
}

func (d download) final() bool {
	return d.State == "ready" || d.State == "failed" || d.State == "cancelled"
}

func (a *cli) pull() *cobra.Command {
	var hive, as string
	var cancel bool
	c := &cobra.Command{Use: "pull MODEL", Short: "Get a model onto a hive", Args: args(cobra.ExactArgs(1)), ValidArgsFunction: a.complete(modelNames), RunE: func(cmd *cobra.Command, v []string) error {
		if as != "" {
			if err := a.c.JSON(cmd.Context(), "PUT", "/v2/models/"+url.PathEscape(as), record{"ref": v[0]}, nil); err != nil {
				return err
			}
		}
		body := record{"model_ref": v[0]}
		if as != "" {
			body["model_ref"] = as // with the commit that the name now means
		}
		if hive != "" {
			body["node"] = hive
		}
		if cancel {
			return a.cancelPull(cmd.Context(), v[0], body)
		}
		return a.follow(cmd.Context(), v[0], body)
	}}
	c.Flags().StringVar(&hive, "hive", "", "onto this hive")
	c.Flags().StringVar(&as, "as", "", "offer it under this name")
	c.Flags().BoolVar(&cancel, "cancel", false, "stop the download that is under way; what was fetched stays for the next time")
	return c
}

type accepted struct {
	ID        string `json:"download_id"`
	EventsURL string `json:"events_url"`
}

// pullPatience is how long a pull waits for a queen that went away to come back.
const pullPatience = 30 * time.Second

// follow begins a download, or joins the one under way, and shows it to its end. A queen that is restarted meanwhile goes
// on with it, and so does this.
func (a *cli) follow(ctx context.Context, name string, body record) error {
	bar := newBar(a)
	defer bar.close()
	heard := time.Now()
	for first := true; ; first = false {
		done, moved, err := a.followOnce(ctx, body, bar)
		switch {
		case done:
			return err
		case ctx.Err() != nil:
			bar.close()
			a.note("%s: the download goes on in the background; rbee pull --cancel %s stops it", name, name)
			return nil
		case first && !moved && err != nil:
			return err
		}
		if moved {
			heard = time.Now()
		}
		if time.Since(heard) > pullPatience {
			if err == nil {
				err = errors.New("the queen's stream ended before the download did: pull again to follow it")
			}
			return err
		}
		select {
		case <-ctx.Done():
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// followOnce follows one stream. done says that err is the download's own end; moved that something was heard.
func (a *cli) followOnce(ctx context.Context, body record, bar *bar) (done, moved bool, err error) {
	var out accepted
	if err := a.c.JSON(ctx, "POST", "/v2/models/download", body, &out); err != nil {
		var api *client.APIError
		return errors.As(err, &api) && api.Code != "SHUTTING_DOWN" && api.Code != "HIVE_FAILED", false, err
	}
	err = a.c.Events(ctx, "GET", out.EventsURL, nil, func(ev client.Event) error {
		var d download
		if err := json.Unmarshal(ev.Data, &d); err != nil {
			return err
		}
		moved = true
		if d.Code == "SHUTTING_DOWN" {
			return errGone
		}
		if a.structured() {
			if err := a.event("Progress", ev); err != nil {
				return err
			}
		} else {
			bar.show(d, ev.Name == "end")
		}
		if ev.Name != "end" {
			return nil
		}
		done = true
		if d.State != "ready" {
			return &client.APIError{Code: d.Code, Message: d.Message}
		}
		return nil
	})
	return done, moved, err
}

var errGone = errors.New("the queen is stopping")

func (a *cli) cancelPull(ctx context.Context, name string, body record) error {
	var out accepted
	if err := a.c.JSON(ctx, "POST", "/v2/models/download", body, &out); err != nil { // joins the one under way
		return err
	}
	if err := a.c.JSON(ctx, "DELETE", "/v2/operations/"+url.PathEscape(out.ID), nil, nil); err != nil {
		return err
	}
	a.note("%s: download cancelled", name)
	return nil
}

// bar shows progress on stderr: one line that is drawn again on a terminal, else a line now and then.
type bar struct {
	a        *cli
	terminal bool
	drawn    bool
	state    string
	last     time.Time
}

// plainEvery is the pause between lines where there is no terminal.
const plainEvery = 5 * time.Second

func newBar(a *cli) *bar {
	b := &bar{a: a}
	b.terminal = isTerminal(a.errOut)
	return b
}

func (b *bar) show(d download, end bool) {
	if b.a.quiet {
		return
	}
	if end {
		b.close()
		if d.State == "ready" {
			b.a.note("%s", d.Message)
		}
		return
	}
	if d.final() {
		return // the end says it with its reason
	}
	if b.terminal {
		_, _ = fmt.Fprintf(b.a.errOut, "\r%s\x1b[K", barText(d, 30))
		b.drawn = true
		return
	}
	if d.State != b.state || time.Since(b.last) >= plainEvery {
		b.state, b.last = d.State, time.Now()
		b.a.note("%s", barText(d, 0))
	}
}

// close ends the line that was drawn.
func (b *bar) close() {
	if b.drawn {
		_, _ = fmt.Fprintln(b.a.errOut)
		b.drawn = false
	}
}

// barText is one line: state, bar (of so many characters, 0 for none), percent, bytes, rate and remaining time.
func barText(d download, width int) string {
	parts := []string{d.State}
	if d.BytesTotal > 0 {
		part := min(1, max(0, d.BytesDone/d.BytesTotal))
		if n := int(part * float64(width)); width > 0 {
			parts = append(parts, "["+strings.Repeat("=", n)+strings.Repeat(" ", width-n)+"]")
		}
		done := bytesText(d.BytesDone)
		if d.BytesDone <= 0 {
			done = "0 B"
		}
		parts = append(parts, fmt.Sprintf("%3.0f%%", part*100), done+" of "+bytesText(d.BytesTotal))
		if d.Rate > 0 {
			parts = append(parts, bytesText(d.Rate)+"/s")
		}
		if d.ETA > 0 && part < 1 {
			parts = append(parts, (time.Duration(d.ETA)*time.Second).String()+" left")
		}
	} else if d.Message != "" && d.Message != d.State {
		parts = append(parts, d.Message)
	}
	return strings.Join(parts, "  ")
}

func (a *cli) rm() *cobra.Command {
	var hive string
	c := &cobra.Command{Use: "rm MODEL [--hive HIVE]", Short: "Drop a model's files from a hive, or from all", Args: args(cobra.ExactArgs(1)), ValidArgsFunction: a.complete(modelNames), RunE: func(cmd *cobra.Command, v []string) error {
		list, err := a.fetch(cmd.Context(), "/v2/models/list", "models")
		if err != nil {
			return err
		}
		dropped := 0
		for _, m := range list {
			node := text(m["node"])
			if m["model"] != v[0] && m["model_ref"] != v[0] || hive != "" && node != hive {
				continue
			}
			if err := a.c.JSON(cmd.Context(), "DELETE", "/v2/models", record{"node": node, "model_ref": m["model_ref"]}, nil); err != nil {
				return err
			}
			a.note("%s: dropped from %s", v[0], node)
			dropped++
		}
		if dropped == 0 {
			return fmt.Errorf("no hive has files of %s: rbee ls lists the models", v[0])
		}
		return nil
	}}
	c.Flags().StringVar(&hive, "hive", "", "from this hive only")
	return c
}
