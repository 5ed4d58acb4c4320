package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"onceover": func() { os.Exit(run(os.Args[1:])) },
		"offset":   printOffset,
	})
}

// printOffset prints how many seconds local time is ahead of UTC, as a program does
// that finds no file with time zones: it may open none.
func printOffset() {
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{}); err != nil {
		panic(err)
	}
	_, east := time.Now().Zone()
	fmt.Println(east)
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
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			// exitcode N ARGUMENT... runs onceover and wants exit code N.
			"exitcode": func(ts *testscript.TestScript, neg bool, args []string) {
				want, err := strconv.Atoi(args[0])
				ts.Check(err)
				var exit *exec.ExitError
				got := 0
				if err := ts.Exec("onceover", args[1:]...); errors.As(err, &exit) {
					got = exit.ExitCode()
				}
				if (got == want) == neg {
					ts.Fatalf("exit code %d, want %d", got, want)
				}
			},
		},
		Setup: func(env *testscript.Env) error {
			for _, name := range []string{"gif.gif", "flat-red.png", "bmp-24.bmp", "png-size-63x65.png"} {
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
