package redisretry

import "time"

type Kind int

const (
	Outage Kind = iota
	Rights
)

type Fault struct {
	Role   string
	Kind   Kind
	Since  time.Time
	Err    error
	Remedy string
}

func (g *Guard) Fault() *Fault { return nil }
