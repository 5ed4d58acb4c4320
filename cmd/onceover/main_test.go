package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"onceover": func() { os.Exit(run(os.Args[1:])) },
	})
}

// TestScripts runs testdata/script. Each script finds a few pictures in its
// folder.
func TestScripts(t *testing.T) {
	golden, err := filepath.Abs("../../phash/testdata/golden")
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			for _, name := range []string{"gif.gif", "flat-red.png", "bmp-24.bmp"} {
				data, err := os.ReadFile(filepath.Join(golden, name))
				if err != nil {
					return err
				}
				if err := os.WriteFile(filepath.Join(env.WorkDir, name), data, 0o600); err != nil {
					return err
				}
			}
			return nil
		},
	})
}
