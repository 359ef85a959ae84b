package metrics

import (
	"context"
	"errors"
	"runtime"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/trace"
	tracenoop "go.opentelemetry.io/otel/trace/noop"
)

// Options describe the program. The zero value is usable.
type Options struct {
	Version   string
	Commit    string
	MaxModels int // distinct model labels, the rest is "other"; 0 = 200
	MaxHives  int // distinct hive labels; 0 = 200
	// Remote records the spans that other processes measured (RecordRemote); nil = the tracer itself.
	Remote trace.Tracer
}

// Instruments are all instruments of the program. Its methods may be called from any goroutine and never block.
type Instruments struct {
	meter  metric.Meter
	tracer trace.Tracer
	remote trace.Tracer
	silent bool // nobody collects traces

	models, hives, devices, codes, ops *bound

	duration, first, perToken, queueWait, schedule, load metric.Float64Histogram
	tokens                                               metric.Int64Histogram
	rejected, download, evictions, retries               metric.Int64Counter
	aborted, rescues, cached                             metric.Int64Counter

	buffer   buffer
	outcomes outcomes
	serving  gauges

	request, byModel, byTokens, byOp, byCode, byKind, byRetry, bySide, byPriority, byAction, byHive *sets
}

// buckets: requests and first tokens reach past ten seconds because a cold load is part of them.
func longBuckets() metric.HistogramOption {
	return metric.WithExplicitBucketBoundaries(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640)
}

// New creates the instruments on a meter and a tracer; nil means one that does nothing.
func New(meter metric.Meter, tracer trace.Tracer, o Options) (*Instruments, error) {
	if meter == nil {
		meter = noop.NewMeterProvider().Meter("")
	}
	silent := tracer == nil
	if _, off := tracer.(tracenoop.Tracer); off {
		silent = true
	}
	if tracer == nil {
		tracer = tracenoop.NewTracerProvider().Tracer("")
	}
	if o.MaxModels <= 0 {
		o.MaxModels = 200
	}
	if o.MaxHives <= 0 {
		o.MaxHives = 200
	}
	if o.Remote == nil {
		o.Remote = tracer
	}
	i := &Instruments{meter: meter, tracer: tracer, remote: o.Remote, silent: silent, models: newBound(o.MaxModels), hives: newBound(o.MaxHives), devices: newBound(64),
		codes: newBound(64), ops: newBound(64), outcomes: outcomes{m: make(map[key]*outcome)}, serving: gauges{m: make(map[string]*gauge)}}
	i.labelSets()
	if err := errors.Join(i.histograms(), i.counters(), i.active(), i.buildInfo(o)); err != nil {
		return nil, err
	}
	return i, nil
}

func (i *Instruments) labelSets() {
	provider := []attribute.KeyValue{attribute.String(keyProvider, "queen-rbee")}
	i.request = newSets(provider, keyOperation, keyModel, keyStatus, keyError)
	i.byModel = newSets(provider, keyOperation, keyModel)
	i.byTokens = newSets(provider, keyOperation, keyModel, keyTokenType)
	i.byOp = newSets(nil, keyOperation)
	i.byCode = newSets(nil, keyCode)
	i.byKind = newSets(nil, keyKind)
	i.byRetry = newSets(nil, keyOp)
	i.bySide = newSets(nil, keySide)
	i.byPriority = newSets(nil, keyPriority)
	i.byAction = newSets(nil, keyAction)
	i.byHive = newSets(nil, keyHive, keyName)
}

func (i *Instruments) histograms() error {
	var errs []error
	seconds := func(name, text string, b metric.HistogramOption) metric.Float64Histogram {
		h, err := i.meter.Float64Histogram(name, metric.WithUnit("s"), metric.WithDescription(text), b)
		errs = append(errs, err)
		return h
	}
	i.duration = seconds(nameRequestDuration, "Time from the request's arrival to its last byte", longBuckets())
	i.first = seconds(nameFirstToken, "Time from the request's arrival to its first token", longBuckets())
	i.perToken = seconds(namePerToken, "Time per output token after the first",
		metric.WithExplicitBucketBoundaries(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1, 2.5))
	i.queueWait = seconds(nameQueueWait, "Time that a job spent in the waiting line", longBuckets())
	i.schedule = seconds(nameSchedule, "Time of one scheduling decision",
		metric.WithExplicitBucketBoundaries(1e-6, 5e-6, 1e-5, 5e-5, 1e-4, 5e-4, 1e-3, 5e-3, 0.01, 0.05))
	i.load = seconds(nameLoad, "Time to bring a model's worker up",
		metric.WithExplicitBucketBoundaries(0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640, 1280))
	var err error
	i.tokens, err = i.meter.Int64Histogram(nameTokens, metric.WithUnit("{token}"),
		metric.WithDescription("Tokens of a request, by type"),
		metric.WithExplicitBucketBoundaries(1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576))
	return errors.Join(append(errs, err)...)
}

func (i *Instruments) counters() error {
	var errs []error
	count := func(name, unit, text string) metric.Int64Counter {
		c, err := i.meter.Int64Counter(name, metric.WithUnit(unit), metric.WithDescription(text))
		errs = append(errs, err)
		return c
	}
	i.rejected = count(nameRejected, "", "Requests that were refused, by code")
	i.download = count(nameDownload, "By", "Bytes of models downloaded, by hive")
	i.evictions = count(nameEvictions, "", "Workers stopped and files dropped to make room, by kind")
	i.retries = count(nameRetries, "", "Repeated attempts, by operation")
	i.aborted = count(nameAborted, "", "Streams that ended early, by the side that ended them")
	i.rescues = count(nameRescues, "", "Streams carried on by another worker, by action")
	i.cached = count(nameCached, "", "Prompt tokens that a worker's prefix cache held")
	return errors.Join(errs...)
}

// active shows the requests being served; its callback runs before the histograms are read, and hands on what waits for them.
func (i *Instruments) active() error {
	active, err := i.meter.Int64ObservableUpDownCounter(nameActive, metric.WithDescription("Requests being served"))
	if err != nil {
		return err
	}
	_, err = i.meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		i.buffer.flush()
		i.serving.observe(o, active)
		return nil
	}, active)
	return err
}

func (i *Instruments) buildInfo(o Options) error {
	set := metric.WithAttributes(attribute.String("version", o.Version), attribute.String("commit", o.Commit),
		attribute.String("go_version", runtime.Version()))
	_, err := i.meter.Int64ObservableGauge(nameBuild, metric.WithDescription("Always 1; the labels say what runs"),
		metric.WithInt64Callback(func(_ context.Context, obs metric.Int64Observer) error {
			obs.Observe(1, set)
			return nil
		}))
	return err
}

// Request is what is known of a request at its end.
type Request struct {
	Operation  string // chat, text_completion, embeddings, generate_content, or a short name of ours: never a raw path
	Model      string // the model's configured name, empty when there is none
	Status     int    // HTTP status that the client got
	Code       string // code of the error, empty for success
	Duration   time.Duration
	FirstToken time.Duration // 0 = no token came
	PerToken   time.Duration // 0 = unknown
	Prompt     int
	Output     int
	Cached     int
}

// RequestStart counts a request as being served until RequestDone.
func (i *Instruments) RequestStart(_ context.Context, operation string) {
	i.serving.get(i.ops.value(operation), i.byOp).n.Add(1)
}

// RequestDone records a request that RequestStart counted, with the same operation.
func (i *Instruments) RequestDone(ctx context.Context, r Request) {
	of := i.outcome(&r)
	of.active.n.Add(-1)
	var list [5]sample
	all := append(list[:0], sample{seconds: i.duration, v: r.Duration.Seconds(), labels: of.request})
	if r.FirstToken > 0 {
		all = append(all, sample{seconds: i.first, v: r.FirstToken.Seconds(), labels: of.byModel})
	}
	if r.PerToken > 0 {
		all = append(all, sample{seconds: i.perToken, v: r.PerToken.Seconds(), labels: of.byModel})
	}
	if r.Prompt > 0 {
		all = append(all, sample{whole: i.tokens, v: float64(r.Prompt), labels: of.input})
	}
	if r.Output > 0 {
		all = append(all, sample{whole: i.tokens, v: float64(r.Output), labels: of.output})
	}
	i.buffer.add(all...)
	if r.Cached > 0 {
		i.cached.Add(ctx, int64(r.Cached), of.byModel.add...)
	}
}

// RequestAbandoned takes back a RequestStart whose request turned out to be none: it attached to one that runs already.
func (i *Instruments) RequestAbandoned(_ context.Context, operation string) {
	i.serving.get(i.ops.value(operation), i.byOp).n.Add(-1)
}

func class(status int) string {
	switch {
	case status >= 200 && status < 300:
		return "2xx"
	case status >= 300 && status < 400:
		return "3xx"
	case status >= 400 && status < 500:
		return "4xx"
	case status >= 500 && status < 600:
		return "5xx"
	}
	return ""
}

// QueueWait records how long a job waited in the line.
func (i *Instruments) QueueWait(_ context.Context, priority string, d time.Duration) {
	if priority != "batch" {
		priority = "interactive"
	}
	i.buffer.add(sample{seconds: i.queueWait, v: d.Seconds(), labels: i.byPriority.get(key{a: priority})})
}

// Rejected counts a refused request by its code.
func (i *Instruments) Rejected(ctx context.Context, code string) {
	i.rejected.Add(ctx, 1, i.byCode.get(key{a: i.codes.value(code)}).add...)
}

// ScheduleDuration records one decision; action is route, provision, queue or reject.
func (i *Instruments) ScheduleDuration(_ context.Context, action string, d time.Duration) {
	i.buffer.add(sample{seconds: i.schedule, v: d.Seconds(), labels: i.byAction.get(key{a: i.ops.value(action)})})
}

// ModelLoad records how long a worker took to come up.
func (i *Instruments) ModelLoad(ctx context.Context, hive, model string, d time.Duration) {
	i.load.Record(ctx, d.Seconds(), i.byHive.get(key{a: i.hives.value(hive), b: i.models.value(model)}).record...)
}

// DownloadBytes counts bytes of a model that a hive downloaded.
func (i *Instruments) DownloadBytes(ctx context.Context, hive string, n int64) {
	i.download.Add(ctx, n, i.byHive.get(key{a: i.hives.value(hive)}).add...)
}

// Evicted counts what was stopped or dropped; kind is worker or file.
func (i *Instruments) Evicted(ctx context.Context, kind string) {
	i.evictions.Add(ctx, 1, i.byKind.get(key{a: i.ops.value(kind)}).add...)
}

// Retried counts a repeated attempt of an operation.
func (i *Instruments) Retried(ctx context.Context, op string) {
	i.retries.Add(ctx, 1, i.byRetry.get(key{a: i.ops.value(op)}).add...)
}

// Rescued counts a job that another worker carried on; action is retry or continue.
func (i *Instruments) Rescued(ctx context.Context, action string) {
	i.rescues.Add(ctx, 1, i.byAction.get(key{a: i.ops.value(action)}).add...)
}

// StreamAborted counts a stream that ended early; side is client (it left),
// reader (too slow, cut), worker or queen.
func (i *Instruments) StreamAborted(ctx context.Context, side string) {
	i.aborted.Add(ctx, 1, i.bySide.get(key{a: i.ops.value(side)}).add...)
}
