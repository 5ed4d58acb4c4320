package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"onceover/internal/config"
	"onceover/vision"
)

func newVision() *cobra.Command {
	cmd := &cobra.Command{Use: "vision", Short: "Look at the endpoint of the vision model"}
	cmd.AddCommand(newVisionCheck())
	return cmd
}

func newVisionCheck() *cobra.Command {
	var asJSON bool
	var name string
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Ask the endpoint about a built-in picture, and say what it takes",
		Long: `Makes at most four calls, with a built-in picture of two colours, and says whether the
endpoint takes a picture as a data URL and the model sees it; whether it enforces,
heeds, ignores or refuses json_schema and json_object; in which field the answer
comes; what it says of tokens and limits; how long it took; and which settings follow.
Exit code 1 if pictures cannot be analysed there. The calls are paid for, and pass
neither the limits nor the budget of the workers. With a file of models it is the first
endpoint, or the one that --endpoint names.`,
		Example: `  onceover vision check --vision-url https://api.openai.com/v1 --vision-model gpt-4o-mini
  ONCEOVER_VISION_URL=http://127.0.0.1:11434/v1 ONCEOVER_VISION_MODEL=llava onceover vision check --json`,
		Args: cobra.NoArgs,
	}
	s := config.Bind(cmd.Flags(), "vision-url", "vision-model", "vision-api-key", "vision-timeout", "vision-price-in", "vision-price-out", "vision-format", "models")
	cmd.Flags().StringVar(&name, "endpoint", "", "the `name` of an endpoint in the file of models (default: the first)")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := load(s, cmd.Flags()); err != nil {
			return err
		}
		cfg, err := endpointOf(s, name)
		if err != nil {
			return usageError(err)
		}
		o, err := vision.NewOpenAI(cfg)
		if err != nil {
			return usageError(err)
		}
		p, err := o.Check(cmd.Context())
		if p == nil {
			return err
		}
		out := cmd.OutOrStdout()
		if asJSON {
			if perr := printJSON(out, profileJSON(p, err)); perr != nil {
				return perr
			}
		} else {
			drawProfile(out, p)
		}
		switch {
		case err != nil:
			return err
		case !p.Usable():
			return errors.New("pictures cannot be analysed there")
		}
		return nil
	}
	return cmd
}

// endpointOf is the endpoint of a name, "" for the first.
func endpointOf(s *config.Settings, name string) (vision.OpenAIConfig, error) {
	if len(s.Models) == 0 {
		return vision.OpenAIConfig{}, errors.New("vision-url is not set, nor is models: expected the endpoint to look at")
	}
	var names []string
	for _, e := range s.Models {
		if name == "" || e.Name == name {
			return e.OpenAIConfig, e.NoKey
		}
		names = append(names, e.Name)
	}
	return vision.OpenAIConfig{}, fmt.Errorf("no endpoint is named %q: expected one of %s", name, strings.Join(names, ", "))
}

func drawProfile(out io.Writer, p *vision.Profile) {
	f := fields{out}
	f.print("model", "%s", p.Model)
	f.print("answers", "%s", p.Answered)
	f.print("picture", "%s", map[vision.Support]string{
		vision.Enforced: "seen", vision.Ignored: "taken, not seen", vision.Denies: "refused", vision.Untried: "not tried"}[p.Picture])
	f.print("json_schema", "%s", p.JSONSchema)
	f.print("json_object", "%s", p.JSONObject)
	f.print("works with", "%s", orDash(string(p.Format)))
	f.print("answer in", "%s", orDash(p.Where))
	f.print("latency", "%v", p.Latency.Round(time.Millisecond))
	if p.CountsUsage {
		f.print("tokens", "%s prompt, %s completion in %s", number(p.Usage.PromptTokens), number(p.Usage.CompletionTokens), count(p.Calls, "call", "calls"))
	} else {
		f.print("tokens", "not counted, in %s", count(p.Calls, "call", "calls"))
	}
	if p.Usage.CostMicroUSD > 0 {
		f.print("cost", "%s", usd(p.Usage.CostMicroUSD))
	}
	for _, name := range p.LimitNames() {
		f.print("limit", "%s: %s", name, p.Limits[name])
	}
	for _, line := range p.Advice {
		f.print("note", "%s", line)
	}
}

// profileJSON is how a profile is printed in JSON.
func profileJSON(p *vision.Profile, err error) any {
	out := map[string]any{
		"model": p.Model, "answered": p.Answered, "picture": p.Picture, "json_schema": p.JSONSchema, "json_object": p.JSONObject,
		"format": p.Format, "where": p.Where, "calls": p.Calls, "usage": p.Usage, "counts_usage": p.CountsUsage, "limits": p.Limits,
		"latency_seconds": p.Latency.Seconds(), "advice": append([]string{}, p.Advice...), "usable": err == nil && p.Usable(),
	}
	if err != nil {
		out["error"] = strings.TrimSpace(fmt.Sprint(err))
	}
	return out
}
