package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"golang.org/x/term"

	"onceover/internal/config"
)

func newRoot(s stop) *cobra.Command {
	root := &cobra.Command{
		Use:   "onceover",
		Short: "Image analysis for Celery producers: every picture is looked at once",
		Long: `Onceover takes image-analysis jobs that Python Celery producers put on RabbitMQ,
looks at every picture once, and writes progress and Celery-readable results to
Redis. Start with "onceover demo": it needs nothing but this program.`,
		SilenceErrors: true,
		SilenceUsage:  true,

		SuggestionsMinimumDistance: 2,
		Args:                       unknownCommand,
		RunE:                       func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usageError(fmt.Errorf("%w; see %s --help", err, cmd.CommandPath()))
	})
	root.AddCommand(
		newParked(), newQueue(),
		newWorker(s), newGateway(), newDev(s), newDemo(),
		newEnqueue(), newWatch(), newResult(), newTop(), newFailed(), newCache(), newPrompts(), newVision(), newEval(s), newBench(), newBudget(), newPHash(), newTopology(), newDoctor(), newVersion(),
		&cobra.Command{
			Use:   "exit-codes",
			Short: "What the exit codes mean",
			Long: `Exit codes:

  0  done
  1  something went wrong; the message says what
  2  unknown command, flag or setting
  3  the job that was asked about ended in FAILURE or REVOKED
  4  the job is unknown or not finished, nothing is cached for the picture, or the
     wait timed out
  5  the worker stopped before its jobs had finished; they are back in the queue
  6  the doctor has found errors`,
		},
	)
	return root
}

// unknownCommand is the error for a first word that is no command.
func unknownCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	near := cmd.SuggestionsFor(args[0])
	if len(near) > 0 {
		return usageError(fmt.Errorf("unknown command %q: did you mean %s?", args[0], strings.Join(near, " or ")))
	}
	return usageError(fmt.Errorf("unknown command %q; see onceover --help", args[0]))
}

// noArgs, exactArgs and someArgs are cobra's checks with our exit code.
func noArgs(cmd *cobra.Command, args []string) error { return usage(cobra.NoArgs(cmd, args)) }

func exactArgs(n int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error { return usage(cobra.ExactArgs(n)(cmd, args)) }
}

func someArgs(cmd *cobra.Command, args []string) error {
	return usage(cobra.MinimumNArgs(1)(cmd, args))
}

func usage(err error) error {
	if err != nil {
		return usageError(err)
	}
	return nil
}

// load completes the settings from the environment and prints the warnings.
func load(s *config.Settings, fs *pflag.FlagSet) error {
	warnings, err := s.Load(fs, os.Environ())
	for _, w := range warnings {
		fmt.Fprintln(os.Stderr, "onceover: warning:", w)
	}
	if err != nil {
		return usageError(fmt.Errorf("the configuration is not valid:\n%w", err))
	}
	return nil
}

// newLogger logs to stderr.
func newLogger(s *config.Settings) (*zap.Logger, error) {
	return newLoggerTo(zapcore.Lock(os.Stderr), s)
}

func newLoggerTo(out zapcore.WriteSyncer, s *config.Settings) (*zap.Logger, error) {
	level, err := zapcore.ParseLevel(s.LogLevel)
	if err != nil {
		return nil, fmt.Errorf("log level: %w", err)
	}
	enc := zap.NewProductionEncoderConfig()
	enc.TimeKey, enc.EncodeTime = "time", zapcore.RFC3339NanoTimeEncoder
	console := s.LogFormat == "console" || s.LogFormat == "" && isTerminal(os.Stderr)
	var encoder zapcore.Encoder
	if console {
		enc.EncodeTime = zapcore.TimeEncoderOfLayout("15:04:05.000")
		enc.EncodeLevel = zapcore.CapitalLevelEncoder
		enc.ConsoleSeparator = "  "
		encoder = zapcore.NewConsoleEncoder(enc)
	} else {
		encoder = zapcore.NewJSONEncoder(enc)
	}
	return zap.New(zapcore.NewCore(encoder, out, level)), nil
}

func isTerminal(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }
