package testenv

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Python returns the path of the interpreter that has the newest Celery, redis-py,
// ImageHash, Pillow and msgpack: ONCEOVER_TEST_PYTHON, or what scripts/setup has
// put into .cache/venv. modules are the importable names that the test needs, such
// as "celery", "redis" or "imagehash"; the test is skipped where one is missing.
func Python(t testing.TB, modules ...string) string {
	t.Helper()
	for _, m := range modules {
		if notCompared(m) {
			t.Skipf(NotCompared+"Python module %s is not installed", m)
		}
	}
	python, err := findPython()
	check(t, err)
	check(t, hasModules(python, modules))
	return python
}

// OldPython returns a Python with Celery 5.2, which Debian 12 has.
func OldPython(t testing.TB) string {
	t.Helper()
	if notCompared("celery-5.2") {
		t.Skipf(NotCompared + "Celery 5.2 is not installed")
	}
	python := os.Getenv(oldPythonEnv)
	if python == "" {
		check(t, &missingError{what: "Python environment .cache/venv-old", hint: "run the tests by scripts/test"})
	}
	check(t, hasModules(python, []string{"celery", "redis"}))
	return python
}

func findPython() (string, error) {
	if python := os.Getenv(pythonEnv); python != "" {
		return python, nil
	}
	root, err := moduleRoot()
	if err != nil {
		return "", err
	}
	python := filepath.Join(root, ".cache", "venv", "bin", "python")
	if _, err := os.Stat(python); err != nil {
		return "", &missingError{what: "Python environment .cache/venv", hint: "set " + pythonEnv + " to a Python that has celery"}
	}
	return python, nil
}

// hasModules looks the modules up without importing them, which would take
// half a second for Celery.
func hasModules(python string, modules []string) error {
	const find = "import sys, importlib.util as u; print(*[m for m in sys.argv[1:] if not u.find_spec(m)])"
	out, err := exec.Command(python, append([]string{"-c", find}, modules...)...).Output()
	if err != nil {
		return fmt.Errorf("run %s: %w", python, err)
	}
	if missing := strings.Fields(string(out)); len(missing) > 0 {
		return &missingError{
			what: "Python module " + strings.Join(missing, ", "),
			hint: python + " -m pip install " + strings.Join(missing, " "),
		}
	}
	return nil
}

// moduleRoot returns the nearest folder with a go.mod; go test runs a test in
// the folder of its package.
func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("find the module's folder: no go.mod above the working directory")
		}
		dir = parent
	}
}
