package eval

import (
	"context"
	"encoding/json"
	"errors"
	"testing"

	"onceover/internal/testenv"
	"onceover/vision"
)

func TestMain(m *testing.M) { testenv.Main(m) }

const testPrompt = "1a2b3c4d"

// fakeAnalyzer plays a model: each call is answered by analyze.
type fakeAnalyzer struct {
	analyze func(context.Context, *vision.Preview, vision.Options) (vision.Answer, vision.Usage, error)
}

func (f fakeAnalyzer) Analyze(ctx context.Context, p *vision.Preview, opt vision.Options) (vision.Answer, vision.Usage, error) {
	return f.analyze(ctx, p, opt)
}

func (fakeAnalyzer) Feedback(context.Context, json.RawMessage, string, vision.Options) (string, vision.Usage, error) {
	return "", vision.Usage{}, errors.New("was not to be asked")
}

func (fakeAnalyzer) Model(string) string { return "fake" }

func (fakeAnalyzer) PromptVersion(string) string { return testPrompt }

func fakeModel(name string, analyze func(context.Context, *vision.Preview, vision.Options) (vision.Answer, vision.Usage, error)) Model {
	return Model{Name: name, Analyzer: fakeAnalyzer{analyze}}
}
