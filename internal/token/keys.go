package token

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/MicahParks/keyfunc/v3"
	"github.com/golang-jwt/jwt/v5"
	"go.uber.org/zap"
	"golang.org/x/sync/singleflight"
)

const (
	keysTimeout = 5 * time.Second
	keysSize    = 1 << 20          // of the document, in bytes
	keysFresh   = 15 * time.Minute // after which the keys are asked for again
	keysPause   = 30 * time.Second // between two requests for the keys, whatever tokens come
	keysMissing = 5 * time.Second  // the same while there are none
)

// errUnknownKey says that a token names a key that the issuer does not have.
var errUnknownKey = errors.New("unknown key")

// keysAwayError says that there are no keys to verify with.
type keysAwayError struct{ err error }

func (e *keysAwayError) Error() string { return "the issuer's keys cannot be had: " + e.err.Error() }
func (e *keysAwayError) Unwrap() error { return e.err }

// keySet is the issuer's set of keys. It is asked for at most once in keysPause: tokens that name unknown keys cost nobody
// anything. Keys that were had are used while new ones are asked for, and while the issuer does not answer.
type keySet struct {
	url    string
	http   *http.Client
	log    *zap.Logger
	flight singleflight.Group
	ctx    context.Context // ends with close
	end    context.CancelFunc
	behind sync.WaitGroup // requests that nobody waits for

	mu    sync.Mutex
	keys  keyfunc.Keyfunc // nil before the first answer
	had   time.Time       // when keys came
	asked time.Time
	err   error // of the last request

	refreshing bool // behind
}

func newKeySet(url string, log *zap.Logger) *keySet {
	s := &keySet{url: url, log: log, http: &http.Client{Timeout: keysTimeout, Transport: http.DefaultTransport.(*http.Transport).Clone()}}
	s.ctx, s.end = context.WithCancel(context.Background())
	return s
}

func (s *keySet) close() {
	s.end()
	s.behind.Wait()
	s.http.CloseIdleConnections()
}

// find returns the key that a token names, or all keys if it names none.
func (s *keySet) find(t *jwt.Token) (any, error) {
	keys, err := s.current(false)
	if err != nil {
		return nil, err
	}
	key, err := keys.Keyfunc(t)
	if err == nil {
		return key, nil
	}
	// The issuer may have a new one.
	if keys, err = s.current(true); err != nil {
		return nil, err
	}
	if key, err = keys.Keyfunc(t); err != nil {
		return nil, errUnknownKey
	}
	return key, nil
}

// current returns the keys. If there are none, or they are in doubt, it asks for them, unless that was just done.
func (s *keySet) current(doubt bool) (keyfunc.Keyfunc, error) {
	switch keys, due := s.held(doubt); {
	case due && keys != nil && !doubt:
		s.goBehind()
	case due:
		s.fetch(doubt)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.keys == nil {
		return nil, &keysAwayError{s.err}
	}
	return s.keys, nil
}

// goBehind asks the issuer while the older keys are used.
func (s *keySet) goBehind() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refreshing {
		return
	}
	s.refreshing = true
	s.behind.Go(func() {
		s.fetch(false)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.refreshing = false
	})
}

// held returns the keys, nil if there are none, and whether it is time to ask.
func (s *keySet) held(doubt bool) (keyfunc.Keyfunc, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	pause := keysPause
	if s.keys == nil {
		pause = keysMissing
	}
	due := (doubt || s.keys == nil || time.Since(s.had) >= keysFresh) && (s.asked.IsZero() || time.Since(s.asked) >= pause)
	return s.keys, due
}

// fetch asks the issuer, keysTimeout at most, if it is still time to. Whoever comes meanwhile waits for the same answer.
func (s *keySet) fetch(doubt bool) {
	_, _, _ = s.flight.Do("", func() (any, error) {
		if _, due := s.held(doubt); due {
			s.refresh()
		}
		return nil, nil
	})
}

// refresh asks the issuer.
func (s *keySet) refresh() {
	keys, err := s.ask(s.ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked, s.err = time.Now(), err
	if err == nil {
		s.keys, s.had = keys, s.asked
		return
	}
	if s.ctx.Err() != nil {
		return
	}
	s.log.Warn("the keys that verify tokens cannot be had", zap.Bool("older_ones_are_used", s.keys != nil), zap.Error(err))
}

func (s *keySet) ask(ctx context.Context) (keyfunc.Keyfunc, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/jwk-set+json, application/json")
	resp, err := s.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answered %s, expected 200", req.URL.Redacted(), resp.Status)
	}
	doc, err := io.ReadAll(io.LimitReader(resp.Body, keysSize))
	if err != nil {
		return nil, err
	}
	keys, err := read(doc)
	if err != nil {
		return nil, fmt.Errorf("%s answered no set of keys: %w", req.URL.Redacted(), err)
	}
	return keys, nil
}

// read reads a JSON Web Key Set. Keys that cannot be read, or are of other kinds, are left out.
func read(doc []byte) (keyfunc.Keyfunc, error) {
	var set jwkset.JWKSMarshal
	if err := json.Unmarshal(doc, &set); err != nil {
		return nil, err
	}
	store, reason, found := jwkset.NewMemoryStorage(), errors.New("it has no key for RS256 or ES256"), false
	for _, k := range set.Keys {
		if k.KTY != jwkset.KtyRSA && k.KTY != jwkset.KtyEC {
			continue
		}
		key, err := jwkset.NewJWKFromMarshal(k, jwkset.JWKMarshalOptions{}, jwkset.JWKValidateOptions{})
		if err == nil {
			err = store.KeyWrite(context.Background(), key)
		}
		if err != nil {
			reason = fmt.Errorf("key %q: %w", k.KID, err)
			continue
		}
		found = found || k.USE == jwkset.UseSig || k.USE == ""
	}
	if !found {
		return nil, reason
	}
	return keyfunc.New(keyfunc.Options{Storage: store, UseWhitelist: []jwkset.USE{jwkset.UseSig, ""}})
}
