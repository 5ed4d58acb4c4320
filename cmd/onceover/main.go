// Command onceover runs and operates the worker; see onceover help.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	_ "time/tzdata" // the image has no zones, and TZ names one

	"github.com/redis/go-redis/v9"

	"onceover/worker"
)

// Exit codes; "onceover help exit-codes" prints this table.
const (
	exitOK          = 0
	exitError       = 1 // something went wrong
	exitUsage       = 2 // unknown command, flag or setting
	exitJobFailed   = 3 // the job that was asked about ended in FAILURE or REVOKED
	exitNotFinished = 4 // the job is unknown or not finished, nothing is cached for the picture, or the wait timed out
	exitReturned    = 5 // the worker stopped before its jobs had finished; they are back in the queue
	exitFaults      = 6 // the doctor has found errors
)

// exitError ends the program with a code of its own.
type exitCodeError struct {
	code int
	err  error // nil: what there was to say has been said
}

func (e *exitCodeError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit code %d", e.code)
	}
	return e.err.Error()
}

func (e *exitCodeError) Unwrap() error { return e.err }

func usageError(err error) error { return &exitCodeError{exitUsage, err} }

// silent is a logger for go-redis that says nothing.
type silent struct{}

func (silent) Printf(context.Context, string, ...any) {}

// stop carries the two signals of a shutdown: the first ends the context, the
// second closes again.
type stop struct {
	again <-chan struct{}
}

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	again := make(chan struct{})
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(signals)
	go func() { // ends with the process
		<-signals
		cancel()
		<-signals
		close(again)
	}()

	// The stores report an outage once; the client would report each attempt.
	redis.SetLogger(silent{})

	root := newRoot(stop{again: again})
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	var coded *exitCodeError
	var returned *worker.ReturnedError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &returned):
		return exitReturned // the log has said it
	case errors.As(err, &coded):
		if coded.err != nil {
			fmt.Fprintln(os.Stderr, "onceover:", coded.err)
		}
		return coded.code
	case errors.Is(err, context.Canceled):
		fmt.Fprintln(os.Stderr, "onceover: interrupted")
		return exitError
	default:
		fmt.Fprintln(os.Stderr, "onceover:", err)
		return exitError
	}
}
