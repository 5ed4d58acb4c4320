package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.uber.org/zap"

	"onceover/internal/config"
	"onceover/internal/console"
	"onceover/internal/embedded"
	"onceover/internal/samples"
)

func newDev(s stop) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Run the worker on an embedded broker and Redis, and stay up",
		Long: `Starts a broker, a Redis, the worker and the HTTP side in this process, each on
a free port of this machine, and prints what a Celery producer needs. Everything
is kept in memory: it is gone when this ends. Flags and variables are those of
"onceover worker", except that the servers are always its own.`,
		Example: `  onceover dev
  ONCEOVER_VISION_URL=https://api.openai.com/v1 ONCEOVER_VISION_MODEL=… onceover dev`,
		Args: noArgs,
	}
	settings := config.Bind(cmd.Flags())
	settings.ServeAPI = true
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		var svc *service
		l, err := startLocal(settings, cmd.Flags(), func(s *config.Settings) (err error) {
			log, err := newLogger(s)
			if err != nil {
				return err
			}
			svc, err = newService(s, log)
			return err
		})
		if err != nil {
			return err
		}
		defer l.close()
		defer svc.close()
		l.banner(cmd.OutOrStdout(), svc)
		err = svc.run(cmd.Context(), s)
		// Of an embedded server: it answers, whatever ctx is.
		kept, _ := svc.failed.Count(context.WithoutCancel(cmd.Context()))
		if n := l.servers.Unfinished(); n+kept.Failed+kept.Parked > 0 {
			fmt.Fprintf(cmd.OutOrStdout(), "\n%d messages, %d failed and %d parked jobs are dropped: the embedded servers keep nothing.\n",
				n, kept.Failed, kept.Parked)
		}
		return err
	}
	return cmd
}

// local is everything that dev and demo run beside the worker.
type local struct {
	servers  *embedded.Servers
	pictures *pictureServer
	uploads  string // a temporary folder
}

// startLocal starts the embedded servers, points the settings to them, and
// calls build.
func startLocal(s *config.Settings, fs *pflag.FlagSet, build func(*config.Settings) error) (_ *local, err error) {
	l := &local{}
	defer func() {
		if err != nil {
			l.close()
		}
	}()
	if l.servers, err = embedded.Start(zap.NewNop()); err != nil {
		return nil, err
	}
	if l.pictures, err = servePictures(); err != nil {
		return nil, err
	}
	redis := l.servers.RedisURL()
	// As flags, so that no variable of this shell points elsewhere.
	own := map[string]string{
		"broker-url": l.servers.BrokerURL(), "redis-url": redis,
		"results-url": redis + "/0", "cache-url": redis + "/1", "progress-url": redis + "/2",
		"failed-url": redis + "/5", "limits-url": redis + "/3", "blacklist-url": redis + "/4",
	}
	for _, name := range slices.Sorted(maps.Keys(own)) {
		if fs.Changed(name) {
			return nil, usageError(fmt.Errorf("--%s has no place here: the servers are always its own; use \"onceover worker\"", name))
		}
	}
	for name, value := range own {
		if err := fs.Set(name, value); err != nil {
			return nil, err
		}
	}
	if !fs.Changed("http-addr") && os.Getenv("ONCEOVER_HTTP_ADDR") == "" {
		if err := fs.Set("http-addr", "127.0.0.1:0"); err != nil {
			return nil, err
		}
	}
	if err := load(s, fs); err != nil {
		return nil, err
	}
	// The embedded broker has no quorum queues to delay tasks with, and at the start
	// there is no other worker.
	s.Worker.DelayedDelivery, s.Worker.Mingle = false, false
	// The sample pictures are on loopback.
	s.Image.Allow = append(s.Image.Allow, "127.0.0.1/32")
	if s.ServeAPI && s.Uploads == "" && s.Image.Root == "" {
		if l.uploads, err = os.MkdirTemp("", "onceover-uploads-"); err != nil {
			return nil, fmt.Errorf("make a folder for uploads: %w", err)
		}
		s.Uploads, s.Image.Root = l.uploads, l.uploads
	}
	return l, build(s)
}

func (l *local) close() {
	if l.pictures != nil {
		l.pictures.close()
	}
	if l.servers != nil {
		l.servers.Close() // it is all gone anyway
	}
	if l.uploads != "" {
		os.RemoveAll(l.uploads) // so are the pictures
	}
}

func (l *local) banner(out io.Writer, svc *service) {
	http, api := "off", ""
	if svc.gateway != nil {
		base := "http://" + svc.gateway.Addr()
		http = base + "/readyz  /healthz  /metrics  /openapi.json"
		if svc.front.ops != nil {
			api = fmt.Sprintf("The operators' page:\n\n    %s%s\n\n", base, console.Base)
		}
		api += fmt.Sprintf("A picture of yours:\n\n    curl -F file=@photo.jpg %s/api/v1/%s/analyze\n\n", base, svc.front.settings.Domain)
	}
	fmt.Fprintf(out, `onceover dev: everything in this process, in memory only

  broker   %s
  redis    %s
  http     %s

%sA Celery producer (pip install "celery[redis]"):

%s
Ctrl-C stops.

`, l.servers.BrokerURL(), l.servers.RedisURL(), http, api, l.snippet())
}

// snippet is a producer in Python that works as it stands.
func (l *local) snippet() string {
	code := fmt.Sprintf(`from celery import Celery

app = Celery(broker="%s", backend="%s/0")
result = app.send_task(
    "image.analyze",
    kwargs={"image_url": "%s"},
    exchange="tasks", routing_key="ai.analyze",
)
print(result.get(timeout=30))
`, l.servers.BrokerURL(), l.servers.RedisURL(), l.pictures.url("bottle.jpg"))
	var b strings.Builder
	for line := range strings.Lines(code) {
		if line != "\n" {
			b.WriteString("    ")
		}
		b.WriteString(line)
	}
	return b.String()
}

// pictureServer serves the sample pictures on a free loopback port.
type pictureServer struct {
	listener net.Listener
	http     http.Server
	done     chan error
}

func servePictures() (*pictureServer, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("serve the sample pictures: %w", err)
	}
	p := &pictureServer{listener: listener, done: make(chan error, 1)}
	p.http.Handler = http.FileServerFS(samples.FS())
	go func() { p.done <- p.http.Serve(listener) }()
	return p, nil
}

func (p *pictureServer) url(file string) string {
	return "http://" + p.listener.Addr().String() + "/" + file
}

func (p *pictureServer) close() {
	p.http.Close()
	if err := <-p.done; !errors.Is(err, http.ErrServerClosed) {
		fmt.Fprintln(os.Stderr, "onceover: sample pictures:", err)
	}
}

// runInBackground runs the service until the returned function is called, which
// waits for its end.
func runInBackground(ctx context.Context, svc *service) (stopAndWait func() error) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- svc.run(ctx, stop{}) }()
	return func() error {
		cancel()
		return <-done
	}
}
