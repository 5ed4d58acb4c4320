package testenv

import (
	"fmt"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// leaveIn is how long goroutines may take to end after the tests. A goroutine of go-redis sleeps for up to a second after its client
// is closed, if the server did not answer before that (internal/pool, tryDial).
const leaveIn = 5 * time.Second

// Main is the TestMain of packages that start goroutines: it runs the tests, and fails if a goroutine is left after them.
func Main(m *testing.M) {
	code := m.Run()
	if code == 0 {
		left := goleak.Find()
		for end := time.Now().Add(leaveIn); left != nil && time.Now().Before(end); {
			left = goleak.Find()
		}
		if left != nil {
			fmt.Fprintln(os.Stderr, "goroutines are left after the tests, want none:", left)
			code = 1
		}
	}
	os.Exit(code)
}
