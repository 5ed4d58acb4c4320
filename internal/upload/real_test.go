//go:build s3

package upload_test

import (
	"bytes"
	"errors"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"onceover/internal/source"
	"onceover/internal/testenv"
	"onceover/internal/upload"
)

// TestRealS3 puts pictures on a server that speaks S3 and checks signatures, versitygw, and has a worker fetch them. `make s3` installs
// the server and runs it.
func TestRealS3(t *testing.T) {
	const bucket = "pictures"
	root, endpoint := s3Server(t, bucket)
	keys := source.S3Config{Endpoint: endpoint, AccessKeyID: s3Key, SecretAccessKey: s3Secret}
	s := open(t, "s3://"+bucket+"/up loads", keys)
	worker := fetcher(t, func(c *source.Config) { c.S3 = keys })
	random := rand.NewChaCha8([32]byte{1})
	for _, size := range []int{1, 100_000, 5 << 20, 9_500_000} {
		picture := make([]byte, size)
		random.Read(picture)
		url, err := s.Put(t.Context(), bytes.NewReader(picture))
		if err != nil {
			t.Fatalf("%d bytes: %v", size, err)
		}
		if got, err := worker.Fetch(t.Context(), url); err != nil || !bytes.Equal(got, picture) {
			t.Errorf("%d bytes: got %d of them from %s, %v", size, len(got), url, err)
		}
		for range 2 { // what has gone is no fault
			if err := s.Remove(t.Context(), url); err != nil {
				t.Errorf("%d bytes: remove: %v", size, err)
			}
		}
		var gone *source.Error
		if _, err := worker.Fetch(t.Context(), url); !errors.As(err, &gone) || gone.Kind != source.NotFound {
			t.Errorf("%d bytes: got %v for %s after its removal, want that it is not there", size, err, url)
		}
	}

	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.Type().IsRegular() {
			t.Errorf("of what was removed %s is left", path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}

	wrong := keys
	wrong.SecretAccessKey = "another"
	for want, s := range map[string]upload.Store{
		"SignatureDoesNotMatch": open(t, "s3://"+bucket, wrong),
		"NoSuchBucket":          open(t, "s3://another", keys),
	} {
		if _, err := s.Put(t.Context(), bytes.NewReader([]byte("x"))); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

const s3Key, s3Secret = "key", "secretsecret"

// s3Server starts versitygw for t with one bucket. It returns the folder in which it keeps what it has, and its URL.
func s3Server(t *testing.T, bucket string) (root, endpoint string) {
	t.Helper()
	program, err := exec.LookPath("versitygw")
	if err != nil {
		t.Fatalf("%v: run this test by make s3, which installs it", err)
	}
	dir := t.TempDir()
	root, sidecar := filepath.Join(dir, "root"), filepath.Join(dir, "sidecar")
	for _, d := range []string{filepath.Join(root, bucket), sidecar} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	address := net.JoinHostPort("127.0.0.1", strconv.Itoa(testenv.FreePort(t)))
	cmd := exec.Command(program, "--port", address, "posix", "--sidecar", sidecar, root)
	cmd.Env = append(os.Environ(), "ROOT_ACCESS_KEY="+s3Key, "ROOT_SECRET_KEY="+s3Secret)
	server, err := testenv.OpenProgram(cmd, filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Kill)
	err = server.WaitReady(t.Context(), time.Minute, func() bool {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			return false
		}
		conn.Close()
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	return root, "http://" + address
}
