package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"onceover/phash"
)

func newPHash() *cobra.Command {
	var distance, asJSON bool
	var pillow string
	cmd := &cobra.Command{
		Use:   "phash FILE...",
		Short: "Print the perceptual hash of pictures, as Python's imagehash does",
		Long: `Prints one line a file: 64 hex digits, two spaces, the name. The hash is
str(imagehash.phash(image, hash_size=16)) of Python. FILE may be - for standard
input. With --distance it compares two pictures (or two hashes): 0 to 256 bits.`,
		Example: `  onceover phash photo.jpg other.png
  onceover phash --distance photo.jpg copy.jpg`,
		Args: someArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			out := cmd.OutOrStdout()
			order, err := phash.ParseOrder(pillow)
			if err != nil {
				return usageError(fmt.Errorf("--pillow: %w", err))
			}
			if distance {
				if len(args) != 2 {
					return usageError(fmt.Errorf("--distance compares two files: got %d", len(args)))
				}
				a, err := hashOf(cmd, args[0], order)
				if err != nil {
					return err
				}
				b, err := hashOf(cmd, args[1], order)
				if err != nil {
					return err
				}
				if asJSON {
					return json.NewEncoder(out).Encode(map[string]any{"distance": a.Distance(b), "a": a.String(), "b": b.String()})
				}
				fmt.Fprintln(out, a.Distance(b))
				return nil
			}
			failed := 0
			for _, name := range args {
				h, err := hashOf(cmd, name, order)
				switch {
				case err != nil:
					failed++
					fmt.Fprintln(cmd.ErrOrStderr(), "onceover:", err)
				case asJSON:
					err := json.NewEncoder(out).Encode(map[string]any{"file": name, "phash": h.String(), "degenerate": h.Degenerate()})
					if err != nil {
						return err
					}
				default:
					fmt.Fprintf(out, "%s  %s\n", h, name)
				}
			}
			if failed > 0 {
				return &exitCodeError{code: exitError}
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&distance, "distance", false, "print the Hamming distance of two pictures in bits")
	cmd.Flags().StringVar(&pillow, "pillow", "", "`release` of Pillow of the Python services that share the cache; from 12.2 on tall pictures hash differently")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON, one object a line")
	return cmd
}

// maxPicturePixels bounds what the command decodes; it is an operator's own
// file, so the bound is wide.
const maxPicturePixels = 200_000_000

// hashOf hashes a file, or reads a hash that stands in its place.
func hashOf(cmd *cobra.Command, name string, order phash.Order) (phash.Hash, error) {
	if h, err := phash.Parse(name); err == nil {
		return h, nil
	}
	data, _, err := readPicture(cmd, name)
	if err != nil {
		return phash.Hash{}, err
	}
	f, err := phash.Of(data, order)
	if err != nil {
		return phash.Hash{}, fmt.Errorf("%s: %w", name, err)
	}
	return f.Hash, nil
}

// readPicture reads a file, or the standard input as -, and looks at its header.
func readPicture(cmd *cobra.Command, name string) ([]byte, phash.Info, error) {
	var data []byte
	var err error
	if name == "-" {
		data, err = io.ReadAll(interruptible{cmd.Context(), cmd.InOrStdin()})
	} else {
		data, err = os.ReadFile(name)
	}
	if err != nil {
		return nil, phash.Info{}, err
	}
	info, err := phash.Inspect(data)
	if err != nil {
		return nil, info, fmt.Errorf("%s: %w", name, err)
	}
	if info.Width*info.Height > maxPicturePixels {
		return nil, info, fmt.Errorf("%s: has %d x %d pixels: at most %d million are accepted", name, info.Width, info.Height, maxPicturePixels/1_000_000)
	}
	return data, info, nil
}
