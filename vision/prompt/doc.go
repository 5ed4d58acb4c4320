// Package prompt reads what a model is asked from a folder: prompts, the schemas of their answers, and the messages
// that people see while a job goes on.
//
// Start with [Load]. A folder holds, in the layout of dotprompt (https://google.github.io/dotprompt):
//
//	analysis.prompt       the question about a picture; analysis.ko.prompt is its variant for jobs in Korean
//	feedback.prompt       the answer to a person's question about an analysed picture; may be left out
//	messages.ko.yaml      the text of each stage of a job, in Korean
//
// A prompt is YAML between two lines of three dashes, and a body:
//
//	---
//	output:
//	  schema: {type: object, properties: {merchant: {type: string}}, required: [merchant]}
//	---
//	{{role "system"}}Read the receipt. Write in the language "{{lang}}".
//	{{role "user"}}{{media url=picture}}
//
// What it promises: the value of a variable is never read as a template, so that no picture, answer or question can
// add a message of another role. Every fault of a folder is reported at once, each with its place. An answer that
// [Schema.Fit] returns satisfies the whole schema, whatever the model's server claims to enforce.
//
// What it leaves out of dotprompt: blocks, partials and Picoschema, each of which is refused by name.
package prompt
