package testenv

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

// litellmStarts is how long LiteLLM may take to start: usual are 10 s of one core.
const litellmStarts = 4 * time.Minute

// LiteLLM starts LiteLLM's proxy with a configuration in YAML for t, and stops it when t ends. It
// returns the proxy's base URL, without /v1.
func LiteLLM(t testing.TB, config string) string {
	t.Helper()
	if notCompared("litellm") {
		t.Skipf(NotCompared + "LiteLLM is not installed")
	}
	program := os.Getenv(litellmEnv)
	if program == "" {
		check(t, &missingError{what: "LiteLLM in .cache/venv-litellm", hint: "run the tests by scripts/test"})
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "config.yaml")
	check(t, os.WriteFile(file, []byte(config), 0o600))
	ports, err := takePorts(1)
	check(t, err)
	t.Cleanup(ports.release)
	cmd := exec.Command(program, "--config", file, "--host", "127.0.0.1", "--port", strconv.Itoa(ports.numbers[0]))
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "HOME="+dir, "LITELLM_TELEMETRY=False", "LITELLM_LOCAL_MODEL_COST_MAP=True", "NO_COLOR=1")
	server, err := startProcess("litellm", cmd, filepath.Join(dir, "log"))
	check(t, err)
	t.Cleanup(server.kill)
	url := "http://" + loopback(ports.numbers[0])
	check(t, server.waitReady(t.Context(), litellmStarts, func() bool {
		resp, err := http.Get(url + "/health/liveliness")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	}))
	return url
}
