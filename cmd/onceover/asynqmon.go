package main

import (
	"encoding/json"
	"net"

	"github.com/hibiken/asynqmon"
	"github.com/redis/go-redis/v9"

	"onceover/internal/api"
	"onceover/internal/config"
)

// asynqmonPath is where Asynqmon is mounted.
const asynqmonPath = "/asynqmon"

// redisOptions makes clients for asynq's tools (asynq.RedisConnOpt).
type redisOptions struct{ opt *redis.Options }

func (o redisOptions) MakeRedisClient() any { return redis.NewClient(o.opt) }

// newAsynqmon returns Asynqmon on the store of failed jobs, nil if it is not wanted.
func newAsynqmon(s *config.Settings) (*asynqmon.HTTPHandler, error) {
	if s.Asynqmon == "off" || s.Asynqmon == "auto" && !isLoopback(s.HTTPAddr) {
		return nil, nil
	}
	opt, err := config.ParseRedisURL("failed-url", s.FailedURL)
	if err != nil {
		return nil, err
	}
	opt.ClientName = "onceover-asynqmon"
	return asynqmon.New(asynqmon.Options{
		RootPath: asynqmonPath, RedisConnOpt: redisOptions{opt}, PayloadFormatter: asynqmon.PayloadFormatterFunc(formatPayload),
	}), nil
}

// formatPayload shows a record without its message, which may hold secrets.
func formatPayload(_ string, payload []byte) string {
	var fields map[string]json.RawMessage
	if json.Unmarshal(payload, &fields) != nil {
		return "not a job of onceover"
	}
	delete(fields, "message")
	doc, err := json.Marshal(fields)
	if err != nil {
		return "not a job of onceover"
	}
	return string(doc)
}

// isLoopback tells whether only this machine can reach an address to listen on.
func isLoopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	return err == nil && api.IsLocalName(host)
}
