package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"onceover/internal/config"
	"onceover/vision"
	"onceover/vision/prompt"
)

func newPrompts() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "prompts",
		Short: "Check, show and begin the prompts, schemas and messages of a folder",
		Long: `What the model is asked, the form of its answer, and the messages that people see are
files in a folder, which --prompts or $ONCEOVER_PROMPTS names for the workers. The
layout is that of dotprompt: analysis.prompt for jobs in any language,
analysis.ko.prompt for those in Korean, feedback.prompt for questions about a
picture, messages.ko.yaml for the progress.`,
	}
	cmd.AddCommand(newPromptsCheck(), newPromptsShow(), newPromptsInit())
	return cmd
}

func newPromptsCheck() *cobra.Command {
	return &cobra.Command{
		Use:   "check [DIR]",
		Short: "Say all that is wrong with a folder of prompts",
		Long: `Reads a folder of prompts, by default the one that is built in, and prints what it
holds, with the version of each prompt: answers of another version are not used any
more. Exit code 1 if anything is wrong: each fault has a line with its place.`,
		Example: `  onceover prompts check prompts/`,
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir := ""
			if len(args) > 0 {
				dir = args[0]
			}
			folder, err := loadPrompts(dir)
			if err != nil {
				return err
			}
			out := fields{cmd.OutOrStdout()}
			for _, p := range folder.Prompts() {
				what := "plain text"
				if p.Schema != nil {
					all, _ := p.Schema.Names()
					what = strings.Join(all, ", ")
				}
				out.print("prompt", "%s, version %s: %s", p.File, p.Version, what)
			}
			for _, m := range folder.Messages() {
				out.print("messages", "%s", m.File)
			}
			return nil
		},
	}
}

// loadPrompts is config.LoadPrompts for a folder that the user names.
func loadPrompts(dir string) (*prompt.Folder, error) {
	if dir != "" {
		if _, err := os.Stat(dir); err != nil {
			return nil, usageError(err)
		}
	}
	return config.LoadPrompts(dir)
}

func newPromptsShow() *cobra.Command {
	var task, lang, question string
	cmd := &cobra.Command{
		Use:   "show [DIR]",
		Short: "Print what is sent to the model",
		Long: `Prints the request that a job makes, as JSON, with a place where the picture is; by
default of the folder that is built in. The model is that of the prompt, if it names
one. A server that does not take the schema is sent it in the prompt instead.`,
		Example: `  onceover prompts show prompts/ --lang en
  onceover prompts show --task feedback --question "Where does the lid go?"`,
		Args: cobra.MaximumNArgs(1),
	}
	f := cmd.Flags()
	f.StringVar(&task, "task", prompt.Analysis, "`task` of the model: "+prompt.Analysis+" or "+prompt.Feedback)
	f.StringVar(&lang, "lang", config.DefaultLang, "`language` of the job")
	f.StringVar(&question, "question", "Where does this go?", "`question` of a feedback")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		dir := ""
		if len(args) > 0 {
			dir = args[0]
		}
		if err := vision.CheckLang(lang); err != nil {
			return usageError(fmt.Errorf("--lang: %w", err))
		}
		folder, err := loadPrompts(dir)
		if err != nil {
			return err
		}
		p := folder.Find(task, lang)
		if p == nil {
			return usageError(fmt.Errorf("there is no prompt for task %s: expected --task %s or %s, and a file for it", plainLine(task, 40), prompt.Analysis, prompt.Feedback))
		}
		raw, err := vision.Request(p, prompt.Values{Lang: lang, Question: question, Analysis: json.RawMessage(`{}`)})
		if err != nil {
			return err
		}
		var out bytes.Buffer
		if err := json.Indent(&out, raw, "", "  "); err != nil {
			return err
		}
		_, err = fmt.Fprintln(cmd.OutOrStdout(), out.String())
		return err
	}
	return cmd
}

func newPromptsInit() *cobra.Command {
	return &cobra.Command{
		Use:   "init DIR",
		Short: "Write a folder of prompts to start from",
		Long: `Writes the prompts, schemas and messages that are built in to a folder that does not
exist yet or is empty. As long as they are not changed the workers use the same cached
answers with the folder as without.`,
		Example: `  onceover prompts init prompts/ && onceover prompts check prompts/`,
		Args:    exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir := args[0]
			if there, err := os.ReadDir(dir); err == nil && len(there) > 0 {
				return usageError(fmt.Errorf("%s is not empty: expected a folder to be made", dir))
			} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return usageError(err)
			}
			if err := os.CopyFS(dir, prompt.Default()); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "wrote %s\nnext: change them, onceover prompts check %s, and start the workers with --prompts %s\n",
				filepath.Join(dir, "*"), dir, dir)
			return nil
		},
	}
}
