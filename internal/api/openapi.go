package api

import (
	_ "embed" // the description
	"strings"
)

//go:embed openapi.json
var description string

// describe returns the description with the paths of a domain.
func describe(domain string) []byte {
	return []byte(strings.ReplaceAll(description, "/api/v1/waste/", "/api/v1/"+domain+"/"))
}
