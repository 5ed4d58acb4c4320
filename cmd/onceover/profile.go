//go:build profile

package main

import (
	"net/http"
	_ "net/http/pprof"
	"os"
)

// A worker built with -tags profile serves profiles at ONCEOVER_PROFILE_ADDR, such as 127.0.0.1:6060.
func init() {
	if addr := os.Getenv("ONCEOVER_PROFILE_ADDR"); addr != "" {
		go func() { panic(http.ListenAndServe(addr, nil)) }()
	}
}
