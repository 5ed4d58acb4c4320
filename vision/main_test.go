package vision

import (
	"testing"

	"onceover/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }
