package source

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestConfigValidate(t *testing.T) {
	t.Parallel()
	if err := DefaultConfig().Validate(); err != nil {
		t.Errorf("DefaultConfig: got %v, want valid", err)
	}
	tests := []struct {
		name   string
		change func(*Config)
		want   []string // fields named, one a line
	}{
		{"zero value", func(c *Config) { *c = Config{} }, []string{"MaxBytes", "ConnectTimeout", "HeaderTimeout", "BodyTimeout"}},
		{"allowed", func(c *Config) {
			c.Allow = []string{"minio", "a-b.c_d.test", "10.0.0.0/8", "10.1.2.3", "fd00::/8", "fd00::1", "::ffff:10.0.0.0/104"}
		}, nil},
		{"not allowed", func(c *Config) {
			c.Allow = []string{"", "minio:9000", "http://minio", "10.0.0.0/33", "10.0.0", "*.test", "fe80::1%eth0", "bücher.test", "[::1]"}
		}, []string{"Allow", "Allow", "Allow", "Allow", "Allow", "Allow", "Allow", "Allow", "Allow"}},
		{"relative root", func(c *Config) { c.Root = "pictures" }, []string{"Root"}},
		{"too many bytes", func(c *Config) { c.MaxBytes = 1<<30 + 1 }, []string{"MaxBytes"}},
		{"endpoint", func(c *Config) { c.S3.Endpoint = "https://minio:9000/" }, nil},
		{"endpoint without scheme", func(c *Config) { c.S3.Endpoint = "minio:9000" }, []string{"S3.Endpoint"}},
		{"endpoint with path", func(c *Config) { c.S3.Endpoint = "http://minio/bucket" }, []string{"S3.Endpoint"}},
		{"endpoint with credentials", func(c *Config) { c.S3.Endpoint = "http://u:SECRET@minio" }, []string{"S3.Endpoint"}},
		{"half the credentials", func(c *Config) { c.S3.SecretAccessKey = "SECRET" }, []string{"S3.AccessKeyID"}},
		{"token alone", func(c *Config) { c.S3.SessionToken = "SECRET" }, []string{"S3.SessionToken"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			cfg := DefaultConfig()
			tt.change(&cfg)
			var got []string
			if err := cfg.Validate(); err != nil {
				for _, line := range strings.Split(err.Error(), "\n") {
					field, _, _ := strings.Cut(strings.TrimPrefix(line, "source: "), " ")
					got = append(got, strings.TrimSuffix(field, ":"))
				}
				if strings.Contains(err.Error(), "SECRET") {
					t.Errorf("error shows a secret: %v", err)
				}
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("fields named (-want +got):\n%s", diff)
			}
			if f, err := New(cfg); (err == nil) != (tt.want == nil) {
				t.Errorf("New: got error %v, want the same verdict as Validate's", err)
			} else if err == nil {
				f.Close()
			}
		})
	}
}

func TestNewChecksRoot(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, root := range []string{file, file + "-missing"} {
		cfg := DefaultConfig()
		cfg.Root = root
		if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), "Root: ") {
			t.Errorf("New with root %s: got error %v, want one that names Root", root, err)
		}
	}
}

func TestS3ConfigFromEnv(t *testing.T) {
	t.Parallel()
	full := map[string]string{
		"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_SESSION_TOKEN": "token",
		"AWS_REGION": "r1", "AWS_DEFAULT_REGION": "r2", "AWS_ENDPOINT_URL_S3": "http://e1", "AWS_ENDPOINT_URL": "http://e2",
	}
	tests := []struct {
		name string
		env  map[string]string
		want S3Config
	}{
		{"nothing", nil, S3Config{}},
		{"everything", full, S3Config{Endpoint: "http://e1", Region: "r1", AccessKeyID: "id", SecretAccessKey: "secret", SessionToken: "token"}},
		{"the general names", map[string]string{"AWS_DEFAULT_REGION": "r2", "AWS_ENDPOINT_URL": "http://e2"}, S3Config{Endpoint: "http://e2", Region: "r2"}},
	}
	for _, tt := range tests {
		got := S3ConfigFromEnv(func(name string) string { return tt.env[name] })
		if got != tt.want {
			t.Errorf("%s: got %v, want %v", tt.name, got, tt.want)
		}
	}
}

func TestConfigPrintsNoSecrets(t *testing.T) {
	t.Parallel()
	cfg := DefaultConfig()
	cfg.S3 = S3Config{Endpoint: "http://minio:9000", AccessKeyID: "SECRET1", SecretAccessKey: "SECRET2", SessionToken: "SECRET3"}
	asJSON, err := json.Marshal(cfg)
	if err != nil {
		t.Fatal(err)
	}
	for _, got := range []string{
		fmt.Sprint(cfg), fmt.Sprintf("%+v", cfg), fmt.Sprintf("%#v", cfg), fmt.Sprintf("%+v", &cfg), fmt.Sprint(cfg.S3), string(asJSON),
	} {
		if strings.Contains(got, "SECRET") {
			t.Errorf("got %s, want no secret in it", got)
		}
		if !strings.Contains(got, "http://minio:9000") {
			t.Errorf("got %s, want the endpoint in it", got)
		}
	}
}
