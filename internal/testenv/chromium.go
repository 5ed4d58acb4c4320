package testenv

import (
	"os/exec"
	"testing"
)

// Chromium returns the path of a Chromium or Chrome.
func Chromium(t testing.TB) string {
	t.Helper()
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	check(t, &missingError{what: "chromium", hint: "apt-get install chromium"})
	return ""
}
