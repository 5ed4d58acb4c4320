package ledger_test

import (
	"context"
	"fmt"
	"net"
	"sync/atomic"
	"testing"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"onceover/celery"
	"onceover/internal/testenv"
	"onceover/results"
)

// counted counts the writes to a connection: each is one round trip.
type counted struct {
	net.Conn
	n *atomic.Int64
}

func (c counted) Write(b []byte) (int, error) {
	c.n.Add(1)
	return c.Conn.Write(b)
}

// BenchmarkEnd compares, for a task that runs once, Begin, Record and Release with a pipeline that
// stores and publishes the result, whatever is there.
func BenchmarkEnd(b *testing.B) {
	var trips atomic.Int64
	c := client(b, testenv.Redis(b).URL(), func(o *redis.Options) {
		o.Dialer = func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := (&net.Dialer{}).DialContext(ctx, network, addr)
			return counted{conn, &trips}, err
		}
	})
	store := results.New(c, zap.NewNop())
	ctx := b.Context()
	run := func(name string, end func(m celery.Meta) error) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			before := trips.Load()
			for i := range b.N {
				if err := end(meta(b, fmt.Sprint(name, i), celery.Success)); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(trips.Load()-before)/float64(b.N), "trips/op")
		})
	}
	run("Plain", func(m celery.Meta) error {
		doc, err := celery.MarshalJSON(m)
		if err != nil {
			return err
		}
		_, err = c.Pipelined(ctx, func(p redis.Pipeliner) error {
			p.Set(ctx, results.Key(m.TaskID), doc, results.TTL)
			p.Publish(ctx, results.Key(m.TaskID), doc)
			return nil
		})
		return err
	})
	run("Record", func(m celery.Meta) error {
		_, err := store.Record(ctx, m, celery.Stored{})
		return err
	})
	run("BeginRecord", func(m celery.Meta) error {
		stored, _, err := store.Begin(ctx, m.TaskID, "run", "", "")
		if err == nil {
			_, err = store.Record(ctx, m, stored)
		}
		return err
	})
	run("BeginRecordRelease", func(m celery.Meta) error {
		stored, _, err := store.Begin(ctx, m.TaskID, "run", "", "")
		if err == nil {
			_, err = store.Record(ctx, m, stored)
		}
		if err == nil {
			err = store.Release(ctx, m.TaskID, "run")
		}
		return err
	})
}
