package top

import (
	"context"
	"errors"
	"io"
	"time"

	tea "charm.land/bubbletea/v2"
)

// Source is where the fleet is read.
type Source struct {
	// Fetch reads everything once.
	Fetch func(ctx context.Context) (Fleet, error)
	// Changes calls changed for each thing that happens until ctx ends or the stream breaks.
	Changes func(ctx context.Context, changed func()) error
}

// every is the pause between two readings while nothing is heard to change; changes are drawn at once, but not more often
// than each settle.
const (
	every  = 2 * time.Second
	settle = 200 * time.Millisecond
)

type fetched struct {
	fleet Fleet
	err   error
}

type tick struct{}

type model struct {
	fleet         Fleet
	width, height int
	now           func() time.Time
	style         Style
}

// Init implements tea.Model.
func (m model) Init() tea.Cmd { return again() }

func again() tea.Cmd { return tea.Tick(time.Second, func(time.Time) tea.Msg { return tick{} }) }

// Update implements tea.Model.
func (m model) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case tea.KeyPressMsg:
		switch msg.String() {
		case "q", "ctrl+c", "esc":
			return m, tea.Quit
		}
	case tea.WindowSizeMsg:
		m.width, m.height = msg.Width, msg.Height
	case tick:
		return m, again() // ages go on
	case fetched:
		if msg.err != nil {
			m.fleet.Problem = msg.err.Error() // what was known stays on the screen
			return m, nil
		}
		m.fleet = msg.fleet
	}
	return m, nil
}

// View implements tea.Model.
func (m model) View() tea.View {
	v := tea.NewView("")
	if m.width > 0 {
		v = tea.NewView(View(m.fleet, m.width, m.height, m.now(), m.style) + "\n" + m.style("HEAD:q") + " quits")
	}
	v.AltScreen = true
	return v
}

// Run draws the fleet until q is pressed or ctx ends.
func Run(ctx context.Context, first Fleet, s Source, in io.Reader, out io.Writer, style Style) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	p := tea.NewProgram(model{fleet: first, now: time.Now, style: style}, tea.WithContext(ctx), tea.WithInput(in), tea.WithOutput(out), tea.WithoutSignalHandler())
	done := make(chan struct{})
	go func() {
		defer close(done)
		follow(ctx, s, p.Send)
	}()
	_, err := p.Run()
	interrupted := ctx.Err() != nil
	cancel()
	<-done
	if interrupted || errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// follow reads the fleet again after each change, and now and then.
func follow(ctx context.Context, s Source, send func(tea.Msg)) {
	dirty := make(chan struct{}, 1)
	go func() {
		for ctx.Err() == nil {
			_ = s.Changes(ctx, func() { // a stream that breaks is opened again; Fetch tells why
				select {
				case dirty <- struct{}{}:
				default:
				}
			})
			pause(ctx, every)
		}
	}()
	for {
		f, err := s.Fetch(ctx)
		if ctx.Err() != nil {
			return
		}
		send(fetched{f, err})
		pause(ctx, settle)
		select {
		case <-ctx.Done():
			return
		case <-dirty:
		case <-time.After(every):
		}
	}
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
