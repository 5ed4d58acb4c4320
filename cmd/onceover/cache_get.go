package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"onceover/cache"
)

func newCacheGet() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "get IMAGE|HASH",
		Short: "Print what is cached for a picture",
		Long: `Prints the analysis that is kept for a picture itself, under its hash or its file;
what a near picture would answer is shown by inspect. Exit code 4 if there is none.

With --json: name, key, phash and digest where they are known, ttl_seconds (null if
it never runs out), and the entry as it is stored, null if there is none.`,
		Example: `  onceover cache get photo.jpg
  onceover cache get 9a4abef7e4b5d348c15a85848525035217da7fad7ebb7ad76a85e325a01cc244
  curl -s https://example.com/a.jpg | onceover cache get - --json | jq .entry.category
  onceover cache get photo.jpg --lang en`,
		Args: exactArgs(1),
	}
	s := bindCache(cmd, "redis-url", "cache-url", "pillow")
	s.bindVariant(cmd.Flags())
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := s.load(); err != nil {
			return err
		}
		ctx, v := cmd.Context(), s.variant()
		c, sub, closeCache, err := s.openPicture(cmd, args[0], v)
		if err != nil {
			return err
		}
		defer closeCache()
		own, err := c.Own(ctx, v, sub.Picture)
		if err != nil {
			return err
		}
		key, found := own[0].Key, own[0].Stored
		if asJSON {
			if err := printJSON(cmd.OutOrStdout(), sub.document(key, found)); err != nil {
				return err
			}
			if found == nil {
				return &exitCodeError{code: exitNotFinished}
			}
			return nil
		}
		if found == nil {
			return &exitCodeError{exitNotFinished, sub.nothing(key)}
		}
		out := fields{cmd.OutOrStdout()}
		out.print("key", "%s", key)
		out.entry(found)
		return nil
	}
	return cmd
}

// cachedPicture is how a picture and its entry are printed in JSON.
type cachedPicture struct {
	Name       string       `json:"name"`
	Key        string       `json:"key"`
	PHash      string       `json:"phash,omitempty"`
	Digest     string       `json:"digest,omitempty"`
	TTLSeconds *int64       `json:"ttl_seconds"`
	Entry      *cache.Entry `json:"entry"`
}

func (s *subject) document(key string, found *cache.Stored) cachedPicture {
	doc := cachedPicture{Name: s.name, Key: key}
	if s.hasHash {
		doc.PHash = s.Hash.String()
	}
	if s.Digest != (cache.Digest{}) {
		doc.Digest = s.Digest.String()
	}
	if found != nil {
		doc.TTLSeconds, doc.Entry = ttlSeconds(found.TTL), &found.Entry
	}
	return doc
}

// nothing says that there is no entry.
func (s *subject) nothing(key string) error {
	if key == "" {
		return fmt.Errorf("nothing is cached under %s: as a hash it can be no key (%d of its 256 bits are set, expected 128), and as the SHA-256 of a file it is not known",
			plainLine(s.name, 100), bitsSet(s.Hash))
	}
	return fmt.Errorf("nothing is cached for %s under %s: it was never looked at, has run out or was removed; onceover cache inspect shows what is near", plainLine(s.name, 100), key)
}
