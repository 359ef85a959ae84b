package prommetrics

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	otelprom "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/metric"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	tracenoop "go.opentelemetry.io/otel/trace/noop"
)

// Options choose the exporters. The zero value serves Prometheus and traces nothing.
type Options struct {
	Service      string            // service.name, "" = queen-rbee
	Version      string            // service.version
	NoPrometheus bool              // collect no metrics: Handler answers 404
	Remote       string            // service.name of the processes whose spans RemoteTracer takes, "" = rbee-hive
	NoRuntime    bool              // leave out the go_* and process_* series
	OTLPEndpoint string            // http(s)://host:port[/path] of an OTLP receiver, "" = no traces
	OTLPHeaders  map[string]string // sent with each export
	SampleRatio  float64           // part of the traces that are kept when the caller did not decide; 1 = all, 0 = at most 100 a second
	OnError      func(error)       // an export failed; nil = ignored
}

// Provider owns the SDK. Close it with Shutdown.
type Provider struct {
	meters   *sdkmetric.MeterProvider
	traces   *sdktrace.TracerProvider
	remotes  *sdktrace.TracerProvider // spans of another service, through the same exporter
	registry *prometheus.Registry
}

const scope = "github.com/queen-rbee/queen-rbee"

// New sets up the exporters that the options ask for. An OTLP receiver that is away does not make it fail.
func New(ctx context.Context, o Options) (*Provider, error) {
	if o.Service == "" {
		o.Service = "queen-rbee"
	}
	res := resource.NewSchemaless(attribute.String("service.name", o.Service), attribute.String("service.version", o.Version))
	p := &Provider{}
	if !o.NoPrometheus {
		if err := p.prometheus(o, res); err != nil {
			return nil, err
		}
	}
	if o.OTLPEndpoint != "" {
		if err := p.otlp(ctx, o, res); err != nil {
			return nil, errors.Join(err, p.Shutdown(ctx))
		}
	}
	return p, nil
}

func (p *Provider) prometheus(o Options, res *resource.Resource) error {
	p.registry = prometheus.NewRegistry()
	if !o.NoRuntime {
		p.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	}
	exporter, err := otelprom.New(otelprom.WithRegisterer(p.registry), otelprom.WithoutScopeInfo(), otelprom.WithoutTargetInfo())
	if err != nil {
		return fmt.Errorf("prometheus exporter: %w", err)
	}
	p.meters = sdkmetric.NewMeterProvider(sdkmetric.WithReader(exporter), sdkmetric.WithResource(res),
		sdkmetric.WithCardinalityLimit(2000))
	return nil
}

// CheckEndpoint says whether an OTLP endpoint has a form that New takes; "" has.
func CheckEndpoint(endpoint string) error {
	if endpoint == "" {
		return nil
	}
	u, err := url.Parse(endpoint)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return fmt.Errorf("telemetry.otlp_endpoint %q: want http://HOST:PORT or https://HOST:PORT", endpoint)
	}
	return nil
}

func (p *Provider) otlp(ctx context.Context, o Options, res *resource.Resource) error {
	if err := CheckEndpoint(o.OTLPEndpoint); err != nil {
		return err
	}
	u, err := url.Parse(o.OTLPEndpoint)
	if err != nil {
		return err
	}
	if strings.Trim(u.Path, "/") == "" {
		u.Path = "/v1/traces"
	}
	exporter, err := otlptracehttp.New(ctx, otlptracehttp.WithEndpointURL(u.String()), otlptracehttp.WithHeaders(o.OTLPHeaders))
	if err != nil {
		return fmt.Errorf("otlp exporter: %w", err)
	}
	sampler := sdktrace.ParentBased(root(o.SampleRatio))
	batch := sdktrace.NewBatchSpanProcessor(reporting{exporter, o.OnError}, sdktrace.WithMaxQueueSize(8192), sdktrace.WithMaxExportBatchSize(1024))
	p.traces = sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(batch), sdktrace.WithResource(res), sdktrace.WithSampler(sampler))
	if o.Remote == "" {
		o.Remote = "rbee-hive"
	}
	p.remotes = sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(shared{batch}),
		sdktrace.WithResource(resource.NewSchemaless(attribute.String("service.name", o.Remote))), sdktrace.WithSampler(sampler))
	return nil
}

// shared is a processor that another provider owns and ends.
type shared struct{ sdktrace.SpanProcessor }

// Shutdown leaves the end to the owner.
func (shared) Shutdown(context.Context) error { return nil }

// reporting tells a caller about failed exports instead of the SDK's global handler.
type reporting struct {
	sdktrace.SpanExporter
	onError func(error)
}

func (r reporting) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	err := r.SpanExporter.ExportSpans(ctx, spans)
	if err != nil && r.onError != nil {
		r.onError(err)
	}
	return nil
}

// Meter returns the meter for metrics.New.
func (p *Provider) Meter() metric.Meter {
	if p.meters == nil {
		return metricnoop.NewMeterProvider().Meter(scope)
	}
	return p.meters.Meter(scope)
}

// Tracer returns the tracer for metrics.New.
func (p *Provider) Tracer() trace.Tracer {
	if p.traces == nil {
		return tracenoop.NewTracerProvider().Tracer(scope)
	}
	return p.traces.Tracer(scope)
}

// RemoteTracer returns the tracer for metrics.Options.Remote: its spans belong to the service of Options.Remote.
func (p *Provider) RemoteTracer() trace.Tracer {
	if p.remotes == nil {
		return tracenoop.NewTracerProvider().Tracer(scope)
	}
	return p.remotes.Tracer(scope)
}

// Handler serves the Prometheus endpoint.
func (p *Provider) Handler() http.Handler {
	if p.registry == nil {
		return http.NotFoundHandler()
	}
	return promhttp.HandlerFor(p.registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4, EnableOpenMetrics: false})
}

// Flush sends the spans that wait.
func (p *Provider) Flush(ctx context.Context) error {
	if p.traces == nil {
		return nil
	}
	return p.traces.ForceFlush(ctx)
}

// Shutdown sends what waits and stops the exporters.
func (p *Provider) Shutdown(ctx context.Context) error {
	var errs []error
	if p.traces != nil {
		errs = append(errs, p.traces.Shutdown(ctx))
	}
	if p.meters != nil {
		errs = append(errs, p.meters.Shutdown(ctx))
	}
	return errors.Join(errs...)
}
