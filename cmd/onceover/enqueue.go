package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"onceover/celery"
	"onceover/internal/config"
	"onceover/internal/redact"
	"onceover/phash"
	"onceover/progress"
	"onceover/rabbit"
	"onceover/tasks"
)

// order is what enqueue was asked for.
type order struct {
	exchange, routingKey, queue string
	question, lang, model       string
	byPath, wait, asJSON        bool
	timeout                     time.Duration
}

func newEnqueue() *cobra.Command {
	var o order
	cmd := &cobra.Command{
		Use:   "enqueue FILE|FOLDER|URL...",
		Short: "Send image.analyze for pictures, as a Celery producer would",
		Long: `Publishes one image.analyze message a picture and prints its task id, which is
its job id too. A file is sent inside its message, as a data: URL; with --by-path
its file:// URL is sent, and the worker has to be allowed to read it. A folder
stands for the pictures in it.`,
		Example: `  onceover enqueue photo.jpg
  onceover enqueue --wait --question "Where does this go?" https://example.com/photo.jpg
  onceover enqueue --queue celery photos/`,
		Args: someArgs,
	}
	settings := config.Bind(cmd.Flags(), "broker-url", "redis-url", "results-url", "progress-url")
	f := cmd.Flags()
	f.StringVar(&o.exchange, "exchange", rabbit.ExchangeTasks, "exchange to publish to")
	f.StringVar(&o.routingKey, "routing-key", "ai.analyze", "routing key")
	f.StringVar(&o.queue, "queue", "", "publish straight to this queue instead")
	f.StringVar(&o.question, "question", "", "the person's question about the picture (user_input)")
	f.StringVar(&o.lang, "answer-lang", "", "language of the answer")
	f.StringVar(&o.model, "model", "", "model to ask, instead of the worker's own")
	f.BoolVar(&o.byPath, "by-path", false, "send the path of a file, not its content")
	f.BoolVar(&o.wait, "wait", false, "show the progress and then the result; exit code 3 if a job fails")
	f.DurationVar(&o.timeout, "timeout", 0, "with --wait: give up after this (default: wait for ever)")
	f.BoolVar(&o.asJSON, "json", false, "print JSON, one object a line")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := load(settings, cmd.Flags()); err != nil {
			return err
		}
		return o.run(cmd, settings, args)
	}
	return cmd
}

func (o order) run(cmd *cobra.Command, s *config.Settings, args []string) error {
	ctx, out := cmd.Context(), cmd.OutOrStdout()
	var pictures []string
	for _, arg := range args {
		urls, err := o.picturesOf(arg, s.Image.MaxBytes)
		if err != nil {
			return err
		}
		pictures = append(pictures, urls...)
	}
	if o.wait {
		if err := connectRedis(ctx, "results-url", s.ResultsURL); err != nil {
			return err
		}
	}
	p, err := newProducer(ctx, s.Worker.BrokerURLs, o.queue)
	if err != nil {
		return err
	}
	defer p.close()
	exchange, key := o.exchange, o.routingKey
	if o.queue != "" {
		exchange, key = "", o.queue
	}
	var ids []string
	for _, url := range pictures {
		kwargs := map[string]any{"image_url": url}
		for name, value := range map[string]string{"user_input": o.question, "lang": o.lang, "model": o.model} {
			if value != "" {
				kwargs[name] = value
			}
		}
		id, err := p.send(ctx, exchange, key, tasks.NameAnalyze, kwargs)
		if err != nil {
			return fmt.Errorf("enqueue %s: %w", redact.URL(url), err)
		}
		ids = append(ids, id)
		if o.asJSON && !o.wait {
			if err := json.NewEncoder(out).Encode(map[string]string{"task_id": id, "image": redact.URL(url)}); err != nil {
				return err
			}
		} else if !o.asJSON {
			fmt.Fprintln(out, id)
		}
	}
	if !o.wait {
		return nil
	}
	return o.await(cmd, s, ids)
}

// await shows the jobs until all have ended.
func (o order) await(cmd *cobra.Command, s *config.Settings, ids []string) error {
	ctx, cancel := withTimeout(cmd.Context(), o.timeout)
	defer cancel()
	rs, ps, closeStores, err := openStores(s)
	if err != nil {
		return err
	}
	defer closeStores()
	b := newBoard(os.Stderr)
	defer b.close()
	var worst error
	for _, id := range ids {
		var last progress.Update
		m, err := finished(ctx, rs, ps, id, id, func(u progress.Update) {
			if u != last && !o.asJSON {
				b.show(id, u)
			}
			last = u
		})
		if errors.Is(err, errTimedOut) {
			return &exitCodeError{exitNotFinished, fmt.Errorf("task %s has not ended within %v; it last showed %q", id, o.timeout, last.Stage)}
		}
		if err != nil {
			return err
		}
		if err := printMeta(cmd.OutOrStdout(), m, o.asJSON); err != nil {
			return err
		}
		if err := exitOf(m); err != nil {
			worst = err
		}
	}
	return worst
}

// picturesOf returns the URLs of the pictures that an argument names.
func (o order) picturesOf(arg string, maxBytes int64) ([]string, error) {
	if u, err := url.Parse(arg); err == nil && len(u.Scheme) > 1 {
		return []string{arg}, nil
	}
	info, err := os.Stat(arg)
	if err != nil {
		return nil, usageError(fmt.Errorf("%w: expected a file, a folder or a URL", err))
	}
	if !info.IsDir() {
		u, err := o.urlOfFile(arg, maxBytes)
		return []string{u}, err
	}
	entries, err := os.ReadDir(arg)
	if err != nil {
		return nil, err
	}
	var urls []string
	for _, e := range entries {
		path := filepath.Join(arg, e.Name())
		if !e.Type().IsRegular() || !isPicture(path) {
			continue
		}
		u, err := o.urlOfFile(path, maxBytes)
		if err != nil {
			return nil, err
		}
		urls = append(urls, u)
	}
	if len(urls) == 0 {
		return nil, usageError(fmt.Errorf("folder %s has no pictures: expected JPEG, PNG, GIF, WebP, BMP or TIFF files", arg))
	}
	return urls, nil
}

func isPicture(path string) bool {
	data, err := os.ReadFile(path)
	if err != nil {
		return false
	}
	_, err = phash.Inspect(data)
	return err == nil
}

// urlOfFile refers to the file, or holds it.
func (o order) urlOfFile(path string, maxBytes int64) (string, error) {
	if o.byPath {
		abs, err := filepath.Abs(path)
		if err != nil {
			return "", err
		}
		return (&url.URL{Scheme: "file", Path: abs}).String(), nil
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	if int64(len(data)) > maxBytes {
		return "", fmt.Errorf("%s has %d bytes: at most %d are accepted", path, len(data), maxBytes)
	}
	return "data:" + http.DetectContentType(data) + ";base64," + base64.StdEncoding.EncodeToString(data), nil
}

// producer publishes tasks as Celery does.
type producer struct {
	conn *rabbit.Conn
	pub  *rabbit.Publisher
}

// newProducer connects and creates the default queue if it is missing, or the
// named one.
func newProducer(ctx context.Context, brokers []string, queue string) (*producer, error) {
	conn, err := rabbit.Dial(ctx, "onceover enqueue", brokers)
	if err != nil {
		return nil, err
	}
	if queue == "" {
		queue = "q.ai"
	}
	d, err := rabbit.Declare(ctx, conn, rabbit.QueueNamed(queue))
	if err == nil {
		err = d.Err()
	}
	if err != nil {
		rabbit.HangUp(conn)
		return nil, err
	}
	return &producer{conn, rabbit.NewPublisher(conn)}, nil
}

func (p *producer) close() {
	rabbit.HangUp(p.conn)
	p.pub.Close()
}

// send publishes a task and returns its id.
func (p *producer) send(ctx context.Context, exchange, key, task string, kwargs map[string]any) (string, error) {
	host, err := os.Hostname()
	if err != nil {
		host = "localhost"
	}
	req := &celery.Request{
		ID: uuid.NewString(), Task: task, Kwargs: map[string]json.RawMessage{},
		Origin: fmt.Sprintf("gen%d@%s", os.Getpid(), host),
	}
	for k, v := range kwargs {
		raw, err := celery.MarshalJSON(v)
		if err != nil {
			return "", fmt.Errorf("argument %s: %w", k, err)
		}
		req.Kwargs[k] = raw
	}
	m, err := rabbit.New(celery.Message{Request: req, Exchange: exchange, RoutingKey: key})
	if err != nil {
		return "", err
	}
	err = p.pub.Publish(ctx, m)
	if errors.Is(err, rabbit.ErrUnroutable) {
		return "", fmt.Errorf("%w; name another --routing-key or --queue", err)
	}
	return req.ID, err
}

// short is the first part of an id, for narrow tables.
func short(id string) string {
	head, _, _ := strings.Cut(id, "-")
	return head
}
